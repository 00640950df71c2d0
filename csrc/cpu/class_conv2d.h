// CPU kernels of class_conv2d, on raw pointers: no torch header.
#pragma once

#include <cstdint>

#include "../common/types.h"
#include "pairwise.h"  // Parallel

namespace ecgan::cpu {

// Pointers without a dtype are to float or, for float64, to double.
struct ClassConv2d {
  int64_t batch, channels, outputs, height, width;
  DType dtype;            // of x, y and their gradients
  const int64_t* labels;  // [batch, height, width], contiguous
  double slope;           // a(x) = x > 0 ? x : slope x is convolved
};

// A tensor [batch, channels or outputs, height, width]; strides in elements.
struct ConvImages {
  const void* data;
  int64_t stride[4];
};

// y(p) = bias + sum_t W_t a(x(p + t)) [labels(p + t) == labels(p)], t in {-1, 0, 1}^2.
void class_conv2d(const ClassConv2d& call, const ConvImages& x,
                  const void* weight,  // [outputs, channels, 3, 3], contiguous
                  const void* bias,    // [outputs], or null
                  void* y,             // [batch, outputs, height, width], contiguous
                  const Parallel& parallel);

// grad_x(q) = a'(x(q)) sum_t W_t^T grad(q - t) [labels(q - t) == labels(q)].
void class_conv2d_backward_x(const ClassConv2d& call, const ConvImages& grad, const ConvImages& x,
                             const void* weight,  // [outputs, channels, 3, 3], contiguous
                             void* grad_x,        // [batch, channels, height, width], contiguous
                             const Parallel& parallel);

// grad_weight_t = sum_p grad(p) a(x(p + t))^T [labels(p + t) == labels(p)], grad_bias = sum_p
// grad(p); null: not wanted. Summed up in parts that do not depend on the number of threads.
void class_conv2d_backward_weight(const ClassConv2d& call, const ConvImages& grad,
                                  const ConvImages& x,
                                  void* partials,     // class_conv2d_partials_bytes(call)
                                  void* grad_weight,  // [outputs, channels, 3, 3] or null
                                  void* grad_bias,    // [outputs] or null
                                  const Parallel& parallel);
int64_t class_conv2d_partials_bytes(const ClassConv2d& call);

}  // namespace ecgan::cpu
