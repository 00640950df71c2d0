// The three passes of pixel_contrast over one tile of pairs, one copy per instruction set.
#pragma once

#include "pairwise_simd.h"

namespace ecgan::cpu {

// Pointers to void are to float or, for float64 tensors, to double. s_ij = scale <z_i, z_j>.
struct ContrastTile {
  const void *panel_i, *panel_j;         // [depth, kTile]
  int64_t depth;                         //
  double scale;                          // 1 / temperature
  const int32_t *classes_i, *classes_j;  // [kTile], -1 in filled places
  int64_t members_i;                     //
  TileKind kind;                         //
  bool same_tile;                        // of one set: i == j is no pair
};

// A sum of exponentials, e^maximum * sum, of each vector of a tile.
struct ContrastSum {
  void* maximum;  // [kTile], at least -1e30
  double* sum;    // [kTile]
};

// With L_i = sum_p log(1 + e^(n_i - s_ip)) over the positives, each anchor's gradient by s_ij is
//   pull_i e^(s_ij - n_i) for a negative, push_i / (1 + e^(s_ij - n_i)) for a positive.
struct ContrastWeights {
  const void* lse;   // [kTile] n_i, log-sum-exp of the negatives; -inf without any
  const void* pull;  // [kTile]
  const void* push;  // [kTile]
};

}  // namespace ecgan::cpu

// Each computes s_ij of the tile, and then
// pixel_contrast_negatives: adds the negatives j to i's sum and, where column.sum is not null, the
//     negatives i to j's.
// pixel_contrast_positives: adds sum_p log(1 + e^(n_i - s_ip)) to loss and, where share is not
// null,
//     sum_p 1 / (1 + e^(s_ip - n_i)) to share, [kTile] each.
// pixel_contrast_gradient: with g_ij the gradient of row anchors and, where column.lse is not null,
//     of column anchors too, adds sum_j g_ij z_j to sums_i and sum_i g_ij z_i to sums_j, [kTile,
//     width], either of which may be null. 1 / temperature is not in it.
#define ECGAN_DECLARE_PIXEL_CONTRAST(isa)                                                       \
  namespace ecgan::isa {                                                                        \
  void pixel_contrast_negatives(const ::ecgan::cpu::ContrastTile& tile,                         \
                                const ::ecgan::cpu::ContrastSum& row,                           \
                                const ::ecgan::cpu::ContrastSum& column, bool use_double);      \
  void pixel_contrast_positives(const ::ecgan::cpu::ContrastTile& tile, const void* lse,        \
                                double* loss, double* share, bool use_double);                  \
  void pixel_contrast_gradient(const ::ecgan::cpu::ContrastTile& tile,                          \
                               const ::ecgan::cpu::ContrastWeights& row,                        \
                               const ::ecgan::cpu::ContrastWeights& column, const void* rows_i, \
                               const void* rows_j, int64_t width, void* sums_i, void* sums_j,   \
                               bool use_double);                                                \
  }

ECGAN_DECLARE_PIXEL_CONTRAST(baseline)
ECGAN_DECLARE_PIXEL_CONTRAST(avx2)
ECGAN_DECLARE_PIXEL_CONTRAST(avx512)
