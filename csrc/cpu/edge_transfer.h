// CPU kernels of edge_transfer, on raw pointers: no torch header.
#pragma once

#include <cstdint>

#include "../common/strided.h"
#include "../common/types.h"

namespace ecgan::cpu {

// out = image * (1 + sigmoid(edge)), or tanh(image) * (1 + sigmoid(tanh(edge))).
// Works on elements [begin, end) of the coalesced layout, so that callers may thread over ranges.
void edge_transfer(const void* image,         // the layout's shape, strides 0
                   const void* edge,          // the layout's shape, strides 1
                   void* out,                 // the layout's shape, strides 2
                   const Strided<3>& layout,  //
                   DType dtype,               // of all three
                   Activation activation, int64_t begin, int64_t end);

// With a = activation, s = sigmoid(a(edge)):
//   grad_image = grad * (1 + s) * a'(image)
//   grad_edge  = grad * a(image) * s * (1 - s) * a'(edge)
// A null output is not wanted; its strides in the layout repeat the other's.
void edge_transfer_backward(const void* grad,   // the layout's shape, strides 0
                            const void* image,  // the layout's shape, strides 1
                            const void* edge,   // the layout's shape, strides 2
                            void* grad_image,   // the layout's shape, strides 3, or null
                            void* grad_edge,    // the layout's shape, strides 4, or null
                            const Strided<5>& layout,
                            DType dtype,  // of all five
                            Activation activation, int64_t begin, int64_t end);

}  // namespace ecgan::cpu
