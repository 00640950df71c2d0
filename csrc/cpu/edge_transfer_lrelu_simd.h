// The arithmetic of edge_transfer_lrelu on contiguous runs, one copy per instruction set.
#pragma once

#include <cstdint>

#include "../common/types.h"

// The gradients may be null, as edge_transfer_lrelu.h says, which has the formulas.
#define ECGAN_DECLARE_EDGE_TRANSFER_LRELU(isa)                                                     \
  namespace ecgan::isa {                                                                           \
  void edge_transfer_lrelu_run(const void* image, const void* edge, void* image_out,               \
                               void* edge_out, int64_t n, DType dtype, double negative_slope);     \
  void edge_transfer_lrelu_backward_run(const void* grad_image_out, const void* grad_edge_out,     \
                                        const void* image_out, const void* edge_out,               \
                                        void* grad_image, void* grad_edge, int64_t n, DType dtype, \
                                        double negative_slope);                                    \
  }

ECGAN_DECLARE_EDGE_TRANSFER_LRELU(baseline)
ECGAN_DECLARE_EDGE_TRANSFER_LRELU(avx2)
ECGAN_DECLARE_EDGE_TRANSFER_LRELU(avx512)
