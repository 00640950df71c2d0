// Pairs of the vectors of a set, or of two sets, in square tiles: what similarity_bce and
// pixel_contrast share around the arithmetic of pairwise_engine.h. No torch header.
#pragma once

#include <cstdint>
#include <functional>
#include <vector>

#include "../common/types.h"
#include "pairwise_simd.h"

namespace ecgan::cpu {

// Calls task(0) ... task(count - 1), in any order and from any threads, and returns when all have.
using Task = std::function<void(int64_t)>;
using Parallel = std::function<void(int64_t count, const Task& task)>;

// Vectors in a tensor of any strides, which count elements.
struct Vectors {
  const void* data;       // [count, depth]
  DType dtype;            //
  int64_t count, depth;   //
  int64_t vector_stride;  // from one vector to the next
  int64_t depth_stride;   // from one of its elements to the next
};

// The vectors that take part, sorted by class, in tiles of kTile of which the last is filled up
// with zeros. Elements are float, for double vectors double.
class SortedVectors {
 public:
  // ids: [count] class of each vector, in [0, classes), or -1 where it takes no part.
  SortedVectors(const Vectors& vectors, const std::vector<int32_t>& ids, int64_t classes);

  int64_t size() const { return size_; }
  int64_t tiles() const { return (size_ + kTile - 1) / kTile; }
  int64_t depth() const { return vectors_.depth; }
  // Elements of a vector in rows() and in sums, zeros up to a whole number of SIMD vectors
  // included.
  int64_t width() const { return width_; }
  int64_t element_size() const { return vectors_.dtype == DType::f64 ? 8 : 4; }

  // Bytes of the tiles as pack() writes them, and of sums [tiles * kTile, width].
  int64_t packed_bytes(bool rows) const;
  int64_t sums_bytes() const { return tiles() * kTile * width_ * element_size(); }

  // Writes tile t into the caller's memory: element-major for the Gram products and, if `rows`,
  // vector-major for the products with them. pack_tile(t) may run at once with other tiles.
  void set_packed(void* memory, bool rows);
  void pack_tile(int64_t t);
  // After all tiles: whether no vector holds an infinity or a NaN.
  bool finite() const;

  // Of tile t: [depth, kTile]; [kTile, width]; the classes [kTile], -1 in filled places.
  const void* panel(int64_t t) const;
  const void* rows(int64_t t) const;
  const int32_t* classes(int64_t t) const { return &classes_[t * kTile]; }
  // Vectors in the tensor, those that take no part included.
  int64_t count() const { return vectors_.count; }
  // Number of vectors in tile t.
  int64_t members(int64_t t) const { return size_ - t * kTile < kTile ? size_ - t * kTile : kTile; }
  // Index in the set of the vector at a position.
  int32_t index(int64_t position) const { return order_[position]; }

  // grad (contiguous vectors are not needed: strides as in Vectors) = scale * sums of tile t.
  void scatter_tile(int64_t t, const void* sums, double scale, void* grad, int64_t vector_stride,
                    int64_t depth_stride) const;

 private:
  Vectors vectors_;
  int64_t size_ = 0, width_;
  std::vector<int32_t> order_, classes_;
  std::vector<char> finite_;
  char *panels_ = nullptr, *rows_ = nullptr;
};

// What the classes say of the pairs of two tiles.
TileKind tile_kind(const SortedVectors& rows, int64_t row_tile, const SortedVectors& columns,
                   int64_t column_tile);

// Pairs of blocks, a block being a run of tiles, in rounds in which no block appears twice: the
// pairs of a round may update the sums of both their blocks at once. Blocks depend on the sizes
// alone and rounds follow each other, so results do not depend on the number of threads.
class Schedule {
 public:
  struct Pair {
    int64_t row_begin, row_end;        // tiles
    int64_t column_begin, column_end;  // tiles
  };

  // Pairs of two sets.
  Schedule(int64_t row_tiles, int64_t column_tiles);
  // Unordered pairs of one set. A pair of a block with itself stands for its tile pairs (a, b) with
  // a <= b, one of two blocks for all.
  explicit Schedule(int64_t tiles);

  int64_t rounds() const { return rounds_; }
  // Appends the pairs of a round.
  void append(int64_t round, std::vector<Pair>* pairs) const;

 private:
  void append(int64_t row, int64_t column, std::vector<Pair>* pairs) const;

  int64_t row_tiles_, column_tiles_;
  bool symmetric_;
  int64_t tiles_per_block_, row_blocks_, column_blocks_, rounds_;
};

// Calls visit(row tile, column tile) for the pairs that `pair` stands for.
template <class Visit>
void for_each_tile(const Schedule::Pair& pair, bool symmetric, Visit visit) {
  const bool self = symmetric && pair.row_begin == pair.column_begin;
  for (int64_t i = pair.row_begin; i < pair.row_end; ++i) {
    for (int64_t j = self ? i : pair.column_begin; j < pair.column_end; ++j) visit(i, j);
  }
}

}  // namespace ecgan::cpu
