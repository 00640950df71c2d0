// The arithmetic of edge_transfer on contiguous runs, one copy per instruction set.
#pragma once

#include <cstdint>

#include "../common/types.h"

// grad_image and grad_edge may be null; see edge_transfer.h for the formulas.
#define ECGAN_DECLARE_EDGE_TRANSFER(isa)                                                         \
  namespace ecgan::isa {                                                                         \
  void edge_transfer_run(const void* image, const void* edge, void* out, int64_t n, DType dtype, \
                         Activation activation);                                                 \
  void edge_transfer_backward_run(const void* grad, const void* image, const void* edge,         \
                                  void* grad_image, void* grad_edge, int64_t n, DType dtype,     \
                                  Activation activation);                                        \
  }

ECGAN_DECLARE_EDGE_TRANSFER(baseline)
ECGAN_DECLARE_EDGE_TRANSFER(avx2)
ECGAN_DECLARE_EDGE_TRANSFER(avx512)
