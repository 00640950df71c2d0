// One tile of pairs of similarity_bce, one copy per instruction set.
#pragma once

#include "pairwise_simd.h"

namespace ecgan::cpu {

// Pointers are to float or, for float64 tensors, to double.
struct SimilarityTile {
  const void *panel_i, *panel_j;         // [depth, kTile]
  int64_t depth;                         //
  const int32_t *classes_i, *classes_j;  // [kTile]
  int64_t members_i;                     //
  TileKind kind;                         //
  double eps;                            //
  // With null sums the gradient is not wanted.
  const void *rows_i, *rows_j;  // [kTile, width]
  void *sums_i, *sums_j;        // [kTile, width]; sums_j is null for a tile with itself
  int64_t width;
};

}  // namespace ecgan::cpu

// With sign 1 where classes agree and -1 elsewhere, x = p or 1 - p: returns sum_ij log max(x, eps),
// and adds sum_j g_ij s_j to sums_i and sum_i g_ij s_i to sums_j, g = sign / max(x, eps).
#define ECGAN_DECLARE_SIMILARITY_BCE(isa)                                                \
  namespace ecgan::isa {                                                                 \
  double similarity_bce_tile(const ::ecgan::cpu::SimilarityTile& tile, bool use_double); \
  }

ECGAN_DECLARE_SIMILARITY_BCE(baseline)
ECGAN_DECLARE_SIMILARITY_BCE(avx2)
ECGAN_DECLARE_SIMILARITY_BCE(avx512)
