// CUDA kernels of pixel_contrast, on raw device pointers and a stream: no torch header.
#pragma once

#include <cstdint>

#include "../common/types.h"

namespace ecgan::cuda {

// A set of embeddings: [count, dim] by strides, and their labels.
struct EmbeddingSet {
  const void* data;
  int64_t row_stride, column_stride;  // in elements
  DType dtype;
  const int64_t* labels;  // [count]
  int64_t count;
};

struct PixelContrast {
  EmbeddingSet anchors;
  EmbeddingSet contrast;  // for same_set: not looked at
  int64_t dim;
  bool same_set;  // the anchors are the contrast set, self pairs left out
  float temperature;
  int64_t ignore_index;
};

// What the forward pass leaves of each anchor, [count of anchors] each, for the backward pass.
struct ContrastStatistics {
  int64_t* positives;  // |P_i|
  float* negatives;    // log sum_n e^{s_in}, -inf without negatives
  float* pull;         // (1 / |P_i|) sum_p q_ip, q_ip = 1 / (1 + e^{s_ip - negatives_i}); or null:
                       // not wanted, when there will be no backward pass
};

// Bytes of scratch memory, linear in the numbers of embeddings.
int64_t pixel_contrast_workspace(const PixelContrast& call);
int64_t pixel_contrast_backward_workspace(const PixelContrast& call);

// With s_ij = <z_i, c_j> / temperature:
//   loss_i = (1 / |P_i|) sum_p -log(e^{s_ip} / (e^{s_ip} + sum_n e^{s_in})), 0 for |P_i| = 0
// Embeddings are taken as they are, not normalised. Deterministic. Asynchronous on `stream`, a
// cudaStream_t of the current device (sm_70 or later). Throws std::invalid_argument for f64 and
// std::runtime_error when a launch fails.
void pixel_contrast(const PixelContrast& call,
                    float* loss,  // [count of anchors]
                    const ContrastStatistics& statistics,
                    void* workspace,  // 256-byte aligned
                    void* stream);

// With a_i = grad_i / |P_i| and b_i = grad_i pull_i, the gradient of s is
//   g_ip = -a_i q_ip of a positive,  g_in = b_i e^{s_in - negatives_i} of a negative
// and grad_anchors_i = (1 / temperature) sum_j g_ij c_j, grad_contrast_j likewise over anchors; for
// same_set, both together. A null output is not wanted. Otherwise as pixel_contrast.
void pixel_contrast_backward(const PixelContrast& call,
                             const float* grad,  // [count of anchors]
                             const ContrastStatistics& statistics,
                             float* grad_anchors,   // [count of anchors, dim] or null
                             float* grad_contrast,  // [count of contrast, dim]; null for same_set
                             void* workspace,       // 256-byte aligned
                             void* stream);

}  // namespace ecgan::cuda
