// CUDA kernels of label_spade, on raw device pointers and a stream: no torch header.
#pragma once

#include <cstdint>

#include "../common/types.h"

namespace ecgan::cuda {

// One call. A plane is one channel of one image: `pixels` values in a row; strides count values.
// mean and var (biased) are one each per channel and, for SpadeNorm::instance, per image.
struct LabelSpade {
  int64_t batch, channels, pixels, patches;
  const int32_t* inverse;  // [batch, pixels]: each pixel's column of the table
  const int32_t* order;    // [batch * pixels]: pixels of the batch sorted by that
  const int32_t* starts;   // [patches + 1]: where each patch's pixels begin in it
  const float* table;      // [2 channels, patches]: gamma, then beta
  DType dtype;             // of x, y and their gradients
  SpadeNorm norm;
  double eps;
  float slope;  // of the LeakyReLU; 1: there is none
};

// Bytes of scratch memory that each function below needs: at most an eighth of a float32 x.
int64_t label_spade_workspace(const LabelSpade& op);

// All are deterministic and asynchronous on `stream`, a cudaStream_t of the current device (sm_70
// or later). They throw std::invalid_argument for f64 and std::runtime_error when a launch fails.

// Moments of each channel or, for SpadeNorm::instance, of each image's channel.
void label_spade_statistics(const LabelSpade& op,
                            const void* x,  // [batch, channels, pixels]
                            int64_t batch_stride, int64_t channel_stride, double* mean, double* var,
                            void* workspace, void* stream);

// y = lrelu(n (1 + gamma[u]) + beta[u]), n = (x - mean) / sqrt(var + eps)
void label_spade(const LabelSpade& op,
                 const void* x,  // [batch, channels, pixels]
                 int64_t batch_stride, int64_t channel_stride,
                 void* y,  // [batch, channels, pixels], contiguous
                 const double* mean, const double* var, void* stream);

// sums[0] = sum d / M, sums[1] = sum d n / M over the M values that share a mean, where d is the
// gradient that reaches n; undivided for SpadeNorm::shared.
void label_spade_sums(const LabelSpade& op,
                      const void* grad,  // [batch, channels, pixels]
                      int64_t grad_batch_stride, int64_t grad_channel_stride,
                      const void* x,  // [batch, channels, pixels]
                      int64_t batch_stride, int64_t channel_stride, const double* mean,
                      const double* var,
                      double* sums,  // [1 or batch, channels, 2]
                      void* workspace, void* stream);

// dx = (d - sums[0] - n sums[1]) / sqrt(var + eps); sums may be null for zeros.
void label_spade_input(const LabelSpade& op,
                       const void* grad,  // [batch, channels, pixels]
                       int64_t grad_batch_stride, int64_t grad_channel_stride,
                       const void* x,  // [batch, channels, pixels]
                       int64_t batch_stride, int64_t channel_stride, const double* mean,
                       const double* var,
                       const double* sums,  // [1 or batch, channels, 2] or null
                       void* grad_x,        // [batch, channels, pixels], contiguous
                       void* stream);

// dtable = sum of dy * (1 or slope) * (n, 1) over each patch's pixels
void label_spade_table(const LabelSpade& op,
                       const void* grad,  // [batch, channels, pixels]
                       int64_t grad_batch_stride, int64_t grad_channel_stride,
                       const void* x,  // [batch, channels, pixels]
                       int64_t batch_stride, int64_t channel_stride, const double* mean,
                       const double* var,
                       float* grad_table,  // as table
                       void* workspace, void* stream);

}  // namespace ecgan::cuda
