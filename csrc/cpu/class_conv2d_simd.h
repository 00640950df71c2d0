// One tile of class_conv2d, one copy per instruction set.
#pragma once

#include <cstdint>

#include "../common/types.h"

namespace ecgan::cpu {

// A tile of the map. Its columns are a multiple of what the micro-kernels take at a time under
// every instruction set (12, 16, 24, 32 and 48). 64 channels of it, with their halo, take half of a
// 512 KiB cache.
constexpr int64_t kConvRows = 8;
constexpr int64_t kConvColumns = 96;
constexpr int64_t kConvPitch = 104;  // kConvColumns and a column on either side, whole vectors

// One image of a tensor [channels, height, width].
struct ConvImage {
  const void* data;
  DType dtype;
  int64_t channels;
  int64_t channel_stride, row_stride, column_stride;  // in elements
};

// The part [row, row + kConvRows) x [column, column + kConvColumns) of an image, cut at its edges.
struct ConvTile {
  const int64_t* labels;  // [height, width] of the image, contiguous
  int64_t height, width;
  int64_t row, column;
};

// Pointers without a dtype are to float or, for float64 images, to double.
struct ConvProduct {
  ConvImage x;
  double slope;        // x > 0 ? x : slope x is convolved
  const void* weight;  // [outputs, channels, 9] as class_conv2d_pack leaves it
  const void* bias;    // [outputs], or null
  int64_t outputs;     //
  ConvImage gate;     // [outputs, height, width]: sums are multiplied by gate > 0 ? 1 : gate_slope;
  double gate_slope;  // no gate where its data is null
  void* y;            // [outputs, height, width] in the dtype of x, contiguous
};

struct ConvWeights {
  ConvImage grad, x;
  double slope;
  void* weight_sums;  // [outputs, channels, 9], or null
  void* bias_sums;    // [outputs], or null
};

}  // namespace ecgan::cpu

// class_conv2d_pack: reorders weights [outputs, channels, 9] for the product; in turned weights
// [channels, outputs, 9] the two are exchanged and the taps reversed.
// class_conv2d_scratch: bytes of memory that a tile of so many channels in all needs.
// class_conv2d_product: y(p) = bias + sum_t W_t a(x(p + t)) [labels(p + t) == labels(p)].
// class_conv2d_weights: adds sum_p grad(p) a(x(p + t))^T [labels(p + t) == labels(p)] and sum_p
// grad(p) over the tile's p + t and p to the sums.
#define ECGAN_DECLARE_CLASS_CONV2D(isa)                                                      \
  namespace ecgan::isa {                                                                     \
  void class_conv2d_pack(const void* weight, int64_t outputs, int64_t channels, bool turned, \
                         bool use_double, void* packed);                                     \
  int64_t class_conv2d_scratch(int64_t channels, bool use_double);                           \
  void class_conv2d_product(const ::ecgan::cpu::ConvTile& tile,                              \
                            const ::ecgan::cpu::ConvProduct& product, void* scratch);        \
  void class_conv2d_weights(const ::ecgan::cpu::ConvTile& tile,                              \
                            const ::ecgan::cpu::ConvWeights& weights, void* scratch);        \
  }

ECGAN_DECLARE_CLASS_CONV2D(baseline)
ECGAN_DECLARE_CLASS_CONV2D(avx2)
ECGAN_DECLARE_CLASS_CONV2D(avx512)
