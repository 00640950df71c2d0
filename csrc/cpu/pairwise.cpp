#include "pairwise.h"

#include <algorithm>

#include "isa.h"

namespace ecgan::cpu {
namespace {

constexpr int64_t kMaxBlocks = 128;  // of a schedule: 64 pairs a round, for as many threads

template <class E>
void scatter(const E* sums, int64_t width, double scale, const int32_t* order, int64_t members,
             int64_t depth, E* grad, int64_t vector_stride, int64_t depth_stride) {
  for (int64_t k = 0; k < depth; ++k) {
    for (int64_t i = 0; i < members; ++i) {
      grad[order[i] * vector_stride + k * depth_stride] =
          static_cast<E>(sums[i * width + k] * scale);
    }
  }
}

int64_t ceil_div(int64_t a, int64_t b) {
  return (a + b - 1) / b;
}

}  // namespace

SortedVectors::SortedVectors(const Vectors& vectors, const std::vector<int32_t>& ids,
                             int64_t classes)
    : vectors_(vectors), width_(ECGAN_BEST(pairwise_width)(vectors.depth, vectors.dtype)) {
  std::vector<int64_t> next(classes + 1, 0);  // counting sort: where each class goes on
  for (const int32_t id : ids) {
    if (id >= 0) ++next[id + 1];
  }
  for (int64_t c = 0; c < classes; ++c) next[c + 1] += next[c];
  size_ = next[classes];
  order_.resize(size_);
  classes_.assign(tiles() * kTile, -1);
  finite_.assign(tiles(), 1);
  for (size_t i = 0; i < ids.size(); ++i) {
    if (ids[i] < 0) continue;
    const int64_t position = next[ids[i]]++;
    order_[position] = static_cast<int32_t>(i);
    classes_[position] = ids[i];
  }
}

int64_t SortedVectors::packed_bytes(bool rows) const {
  return tiles() * kTile * (depth() + (rows ? width_ : 0)) * element_size();
}

void SortedVectors::set_packed(void* memory, bool rows) {
  panels_ = static_cast<char*>(memory);
  rows_ = rows ? panels_ + packed_bytes(false) : nullptr;
}

const void* SortedVectors::panel(int64_t t) const {
  return panels_ + t * kTile * depth() * element_size();
}

const void* SortedVectors::rows(int64_t t) const {
  return rows_ + t * kTile * width_ * element_size();
}

void SortedVectors::pack_tile(int64_t t) {
  finite_[t] = ECGAN_BEST(pairwise_pack)(vectors_.data, vectors_.dtype, vectors_.vector_stride,
                                         vectors_.depth_stride, &order_[t * kTile], members(t),
                                         depth(), width_, const_cast<void*>(panel(t)),
                                         rows_ ? const_cast<void*>(rows(t)) : nullptr);
}

bool SortedVectors::finite() const {
  return std::all_of(finite_.begin(), finite_.end(), [](char f) { return f; });
}

void SortedVectors::scatter_tile(int64_t t, const void* sums, double scale, void* grad,
                                 int64_t vector_stride, int64_t depth_stride) const {
  const int64_t first = t * kTile * width_;
  const int32_t* order = &order_[t * kTile];
  if (vectors_.dtype == DType::f64) {
    scatter(static_cast<const double*>(sums) + first, width_, scale, order, members(t), depth(),
            static_cast<double*>(grad), vector_stride, depth_stride);
  } else {
    scatter(static_cast<const float*>(sums) + first, width_, scale, order, members(t), depth(),
            static_cast<float*>(grad), vector_stride, depth_stride);
  }
}

TileKind tile_kind(const SortedVectors& rows, int64_t row_tile, const SortedVectors& columns,
                   int64_t column_tile) {
  const int64_t row_members = rows.members(row_tile), column_members = columns.members(column_tile);
  if (row_members < kTile || column_members < kTile) return TileKind::mixed;
  const int32_t* r = rows.classes(row_tile);
  const int32_t* c = columns.classes(column_tile);
  if (r[kTile - 1] < c[0] || c[kTile - 1] < r[0]) return TileKind::different;
  const bool same = r[0] == r[kTile - 1] && c[0] == c[kTile - 1];  // else they would be different
  return same ? TileKind::same : TileKind::mixed;
}

Schedule::Schedule(int64_t row_tiles, int64_t column_tiles)
    : row_tiles_(row_tiles),
      column_tiles_(column_tiles),
      symmetric_(false),
      tiles_per_block_(
          std::max<int64_t>(1, ceil_div(std::max(row_tiles, column_tiles), kMaxBlocks))),
      row_blocks_(ceil_div(row_tiles, tiles_per_block_)),
      column_blocks_(ceil_div(column_tiles, tiles_per_block_)),
      rounds_(std::max(row_blocks_, column_blocks_)) {}

Schedule::Schedule(int64_t tiles) : Schedule(tiles, tiles) {
  symmetric_ = true;
  rounds_ += rounds_ % 2;  // a tournament of an even number of players, one of whom may be absent
}

void Schedule::append(int64_t row, int64_t column, std::vector<Pair>* pairs) const {
  if (row >= row_blocks_ || column >= column_blocks_) return;
  pairs->push_back({row * tiles_per_block_, std::min((row + 1) * tiles_per_block_, row_tiles_),
                    column * tiles_per_block_,
                    std::min((column + 1) * tiles_per_block_, column_tiles_)});
}

void Schedule::append(int64_t round, std::vector<Pair>* pairs) const {
  if (!symmetric_ || round == 0) {  // of one set: each block with itself
    for (int64_t i = 0; i < row_blocks_; ++i) append(i, (i + round) % rounds_, pairs);
    return;
  }
  // The circle method: the last player stays, the others turn by one place a round.
  const int64_t turning = rounds_ - 1;
  append(round - 1, turning, pairs);
  for (int64_t k = 1; k < rounds_ / 2; ++k) {
    const int64_t a = (round - 1 + k) % turning, b = (round - 1 + turning - k) % turning;
    append(std::min(a, b), std::max(a, b), pairs);
  }
}

}  // namespace ecgan::cpu
