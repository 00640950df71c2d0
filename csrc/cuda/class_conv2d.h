// CUDA kernels of class_conv2d, on raw device pointers and a stream: no torch header.
#pragma once

#include <cstdint>

#include "../common/types.h"

namespace ecgan::cuda {

struct ClassConv2d {
  int64_t batch, channels, outputs, height, width;
  DType dtype;            // of x, y and their gradients; not f64
  const int64_t* labels;  // [batch, height, width], contiguous
  float slope;            // a(x) = x > 0 ? x : slope x is convolved
};

// A tensor [batch, channels or outputs, height, width]; strides in elements.
struct ConvImages {
  const void* data;
  int64_t stride[4];
};

// All are asynchronous on `stream`, a cudaStream_t of the current device, and throw
// std::invalid_argument for f64 and std::runtime_error when a launch fails. Sums are of float32 and
// in an order that depends on the sizes alone.

// y(p) = bias + sum_t W_t a(x(p + t)) [labels(p + t) == labels(p)], t in {-1, 0, 1}^2.
void class_conv2d(const ClassConv2d& call, const ConvImages& x,
                  const float* weight,  // [outputs, channels, 3, 3], contiguous
                  const float* bias,    // [outputs], or null
                  void* y,              // [batch, outputs, height, width], contiguous
                  void* workspace,      // class_conv2d_workspace(call), aligned to 16 bytes
                  void* stream);

// grad_x(q) = a'(x(q)) sum_t W_t^T grad(q - t) [labels(q - t) == labels(q)].
void class_conv2d_backward_x(const ClassConv2d& call, const ConvImages& grad, const ConvImages& x,
                             const float* weight,  // [outputs, channels, 3, 3], contiguous
                             void* grad_x,         // [batch, channels, height, width], contiguous
                             void* workspace, void* stream);
int64_t class_conv2d_workspace(const ClassConv2d& call);

// grad_weight_t = sum_p grad(p) a(x(p + t))^T [labels(p + t) == labels(p)], grad_bias = sum_p
// grad(p).
void class_conv2d_backward_weight(const ClassConv2d& call, const ConvImages& grad,
                                  const ConvImages& x,
                                  float* grad_weight,  // [outputs, channels, 3, 3]
                                  float* grad_bias,    // [outputs]
                                  void* workspace,     // class_conv2d_weight_workspace(call)
                                  void* stream);
int64_t class_conv2d_weight_workspace(const ClassConv2d& call);

}  // namespace ecgan::cuda
