// CUDA kernels of similarity_bce, on raw device pointers and a stream: no torch header.
#pragma once

#include <cstdint>

#include "../common/types.h"

namespace ecgan::cuda {

struct SimilarityBce {
  int64_t images, classes, pixels;
  int64_t image_stride, class_stride, pixel_stride;  // of probs, in elements
  DType dtype;                                       // of probs
  int64_t ignore_index;
  float eps;
  bool exact;      // products of float32 grade; else of halves
  bool need_grad;  // else only half of the pairs is looked at
};

// Bytes of scratch memory that similarity_bce needs: linear in pixels.
int64_t similarity_bce_workspace(const SimilarityBce& call);

// With p_ij = <s_i, s_j> of the V pixels of an image whose label is in [0, classes) and not
// ignore_index, x_ij = p_ij where labels agree and 1 - p_ij elsewhere:
//   loss = -(1 / V^2) sum_ij log max(x_ij, eps), 0 for V = 0;  valid = V
//   grad_i = (2 / V^2) sum_j -+ s_j / max(x_ij, eps), minus where labels agree; 0 at other pixels
// Deterministic. Asynchronous on `stream`, a cudaStream_t of the current device (sm_70 or later).
// Throws std::invalid_argument for f64 and std::runtime_error when a launch fails.
void similarity_bce(const SimilarityBce& call,
                    const void* probs,      // [images, classes, pixels] by strides
                    const int64_t* labels,  // [images, pixels]
                    float* loss,            // [images]
                    int64_t* valid,         // [images]
                    float* grad,            // [images, classes, pixels], or null without need_grad
                    void* workspace,        // of similarity_bce_workspace bytes, 256-byte aligned
                    void* stream);

}  // namespace ecgan::cuda
