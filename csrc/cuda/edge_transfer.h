// CUDA kernels of edge_transfer, on raw device pointers and a stream: no torch header.
#pragma once

#include "../common/strided.h"
#include "../common/types.h"

namespace ecgan::cuda {

// out = image * (1 + sigmoid(edge)), or tanh(image) * (1 + sigmoid(tanh(edge))).
// Takes a coalesced layout; computes in float and rounds once. Asynchronous on `stream`, a
// cudaStream_t of the current device. Throws std::invalid_argument for f64 and
// std::runtime_error when the launch fails.
void edge_transfer(const void* image,         // the layout's shape, strides 0
                   const void* edge,          // the layout's shape, strides 1
                   void* out,                 // the layout's shape, strides 2
                   const Strided<3>& layout,  //
                   DType dtype,               // of all three
                   Activation activation, void* stream);

// With a = activation, s = sigmoid(a(edge)):
//   grad_image = grad * (1 + s) * a'(image)
//   grad_edge  = grad * a(image) * s * (1 - s) * a'(edge)
// A null output is not wanted. Otherwise as edge_transfer.
void edge_transfer_backward(const void* grad,   // the layout's shape, strides 0
                            const void* image,  // the layout's shape, strides 1
                            const void* edge,   // the layout's shape, strides 2
                            void* grad_image,   // the layout's shape, strides 3, or null
                            void* grad_edge,    // the layout's shape, strides 4, or null
                            const Strided<5>& layout,
                            DType dtype,  // of all five
                            Activation activation, void* stream);

}  // namespace ecgan::cuda
