// The arithmetic of label_spade on planes, one copy per instruction set.
#pragma once

#include <cstdint>

#include "../common/types.h"

namespace ecgan {

// One image's plane of one channel, and how it is modulated. Table columns, moments and sums are
// double for DType::f64, else float; n = (x - mean) rstd, scale = 1 + gamma.
struct SpadePlane {
  const int32_t* inverse;   // [pixels]: each pixel's column of the table
  const int32_t* segments;  // [count, 2]: see label_segments
  int64_t count;
  int64_t pixels;
  const void* gamma;  // [patches]
  const void* beta;   // [patches]
  double mean, rstd;
  double slope;  // of the LeakyReLU; 1: there is none
  DType dtype;   // of x, y and their gradients
};

}  // namespace ecgan

#define ECGAN_DECLARE_LABEL_SPADE(isa)                                                           \
  namespace ecgan::isa {                                                                         \
  /* Joins the plane's pixels to a count, a mean and a sum of squared deviations. */             \
  void spade_moments(const void* x, int64_t pixels, DType dtype, double* count, double* mean,    \
                     double* squares);                                                           \
  void spade_plane(const SpadePlane& plane, const void* x, void* y);                             \
  /* sums[0] += sum d, sums[1] += sum d n, where d is the gradient of n; likewise per patch. */  \
  void spade_sums(const SpadePlane& plane, const void* grad, const void* x, double* sums,        \
                  double* grad_gamma, double* grad_beta);                                        \
  /* dx = rstd (d - sums[0] - n sums[1]) */                                                      \
  void spade_input(const SpadePlane& plane, const void* grad, const void* x, const double* sums, \
                   void* grad_x);                                                                \
  }

ECGAN_DECLARE_LABEL_SPADE(baseline)
ECGAN_DECLARE_LABEL_SPADE(avx2)
ECGAN_DECLARE_LABEL_SPADE(avx512)
