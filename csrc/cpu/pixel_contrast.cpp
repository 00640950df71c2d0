#include "pixel_contrast.h"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <limits>

#include "isa.h"

namespace ecgan::cpu {
namespace {

constexpr int64_t kMaxOffsetIds = 1 << 16;  // up to here labels less the smallest serve as ids
constexpr double kInfinity = std::numeric_limits<double>::infinity();

}  // namespace

PixelContrast::ClassIds PixelContrast::class_ids(const int64_t* labels, int64_t count,
                                                 const int64_t* contrast_labels,
                                                 int64_t contrast_count, int64_t ignore_index) {
  std::vector<int64_t> known;
  known.reserve(count + contrast_count);
  const auto collect = [&](const int64_t* from, int64_t n) {
    std::copy_if(from, from + n, std::back_inserter(known),
                 [&](int64_t label) { return label != ignore_index; });
  };
  collect(labels, count);
  collect(contrast_labels, contrast_count);
  ClassIds ids;
  if (known.empty()) {
    ids.anchors.assign(count, -1);
    ids.contrast.assign(contrast_count, -1);
    return ids;
  }
  const auto [low, high] = std::minmax_element(known.begin(), known.end());
  const int64_t first = *low;
  // As unsigned numbers, since the difference of two labels may overflow.
  const bool offset = static_cast<uint64_t>(*high) - static_cast<uint64_t>(first) < kMaxOffsetIds;
  ids.classes = offset ? *high - first + 1 : 0;
  if (!offset) {
    std::sort(known.begin(), known.end());
    known.erase(std::unique(known.begin(), known.end()), known.end());
    ids.classes = static_cast<int64_t>(known.size());
  }
  const auto to_ids = [&](const int64_t* from, int64_t n, std::vector<int32_t>* to) {
    to->reserve(n);
    for (int64_t i = 0; i < n; ++i) {
      const int64_t id =
          from[i] == ignore_index ? -1
          : offset ? from[i] - first
                   : std::lower_bound(known.begin(), known.end(), from[i]) - known.begin();
      to->push_back(static_cast<int32_t>(id));
    }
  };
  to_ids(labels, count, &ids.anchors);
  to_ids(contrast_labels, contrast_count, &ids.contrast);
  return ids;
}

PixelContrast::PixelContrast(const Vectors& anchors, const int64_t* labels, const Vectors& contrast,
                             const int64_t* contrast_labels, bool same_set, double temperature,
                             int64_t ignore_index, const Parallel& parallel)
    : PixelContrast(anchors, contrast, same_set, temperature, parallel,
                    class_ids(labels, anchors.count, contrast_labels, same_set ? 0 : contrast.count,
                              ignore_index)) {}

PixelContrast::PixelContrast(const Vectors& anchors, const Vectors& contrast, bool same_set,
                             double temperature, const Parallel& parallel, const ClassIds& ids)
    : same_set_(same_set),
      use_double_(anchors.dtype == DType::f64),
      temperature_(temperature),
      parallel_(parallel),
      anchors_(anchors, ids.anchors, ids.classes),
      class_sizes_(ids.classes, 0) {
  if (!same_set) contrast_.emplace_back(contrast, ids.contrast, ids.classes);
  for (const int32_t id : same_set ? ids.anchors : ids.contrast) {
    if (id >= 0) ++class_sizes_[id];
  }
}

int64_t PixelContrast::packed_bytes(bool need_grad) const {
  return anchors_.packed_bytes(need_grad) + (same_set_ ? 0 : columns().packed_bytes(need_grad));
}

void PixelContrast::pack(void* memory, bool need_grad) {
  anchors_.set_packed(memory, need_grad);
  parallel_(anchors_.tiles(), [&](int64_t t) { anchors_.pack_tile(t); });
  if (same_set_) return;
  contrast_[0].set_packed(static_cast<char*>(memory) + anchors_.packed_bytes(need_grad), need_grad);
  parallel_(contrast_[0].tiles(), [&](int64_t t) { contrast_[0].pack_tile(t); });
}

void PixelContrast::for_each_pair(const std::function<void(int64_t, int64_t)>& visit) const {
  const Schedule schedule =
      same_set_ ? Schedule(anchors_.tiles()) : Schedule(anchors_.tiles(), columns().tiles());
  std::vector<Schedule::Pair> pairs;
  for (int64_t round = 0; round < schedule.rounds(); ++round) {
    pairs.clear();
    schedule.append(round, &pairs);
    parallel_(static_cast<int64_t>(pairs.size()),
              [&](int64_t n) { for_each_tile(pairs[n], same_set_, visit); });
  }
}

ContrastTile PixelContrast::tile(int64_t i, int64_t j) const {
  ContrastTile tile{};
  tile.panel_i = anchors_.panel(i), tile.panel_j = columns().panel(j);
  tile.depth = anchors_.depth();
  tile.scale = 1 / temperature_;
  tile.classes_i = anchors_.classes(i), tile.classes_j = columns().classes(j);
  tile.members_i = anchors_.members(i);
  tile.kind = tile_kind(anchors_, i, columns(), j);
  tile.same_tile = same_set_ && i == j;
  return tile;
}

template <class E>
void PixelContrast::forward_as(double* loss, int64_t* positives, double* lse, double* pull) const {
  // In the order of the classes, filled up to whole tiles.
  const int64_t rows = anchors_.tiles() * kTile;
  std::vector<E> maximum(rows, E(-1e30)), n(rows, static_cast<E>(-kInfinity));
  std::vector<double> sum(rows, 0), losses(rows, 0), shares(pull ? rows : 0, 0);

  for_each_pair([&](int64_t i, int64_t j) {
    const ContrastTile pair = tile(i, j);
    if (pair.kind == TileKind::same) return;
    const auto of = [&](int64_t t) { return ContrastSum{&maximum[t * kTile], &sum[t * kTile]}; };
    const bool both = same_set_ && i != j;
    ECGAN_BEST(pixel_contrast_negatives)
    (pair, of(i), both ? of(j) : ContrastSum{}, use_double_);
  });
  for (int64_t i = 0; i < anchors_.size(); ++i) {
    if (!(sum[i] == 0)) n[i] = static_cast<E>(maximum[i] + std::log(sum[i]));
  }
  parallel_(anchors_.tiles(), [&](int64_t i) {
    for (int64_t j = 0; j < columns().tiles(); ++j) {
      const ContrastTile pair = tile(i, j);
      if (pair.kind == TileKind::different) continue;
      ECGAN_BEST(pixel_contrast_positives)
      (pair, &n[i * kTile], &losses[i * kTile], pull ? &shares[i * kTile] : nullptr, use_double_);
    }
  });

  std::fill_n(loss, anchors_.count(), 0);
  std::fill_n(positives, anchors_.count(), 0);
  std::fill_n(lse, anchors_.count(), -kInfinity);
  if (pull) std::fill_n(pull, anchors_.count(), 0);
  for (int64_t i = 0; i < anchors_.size(); ++i) {
    const int32_t index = anchors_.index(i);
    const int64_t count = class_sizes_[anchors_.classes(0)[i]] - (same_set_ ? 1 : 0);
    positives[index] = count;
    lse[index] = n[i];
    if (count == 0) continue;
    loss[index] = losses[i] / static_cast<double>(count);
    if (pull) pull[index] = shares[i] / static_cast<double>(count);
  }
}

void PixelContrast::forward(double* loss, int64_t* positives, double* lse, double* pull) const {
  use_double_ ? forward_as<double>(loss, positives, lse, pull)
              : forward_as<float>(loss, positives, lse, pull);
}

template <class E>
void PixelContrast::backward_as(const double* grad, const double* lse, const double* pull,
                                char* anchor_sums, char* contrast_sums) const {
  const int64_t rows = anchors_.tiles() * kTile;
  std::vector<E> n(rows, static_cast<E>(-kInfinity)), pulls(rows, 0), pushes(rows, 0);
  for (int64_t i = 0; i < anchors_.size(); ++i) {
    const int32_t index = anchors_.index(i);
    const int64_t count = class_sizes_[anchors_.classes(0)[i]] - (same_set_ ? 1 : 0);
    n[i] = static_cast<E>(lse[index]);
    if (count == 0) continue;
    pulls[i] = static_cast<E>(grad[index] * pull[index]);
    pushes[i] = static_cast<E>(-grad[index] / static_cast<double>(count));
  }
  if (anchor_sums) zero(anchors_, anchor_sums);
  if (contrast_sums) zero(columns(), contrast_sums);
  const int64_t width = anchors_.width();
  const int64_t tile_bytes = kTile * width * anchors_.element_size();
  for_each_pair([&](int64_t i, int64_t j) {
    const auto of = [&](int64_t t) {
      return ContrastWeights{&n[t * kTile], &pulls[t * kTile], &pushes[t * kTile]};
    };
    char* sums_i = anchor_sums ? anchor_sums + i * tile_bytes : nullptr;
    char* sums_j = same_set_       ? (i == j ? nullptr : anchor_sums + j * tile_bytes)
                   : contrast_sums ? contrast_sums + j * tile_bytes
                                   : nullptr;
    ECGAN_BEST(pixel_contrast_gradient)
    (tile(i, j), of(i), same_set_ ? of(j) : ContrastWeights{}, anchors_.rows(i), columns().rows(j),
     width, sums_i, sums_j, use_double_);
  });
}

void PixelContrast::backward(const double* grad, const double* lse, const double* pull,
                             void* anchor_sums, void* contrast_sums) const {
  char *anchor = static_cast<char*>(anchor_sums), *contrast = static_cast<char*>(contrast_sums);
  use_double_ ? backward_as<double>(grad, lse, pull, anchor, contrast)
              : backward_as<float>(grad, lse, pull, anchor, contrast);
}

void PixelContrast::zero(const SortedVectors& set, void* sums) const {
  const int64_t tile_bytes = kTile * set.width() * set.element_size();
  parallel_(set.tiles(), [&](int64_t t) {
    std::memset(static_cast<char*>(sums) + t * tile_bytes, 0, tile_bytes);
  });
}

void PixelContrast::scatter(const SortedVectors& set, const void* sums, void* grad) const {
  if (set.size() < set.count() && set.depth() > 0) {  // else there is no memory at all
    std::memset(grad, 0, set.count() * set.depth() * set.element_size());
  }
  parallel_(set.tiles(),
            [&](int64_t t) { set.scatter_tile(t, sums, 1 / temperature_, grad, set.depth(), 1); });
}

}  // namespace ecgan::cpu
