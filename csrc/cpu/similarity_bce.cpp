#include "similarity_bce.h"

#include <cstring>
#include <limits>

#include "isa.h"
#include "similarity_bce_simd.h"

namespace ecgan::cpu {
namespace {

char* bytes(void* p) {
  return static_cast<char*>(p);
}

}  // namespace

SimilarityBce::SimilarityBce(const void* probs, DType dtype, int64_t batch, int64_t classes,
                             int64_t pixels, const int64_t (&strides)[3], const int64_t* labels,
                             int64_t ignore_index, double eps, const Parallel& parallel)
    : dtype_(dtype), classes_(classes), pixels_(pixels), eps_(eps), parallel_(parallel) {
  const int64_t size = dtype == DType::f64 ? 8 : dtype == DType::f32 ? 4 : 2;
  std::vector<int32_t> ids(batch > 0 ? pixels : 0);
  for (int64_t b = 0; b < batch; ++b) {
    for (int64_t i = 0; i < pixels; ++i) {
      const int64_t label = labels[b * pixels + i];
      const bool valid = label != ignore_index && label >= 0 && label < classes;
      ids[i] = valid ? static_cast<int32_t>(label) : -1;
    }
    const void* image = static_cast<const char*>(probs) + b * strides[0] * size;
    images_.emplace_back(Vectors{image, dtype, pixels, classes, strides[2], strides[1]}, ids,
                         classes);
  }
}

int64_t SimilarityBce::packed_bytes(bool need_grad) const {
  int64_t total = 0;
  for (const SortedVectors& image : images_) total += image.packed_bytes(need_grad);
  return total;
}

int64_t SimilarityBce::sums_bytes() const {
  int64_t total = 0;
  for (const SortedVectors& image : images_) total += image.sums_bytes();
  return total;
}

void SimilarityBce::run(void* packed, void* sums) {
  std::vector<Schedule> schedules;
  std::vector<char*> image_sums;
  int64_t rounds = 0, tiles = 0;
  std::vector<int64_t> tile_image, first_tile;
  for (SortedVectors& image : images_) {
    image.set_packed(packed, sums != nullptr);
    packed = bytes(packed) + image.packed_bytes(sums != nullptr);
    image_sums.push_back(bytes(sums));
    if (sums) sums = bytes(sums) + image.sums_bytes();
    schedules.emplace_back(image.tiles());
    rounds = std::max(rounds, schedules.back().rounds());
    first_tile.push_back(tiles);
    tiles += image.tiles();
    tile_image.resize(tiles, static_cast<int64_t>(first_tile.size()) - 1);
  }
  parallel_(tiles, [&](int64_t t) {
    const int64_t b = tile_image[t], tile = t - first_tile[b];
    SortedVectors& image = images_[b];
    image.pack_tile(tile);
    const int64_t tile_bytes = image.sums_bytes() / image.tiles();
    if (image_sums[b]) std::memset(image_sums[b] + tile * tile_bytes, 0, tile_bytes);
  });

  log_sums_.assign(images_.size(), 0);
  const auto run_tile = ECGAN_BEST(similarity_bce_tile);
  std::vector<Schedule::Pair> pairs;
  std::vector<int64_t> image_of;
  std::vector<double> pair_sums;
  for (int64_t round = 0; round < rounds; ++round) {  // of all images at once
    pairs.clear();
    image_of.clear();
    for (size_t b = 0; b < images_.size(); ++b) {
      if (round < schedules[b].rounds()) schedules[b].append(round, &pairs);
      image_of.resize(pairs.size(), static_cast<int64_t>(b));
    }
    pair_sums.assign(pairs.size(), 0);
    parallel_(static_cast<int64_t>(pairs.size()), [&](int64_t n) {
      const SortedVectors& image = images_[image_of[n]];
      char* sums_here = image_sums[image_of[n]];
      const int64_t tile_bytes = kTile * image.width() * element_size();
      double sum = 0;
      for_each_tile(pairs[n], true, [&](int64_t i, int64_t j) {
        SimilarityTile tile{};
        tile.panel_i = image.panel(i), tile.panel_j = image.panel(j);
        tile.classes_i = image.classes(i), tile.classes_j = image.classes(j);
        tile.depth = classes_, tile.width = image.width();
        tile.members_i = image.members(i);
        tile.kind = tile_kind(image, i, image, j);
        tile.eps = eps_;
        if (sums_here) {
          tile.rows_i = image.rows(i), tile.rows_j = image.rows(j);
          tile.sums_i = sums_here + i * tile_bytes;
          tile.sums_j = i == j ? nullptr : sums_here + j * tile_bytes;
        }
        sum += (i == j ? 1 : 2) * run_tile(tile, dtype_ == DType::f64);
      });
      pair_sums[n] = sum;
    });
    for (size_t n = 0; n < pairs.size(); ++n) log_sums_[image_of[n]] += pair_sums[n];
  }
}

double SimilarityBce::loss(int64_t image) const {
  const double v = static_cast<double>(valid(image));
  if (v == 0) return 0;
  if (!images_[image].finite()) return std::numeric_limits<double>::quiet_NaN();
  return -log_sums_[image] / (v * v);
}

void SimilarityBce::gradient(const void* sums, void* grad) const {
  for (const SortedVectors& image : images_) {
    const int64_t grad_bytes = classes_ * pixels_ * element_size();
    if (image.size() < pixels_) std::memset(grad, 0, grad_bytes);
    const double v = static_cast<double>(image.size());
    parallel_(image.tiles(),
              [&](int64_t t) { image.scatter_tile(t, sums, -2 / (v * v), grad, 1, pixels_); });
    sums = static_cast<const char*>(sums) + image.sums_bytes();
    grad = bytes(grad) + grad_bytes;
  }
}

}  // namespace ecgan::cpu
