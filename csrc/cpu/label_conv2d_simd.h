// The inner loops of label_conv2d, one copy per instruction set.
#pragma once

#include <cstdint>

#include "../common/types.h"

namespace ecgan::cpu {

// Output channels that are worked on together: a cache line of floats, so that a table's row is
// one line and the rows of the few labels in sight stay in the first-level cache.
constexpr int64_t kLabelChannels = 16;

// Some rows of outputs of one image. E is float, for float64 tensors double.
struct LabelChunk {
  const int32_t* map;  // codes, from the chunk's first window on
  const void* scale;   // E, as map, or null: 1 everywhere
  int64_t map_width;   // elements from one row of the map to the next
  int64_t kernel_height, kernel_width;
  int64_t codes;
  int64_t rows, row_outputs;
  int64_t row_step, step;  // from window to window, in elements of the map
  int32_t* rank;           // [rows * row_outputs] run of each output; a vector more is readable
  int32_t* window;         // [runs]
  int64_t runs;            // windows that differ from the one to the left
};

// One block of channels of a chunk.
struct LabelTile {
  void* table;       // E [kernel_height * kernel_width * codes + 1, kLabelChannels]; last: bias
  int64_t channels;  // that exist, at most kLabelChannels
  void* data;        // y or its gradient, from the chunk's first output of the block on
  int64_t channel_stride, output_stride;  // of data, in elements; one of them is 1
  DType dtype;                            // of data
  void* values;                           // scratch: label_tile_bytes()
};

// Of values, whatever the instruction set: the sums of each run, twice.
inline constexpr int64_t label_tile_bytes(int64_t outputs, int64_t element_size) {
  return (2 * outputs + 64) * kLabelChannels * element_size;
}

}  // namespace ecgan::cpu

// label_conv2d_runs fills rank, window and runs; scratch is [kernel reach of a row + 64].
// label_conv2d_tile writes y; label_conv2d_backward_tile adds to the table.
#define ECGAN_DECLARE_LABEL_CONV2D(isa)                                                       \
  namespace ecgan::isa {                                                                      \
  void label_conv2d_runs(::ecgan::cpu::LabelChunk* chunk, int32_t* scratch, bool use_double); \
  void label_conv2d_tile(const ::ecgan::cpu::LabelChunk& chunk,                               \
                         const ::ecgan::cpu::LabelTile& tile);                                \
  void label_conv2d_backward_tile(const ::ecgan::cpu::LabelChunk& chunk,                      \
                                  const ::ecgan::cpu::LabelTile& tile, bool need_weight);     \
  }

ECGAN_DECLARE_LABEL_CONV2D(baseline)
ECGAN_DECLARE_LABEL_CONV2D(avx2)
ECGAN_DECLARE_LABEL_CONV2D(avx512)
