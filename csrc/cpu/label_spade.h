// SPADE's modulation by lookup, on the CPU: y = lrelu(n (1 + gamma[u]) + beta[u]) with
// n = (x - mean) / sqrt(var + eps) and u the pixel's distinct neighbourhood.
#pragma once

#include <cstdint>
#include <functional>

#include "../common/types.h"

namespace ecgan::cpu {

struct LabelSpade {
  int64_t batch, channels, pixels, patches;
  const int32_t* inverse;   // [batch, pixels]
  const int32_t* segments;  // [count, 2]: see label_segments
  const int64_t* offsets;   // [batch + 1]
  const void* table;        // [2 channels, patches], float or, with f64, double: gamma, then beta
  DType dtype;              // of x, y and their gradients
  SpadeNorm norm;
  double eps, slope;  // slope 1: no LeakyReLU
};

// Runs task(0) ... task(count - 1), possibly at once.
using RunTasks = std::function<void(int64_t count, const std::function<void(int64_t)>& task)>;

// Planes of x and y have `pixels` values in a row; strides count values. mean and var (biased) are
// one each per channel and, for SpadeNorm::instance, per image: computed, unless norm is `fixed`.
void label_spade_statistics(const LabelSpade& op,
                            const void* x,  // [batch, channels, pixels]
                            int64_t batch_stride, int64_t channel_stride, double* mean, double* var,
                            const RunTasks& run);
void label_spade(const LabelSpade& op,
                 const void* x,  // [batch, channels, pixels]
                 int64_t batch_stride, int64_t channel_stride,
                 void* y,  // [batch, channels, pixels], contiguous
                 double* mean, double* var, const RunTasks& run);

// With d the gradient that reaches n, M the values that share a mean, and s = 1 / sqrt(var + eps):
//   dx = s (d - sum d / M - n sum (d n) / M), for `fixed` dx = s d
//   dtable = sum of dy * (1 or slope) * (n, 1) over each patch's pixels, images in order
// Either may be null. `shared` is the sums (d, d n) / M [channels, 2] of `shared` statistics: with
// grad_x they are read, without they are written, undivided.
void label_spade_backward(const LabelSpade& op,
                          const void* grad,  // [batch, channels, pixels]
                          int64_t grad_batch_stride, int64_t grad_channel_stride,
                          const void* x,  // [batch, channels, pixels]
                          int64_t batch_stride, int64_t channel_stride,  //
                          const double* mean, const double* var,
                          void* grad_x,      // [batch, channels, pixels], contiguous, or null
                          void* grad_table,  // as table, or null
                          double* shared, const RunTasks& run);

}  // namespace ecgan::cpu
