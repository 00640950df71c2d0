#include "similarity_bce_simd.h"

#include "pairwise_engine.h"

namespace ecgan::ECGAN_ISA {
namespace {

using cpu::SimilarityTile;

// 1 where the class of column j .. is that of the row, -1 elsewhere.
template <class V>
ECGAN_SIMD V sign_of(const int32_t* classes, int32_t row_class) {
  return select(load_classes(classes, V{}) == row_class, V{} + 1, V{} - 1);
}

// From p to g, in place if the gradient is wanted. Filled places hold p = 0 and count as
// of another class: x = 1 there, whose logarithm is 0.
template <class E, bool kMixed, bool kGradient>
double agreement(const SimilarityTile& t, Tile<E>* tile) {
  using V = typename ComputeType<E>::type;
  constexpr int64_t kStep = ComputeType<E>::lanes;
  constexpr E kSmallest = sizeof(E) == 4 ? E(0x1p-126) : E(0x1p-1022);  // LogSum takes no less
  const V eps = broadcast<V>(t.eps > kSmallest ? static_cast<E>(t.eps) : kSmallest);
  const V sign_of_all = broadcast<V>(t.kind == TileKind::same ? E(1) : E(-1));
  const V half = broadcast<V>(E(0.5));
  LogSum<V> log;
  for (int64_t i = 0; i < kTile; ++i) {
    E* row = tile->at[i];
    for (int64_t j = 0; j < kTile; j += kStep) {
      V sign = sign_of_all;
      if constexpr (kMixed) {
        if (i < t.members_i) sign = sign_of<V>(t.classes_j + j, t.classes_i[i]);
      }
      const V p = load(row + j);
      const V x = maximum(eps, (1 - sign) * half + p * sign);  // exact, since sign is 1 or -1
      log.add(x);
      if constexpr (kGradient) store(row + j, reciprocal(x) * sign);
    }
    log.fold(kTile / kStep);
  }
  return log.total();
}

template <class E>
double run(const SimilarityTile& t) {
  Tile<E> tile;
  const bool mixed = t.kind == TileKind::mixed;
  gram(static_cast<const E*>(t.panel_i), static_cast<const E*>(t.panel_j), t.depth, &tile);
  if (!t.sums_i) {
    return mixed ? agreement<E, true, false>(t, &tile) : agreement<E, false, false>(t, &tile);
  }
  const double sum =
      mixed ? agreement<E, true, true>(t, &tile) : agreement<E, false, true>(t, &tile);
  const E* g = tile.at[0];
  add_product(g, kTile, 1, static_cast<const E*>(t.rows_j), t.width, static_cast<E*>(t.sums_i));
  if (t.sums_j) {
    add_product(g, 1, kTile, static_cast<const E*>(t.rows_i), t.width, static_cast<E*>(t.sums_j));
  }
  return sum;
}

}  // namespace

double similarity_bce_tile(const SimilarityTile& tile, bool use_double) {
  return use_double ? run<double>(tile) : run<float>(tile);
}

}  // namespace ecgan::ECGAN_ISA
