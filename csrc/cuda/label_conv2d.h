// CUDA kernels of label_conv2d, on raw device pointers and a stream: no torch header.
#pragma once

#include <cstdint>

#include "../common/types.h"

namespace ecgan::cuda {

struct LabelConv2d {
  int64_t batch, height, width;  // of the label map
  int64_t outputs;               // O
  int64_t columns;               // of the weight: classes, and one more with edges
  int64_t kernel_height, kernel_width, stride_height, stride_width;
  int64_t padding_height, padding_width;
  int64_t out_height, out_width;
  int64_t ignore_index;
  int label_bytes;  // 1: uint8, 2: int16, 4: int32, 8: int64
  DType dtype;      // of weight, bias, y and its gradient
};

// Bytes of scratch memory of either pass, to be 256-byte aligned: linear in the pixels and, for the
// backward pass, at most a quarter of the gradient or a few times the weight.
int64_t label_conv2d_workspace(const LabelConv2d& call, bool edges, bool backward);

// With the pixel's code c(q), its label and edge bit, and its count s(q):
//   y_o(p) = bias_o + sum_t s(p + t) T_o,c(p + t),t
// where T is the weight's column of the label, if that is in range and not ignore_index, plus the
// last column where the bit is set. y is contiguous. Asynchronous on `stream`, a cudaStream_t of
// the current device (sm_70 or later). Throws std::invalid_argument for f64 and std::runtime_error
// when a launch fails.
void label_conv2d(const LabelConv2d& call,
                  const void* labels,           // [batch, height, width]
                  const void* edges,            // as labels, a byte each, or null
                  const float* scale,           // as labels, or null: 1 everywhere
                  const void* weight,           // [O, columns, kernel height, width], strides:
                  const int64_t (&strides)[4],  //
                  const void* bias,             // [O], or null
                  void* y,                      // [batch, O, out height, out width]
                  void* workspace, void* stream);

//   dT_o,c,t = sum_p g_o(p) s(p + t) [c(p + t) = c],   dbias_o = sum_p g_o(p)
// Deterministic: sums of parts of the outputs, then those of the parts in their order.
void label_conv2d_backward(const LabelConv2d& call,
                           const void* grad,  // [batch, O, outputs] by strides
                           const int64_t (&strides)[3],
                           const void* labels,  // as above
                           const void* edges,   //
                           const float* scale,  //
                           void* grad_weight,   // [O, columns, kernel height, width], or null
                           void* grad_bias,     // [O], or null
                           void* workspace, void* stream);

}  // namespace ecgan::cuda
