// The two products over a tile of pairs that both pairwise losses spend their time in. For their
// *_simd.cpp files alone, which put an elementwise stage between them:
//   tile = A^T B of two panels, the stage on the tile in place, sums += tile * rows.
#pragma once

#include <cstdint>

#include "../common/simd.h"
#include "pairwise_simd.h"

namespace ecgan::ECGAN_ISA {
namespace {

using cpu::kTile;
using cpu::TileKind;

template <class E>
struct Tile {
  alignas(64) E at[kTile][kTile];
};

template <class V, class E>
ECGAN_SIMD V broadcast(E x) {
  return x - V{};
}

// The classes of the vectors in the columns that one V of a tile's row covers.
ECGAN_SIMD Int load_classes(const int32_t* classes, Float) {
  return load_bits<Int>(classes);
}
ECGAN_SIMD int32_t load_classes(const int32_t* classes, double) {
  return *classes;
}

// 12 sums are held in registers, which leaves 4 of 16: enough to feed both multipliers, whose
// latency 8 to 10 independent sums cover.
constexpr int kGramRows = 4, kGramVectors = 3;

// tile[i][j] = sum_k a[k][i] b[k][j]
template <class E>
void gram(const E* a,     // [depth, kTile]
          const E* b,     // [depth, kTile]
          int64_t depth,  //
          Tile<E>* tile) {
  using V = typename ComputeType<E>::type;
  constexpr int kStep = ComputeType<E>::lanes;
  static_assert(kTile % kGramRows == 0 && kTile % (kGramVectors * kStep) == 0);
  for (int64_t j = 0; j < kTile; j += kGramVectors * kStep) {
    for (int64_t i = 0; i < kTile; i += kGramRows) {
      V sum[kGramRows][kGramVectors] = {};
      const E *left = a + i, *right = b + j;
      for (int64_t k = 0; k < depth; ++k, left += kTile, right += kTile) {
        V y[kGramVectors];
        for (int v = 0; v < kGramVectors; ++v) y[v] = load(right + v * kStep);
        for (int r = 0; r < kGramRows; ++r) {
          const V x = broadcast<V>(left[r]);
          for (int v = 0; v < kGramVectors; ++v) sum[r][v] += x * y[v];
        }
      }
      for (int r = 0; r < kGramRows; ++r) {
        for (int v = 0; v < kGramVectors; ++v) store(&tile->at[i + r][j + v * kStep], sum[r][v]);
      }
    }
  }
}

// Terms that are summed in registers before they meet the sums: rounding errors grow with the run,
// time with the number of runs.
constexpr int64_t kRun = kTile / 2;

// kVectors columns and kRun terms of add_product, 12 / kVectors rows at a time.
template <int kVectors, class E>
void add_product_columns(const E* g, int64_t row_stride, int64_t step, const E* x, int64_t width,
                         E* sums) {
  using V = typename ComputeType<E>::type;
  constexpr int kStep = ComputeType<E>::lanes;
  constexpr int kRows = 12 / kVectors;
  for (int64_t i = 0; i < kTile; i += kRows) {
    V sum[kRows][kVectors] = {};
    const E *left = g + i * row_stride, *right = x;
    for (int64_t t = 0; t < kRun; ++t, left += step, right += width) {
      V y[kVectors];
      for (int v = 0; v < kVectors; ++v) y[v] = load(right + v * kStep);
      for (int r = 0; r < kRows; ++r) {
        const V factor = broadcast<V>(left[r * row_stride]);
        for (int v = 0; v < kVectors; ++v) sum[r][v] += factor * y[v];
      }
    }
    // Added to the sums last: one large term there would swallow the small ones one by one.
    for (int r = 0; r < kRows; ++r) {
      E* to = sums + (i + r) * width;
      for (int v = 0; v < kVectors; ++v) store(to + v * kStep, load(to + v * kStep) + sum[r][v]);
    }
  }
}

// sums[i] += sum_t g[i][t] x[t], where g[i][t] is at g[i * row_stride + t * step]: a tile (kTile,
// 1) or its transpose (1, kTile).
template <class E>
void add_product(const E* g, int64_t row_stride, int64_t step,
                 const E* x,     // [kTile, width]
                 int64_t width,  // whole vectors
                 E* sums) {      // [kTile, width]
  constexpr int64_t kStep = ComputeType<E>::lanes;
  for (int64_t left = width / kStep; left > 0;) {  // 3 vectors at a time, but 2 and 2 for 4
    const int64_t n = left == 2 || left == 4 ? 2 : left == 1 ? 1 : 3;
    const auto columns = n == 3   ? add_product_columns<3, E>
                         : n == 2 ? add_product_columns<2, E>
                                  : add_product_columns<1, E>;
    for (int64_t t = 0; t < kTile; t += kRun) {
      columns(g + t * step, row_stride, step, x + t * width, width, sums);
    }
    x += n * kStep;
    sums += n * kStep;
    left -= n;
  }
}

}  // namespace
}  // namespace ecgan::ECGAN_ISA
