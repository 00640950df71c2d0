#include "pixel_contrast_simd.h"

#include "pairwise_engine.h"

namespace ecgan::ECGAN_ISA {
namespace {

using cpu::ContrastSum;
using cpu::ContrastTile;
using cpu::ContrastWeights;

// A distance that e^x may bridge in float with 27 / ln(2) bits to spare below.
constexpr double kBridge = 60;

template <class E>
constexpr E kInfinity = static_cast<E>(__builtin_inf());

// Lanes 0, 1, ... of a vector.
ECGAN_SIMD Int lane_numbers(Float) {
  Int lanes;
  for (int i = 0; i < kLanes; ++i) lanes[i] = i;
  return lanes;
}
ECGAN_SIMD int32_t lane_numbers(double) {
  return 0;
}

// Which columns j .. are a positive and which a negative of row i.
template <class V>
struct Masks {
  decltype(V{} == V{}) positive, negative;

  ECGAN_SIMD Masks of(const ContrastTile& t, int64_t i, int64_t j) {
    const auto classes = load_classes(t.classes_j + j, V{});
    const int32_t row_class = t.classes_i[i];
    const auto number = lane_numbers(V{}) + static_cast<int32_t>(j);
    const int32_t self = t.same_tile ? static_cast<int32_t>(i) : -1;
    Masks masks;
    masks.positive = (classes == row_class) & (number != self);
    masks.negative = (classes != row_class) & (classes >= 0);
    return masks;
  }
};

template <class E>
void products(const ContrastTile& t, Tile<E>* tile) {
  gram(static_cast<const E*>(t.panel_i), static_cast<const E*>(t.panel_j), t.depth, tile);
}

// sum += e^shift * more with e^maximum kept apart; maximum becomes the larger of it and shift.
template <class E>
ECGAN_SIMD void add_scaled(E shift, double more, E* maximum, double* sum) {
  if (shift > *maximum) {
    *sum *= __builtin_exp(static_cast<double>(*maximum) - shift);
    *maximum = shift;
  }
  *sum += shift == *maximum ? more : more * __builtin_exp(static_cast<double>(shift) - *maximum);
}

// Adds the exponentials of a tile in which every element is a negative and s is in place, if one
// shift serves them all: one exponential an element, whose sums go to row and column.
template <class E>
bool add_with_one_shift(Tile<E>* tile, const ContrastSum& row, const ContrastSum& column) {
  using V = typename ComputeType<E>::type;
  constexpr int64_t kStep = ComputeType<E>::lanes;
  constexpr int64_t kVectors = kTile / kStep;
  V column_max[kVectors];
  for (V& x : column_max) x = broadcast<V>(-kInfinity<E>);
  V high = broadcast<V>(-kInfinity<E>), low = broadcast<V>(kInfinity<E>);
  for (int64_t i = 0; i < kTile; ++i) {
    V row_max = broadcast<V>(-kInfinity<E>);
    for (int64_t v = 0; v < kVectors; ++v) {
      const V s = load(&tile->at[i][v * kStep]);
      row_max = maximum(row_max, s);
      column_max[v] = maximum(column_max[v], s);
    }
    high = maximum(high, row_max);
    low = minimum(low, row_max);
  }
  for (const V& x : column_max) low = minimum(low, x);
  // Multiples of 32, so that the shift hardly ever changes from tile to tile.
  const E shift = static_cast<E>(32 * __builtin_ceil(largest(high) / 32));
  if (!(shift - smallest(low) <= kBridge)) return false;

  V column_sum[kVectors] = {};
  for (int64_t i = 0; i < kTile; ++i) {
    V row_sum = {};
    for (int64_t v = 0; v < kVectors; ++v) {
      const V e = exp_nonpositive(load(&tile->at[i][v * kStep]) - shift);
      row_sum += e;
      column_sum[v] += e;
    }
    add_scaled(shift, sum(row_sum), static_cast<E*>(row.maximum) + i, row.sum + i);
  }
  if (!column.sum) return true;
  E sums[kTile];
  for (int64_t v = 0; v < kVectors; ++v) store(sums + v * kStep, column_sum[v]);
  for (int64_t j = 0; j < kTile; ++j) {
    add_scaled(shift, sums[j], static_cast<E*>(column.maximum) + j, column.sum + j);
  }
  return true;
}

// The same for any tile, with a shift for each row and each column; pairs that do not count hold
// -inf.
template <class E>
void add_with_own_shifts(Tile<E>* tile, int64_t members_i, const ContrastSum& row,
                         const ContrastSum& column) {
  using V = typename ComputeType<E>::type;
  constexpr int64_t kStep = ComputeType<E>::lanes;
  for (int64_t i = 0; i < members_i; ++i) {
    V high = broadcast<V>(-kInfinity<E>), total = {};
    for (int64_t j = 0; j < kTile; j += kStep) high = maximum(high, load(&tile->at[i][j]));
    const E shift = largest(high);
    if (shift == -kInfinity<E>) continue;
    for (int64_t j = 0; j < kTile; j += kStep) {
      total += exp_nonpositive(load(&tile->at[i][j]) - shift);
    }
    add_scaled(shift, sum(total), static_cast<E*>(row.maximum) + i, row.sum + i);
  }
  for (int64_t j = 0; column.sum && j < kTile; j += kStep) {
    V high = broadcast<V>(-E(1e30)), total = {};
    for (int64_t i = 0; i < members_i; ++i) high = maximum(high, load(&tile->at[i][j]));
    for (int64_t i = 0; i < members_i; ++i) {
      total += exp_nonpositive(load(&tile->at[i][j]) - high);
    }
    E shifts[kStep], totals[kStep];
    store(shifts, high);
    store(totals, total);
    for (int64_t l = 0; l < kStep; ++l) {
      add_scaled(shifts[l], totals[l], static_cast<E*>(column.maximum) + j + l, column.sum + j + l);
    }
  }
}

template <class E>
void negatives(const ContrastTile& t, const ContrastSum& row, const ContrastSum& column) {
  using V = typename ComputeType<E>::type;
  constexpr int64_t kStep = ComputeType<E>::lanes;
  Tile<E> tile;
  products(t, &tile);
  const bool all = t.kind == TileKind::different;
  const E scale = static_cast<E>(t.scale);
  for (int64_t i = 0; i < t.members_i; ++i) {
    for (int64_t j = 0; j < kTile; j += kStep) {
      V s = load(&tile.at[i][j]) * scale;
      if (!all) s = select(Masks<V>::of(t, i, j).negative, s, broadcast<V>(-kInfinity<E>));
      store(&tile.at[i][j], s);
    }
  }
  if (all && add_with_one_shift(&tile, row, column)) return;
  add_with_own_shifts(&tile, t.members_i, row, column);
}

template <class E>
void positives(const ContrastTile& t, const E* lse, double* loss, double* share) {
  using V = typename ComputeType<E>::type;
  constexpr int64_t kStep = ComputeType<E>::lanes;
  Tile<E> tile;
  products(t, &tile);
  const E scale = static_cast<E>(t.scale);
  for (int64_t i = 0; i < t.members_i; ++i) {
    V terms = {}, shares = {};
    for (int64_t j = 0; j < kTile; j += kStep) {
      const V x = broadcast<V>(lse[i]) - load(&tile.at[i][j]) * scale;
      const auto positive = x > V{};
      // log(1 + e^x) = max(x, 0) + log(1 + e^-|x|), and the sigmoid of x from the same e^-|x|.
      const V e = exp_nonpositive(select(positive, -x, x));
      V term = select(positive, x, V{}) + log1p_unit(e);
      V q = select(positive, V{} + 1, e) / (1 + e);
      if (t.kind != TileKind::same || t.same_tile) {
        const auto mask = Masks<V>::of(t, i, j).positive;
        term = select(mask, term, V{});
        q = select(mask, q, V{});
      }
      terms += term;
      shares += q;
    }
    loss[i] += sum(terms);
    if (share) share[i] += sum(shares);
  }
}

// Whether e^-min(n) and e^(max(n) - min(n)) may meet in float, for tiles of negatives only.
template <class E>
bool one_shift(const ContrastWeights& row, const ContrastWeights& column, E* shift) {
  const E *n_i = static_cast<const E*>(row.lse), *n_j = static_cast<const E*>(column.lse);
  E low = n_i[0], high = n_i[0];
  for (int64_t i = 0; i < kTile; ++i) {
    low = n_i[i] < low ? n_i[i] : low;
    high = n_i[i] > high ? n_i[i] : high;
  }
  for (int64_t j = 0; n_j && j < kTile; ++j) {
    low = n_j[j] < low ? n_j[j] : low;
    high = n_j[j] > high ? n_j[j] : high;
  }
  *shift = low;
  return high - low <= static_cast<E>(kBridge);
}

// pull e^(shift - n): what e^(s - shift) is to be multiplied by.
template <class E>
void factors(const ContrastWeights& weights, E shift, E* out) {
  constexpr int64_t kStep = ComputeType<E>::lanes;
  const E *lse = static_cast<const E*>(weights.lse), *pull = static_cast<const E*>(weights.pull);
  for (int64_t i = 0; i < kTile; i += kStep) {
    store(out + i, load(pull + i) * exp_nonpositive(shift - load(lse + i)));
  }
}

// From products to g, all pairs being negatives: e^(s - n_i) pull_i + e^(s - n_j) pull_j.
template <class E, bool kBoth>
void slopes_of_negatives(const ContrastTile& t, const ContrastWeights& row,
                         const ContrastWeights& column, E shift, Tile<E>* tile) {
  using V = typename ComputeType<E>::type;
  constexpr int64_t kStep = ComputeType<E>::lanes;
  E factor_i[kTile], factor_j[kTile] = {};
  factors(row, shift, factor_i);
  if constexpr (kBoth) factors(column, shift, factor_j);
  const E scale = static_cast<E>(t.scale);
  for (int64_t i = 0; i < kTile; ++i) {
    for (int64_t j = 0; j < kTile; j += kStep) {
      // At most kBridge, and so within what exp_nonpositive computes.
      const V e = exp_nonpositive(load(&tile->at[i][j]) * scale - shift);
      V factor = broadcast<V>(factor_i[i]);
      if constexpr (kBoth) factor += load(factor_j + j);
      store(&tile->at[i][j], e * factor);
    }
  }
}

// One anchor's slope by s. A negative has s <= n but for rounding.
template <class V>
ECGAN_SIMD V slope(const Masks<V>& masks, V s, V lse, V pull, V push) {
  const V x = s - lse;
  const V negative = pull * exp_nonpositive(minimum(x, V{}));
  const V positive = push * (1 / (1 + exp(x)));
  return select(masks.negative, negative, select(masks.positive, positive, V{}));
}

// The same for any tile.
template <class E, bool kBoth>
void slopes(const ContrastTile& t, const ContrastWeights& row, const ContrastWeights& column,
            Tile<E>* tile) {
  using V = typename ComputeType<E>::type;
  constexpr int64_t kStep = ComputeType<E>::lanes;
  const auto at = [](const void* values, int64_t i) { return static_cast<const E*>(values) + i; };
  const E scale = static_cast<E>(t.scale);
  for (int64_t i = 0; i < t.members_i; ++i) {
    const V lse = broadcast<V>(*at(row.lse, i)), pull = broadcast<V>(*at(row.pull, i));
    const V push = broadcast<V>(*at(row.push, i));
    for (int64_t j = 0; j < kTile; j += kStep) {
      const auto masks = Masks<V>::of(t, i, j);
      const V s = load(&tile->at[i][j]) * scale;
      V g = slope(masks, s, lse, pull, push);
      if constexpr (kBoth) {
        g += slope(masks, s, load(at(column.lse, j)), load(at(column.pull, j)),
                   load(at(column.push, j)));
      }
      store(&tile->at[i][j], g);
    }
  }
}

template <class E, bool kBoth>
void gradient(const ContrastTile& t, const ContrastWeights& row, const ContrastWeights& column,
              const E* rows_i, const E* rows_j, int64_t width, E* sums_i, E* sums_j) {
  Tile<E> tile;
  products(t, &tile);
  E shift;
  if (t.kind == TileKind::different && one_shift(row, column, &shift)) {
    slopes_of_negatives<E, kBoth>(t, row, column, shift, &tile);
  } else {
    slopes<E, kBoth>(t, row, column, &tile);
  }
  const E* g = tile.at[0];
  if (sums_i) add_product(g, kTile, 1, rows_j, width, sums_i);
  if (sums_j) add_product(g, 1, kTile, rows_i, width, sums_j);
}

}  // namespace

void pixel_contrast_negatives(const ContrastTile& tile, const ContrastSum& row,
                              const ContrastSum& column, bool use_double) {
  use_double ? negatives<double>(tile, row, column) : negatives<float>(tile, row, column);
}

void pixel_contrast_positives(const ContrastTile& tile, const void* lse, double* loss,
                              double* share, bool use_double) {
  use_double ? positives(tile, static_cast<const double*>(lse), loss, share)
             : positives(tile, static_cast<const float*>(lse), loss, share);
}

void pixel_contrast_gradient(const ContrastTile& tile, const ContrastWeights& row,
                             const ContrastWeights& column, const void* rows_i, const void* rows_j,
                             int64_t width, void* sums_i, void* sums_j, bool use_double) {
  const auto run = [&](auto zero) {
    using E = decltype(zero);
    const auto f = column.lse ? gradient<E, true> : gradient<E, false>;
    f(tile, row, column, static_cast<const E*>(rows_i), static_cast<const E*>(rows_j), width,
      static_cast<E*>(sums_i), static_cast<E*>(sums_j));
  };
  use_double ? run(double{}) : run(float{});
}

}  // namespace ecgan::ECGAN_ISA
