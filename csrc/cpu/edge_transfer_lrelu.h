// CPU kernels of edge_transfer_lrelu, on raw pointers: no torch header.
#pragma once

#include <cstdint>

#include "../common/strided.h"
#include "../common/types.h"

namespace ecgan::cpu {

// image_out = lrelu(image * (1 + sigmoid(edge))), edge_out = lrelu(edge), lrelu(x) = max(x, a x)
// with a = negative_slope, 0 < a <= 1.
// Works on elements [begin, end) of the coalesced layout, so that callers may thread over ranges.
void edge_transfer_lrelu(const void* image,         // the layout's shape, strides 0
                         const void* edge,          // the layout's shape, strides 1
                         void* image_out,           // the layout's shape, strides 2
                         void* edge_out,            // the layout's shape, strides 3
                         const Strided<4>& layout,  //
                         DType dtype,               // of all four
                         double negative_slope, int64_t begin, int64_t end);

// From the outputs alone: with l(y) = 1 where y > 0 and else a, e = edge_out / l(edge_out) and
// s = sigmoid(e),
//   grad_image = grad_image_out * l(image_out) * (1 + s)
//   grad_edge  = grad_image_out * image_out * s * (1 - s) / (1 + s) + grad_edge_out * l(edge_out)
// The slope of the transferred feature and that by which it is divided to get it back cancel in
// grad_edge. A null incoming gradient is zero and a null output is not wanted, grad_image never
// without grad_image_out; their strides in the layout repeat another tensor's.
void edge_transfer_lrelu_backward(const void* grad_image_out,  // the layout's shape, strides 0
                                  const void* grad_edge_out,   // the layout's shape, strides 1
                                  const void* image_out,       // the layout's shape, strides 2
                                  const void* edge_out,        // the layout's shape, strides 3
                                  void* grad_image,            // the layout's shape, strides 4
                                  void* grad_edge,             // the layout's shape, strides 5
                                  const Strided<6>& layout,
                                  DType dtype,  // of all six
                                  double negative_slope, int64_t begin, int64_t end);

}  // namespace ecgan::cpu
