// What class_conv2d's kernels share: a tile of the map, and which taps of its pixels count.
#pragma once

#include <cstdint>

#include "class_conv2d.h"
#include "launch.h"
#include "scalar.h"

namespace ecgan::cuda::class_conv {

constexpr const char* kOp = "class_conv2d";
constexpr int kTaps = 9;

__host__ __device__ constexpr int64_t divide_up(int64_t n, int64_t by) {
  return (n + by - 1) / by;
}

// The label map.
struct Map {
  const int64_t* labels;  // [batch, height, width]
  int64_t height, width;
};

template <typename T>
struct Source {
  const T* data;
  int64_t stride[4];
  int64_t channels;
  float slope;

  // Element of an image, 0 outside, activated.
  __device__ float at(const Map& map, int64_t image, int64_t c, int64_t row, int64_t column) const {
    if (c >= channels || row < 0 || row >= map.height || column < 0 || column >= map.width) {
      return 0.0f;
    }
    const float x =
        to_float(data[image * stride[0] + c * stride[1] + row * stride[2] + column * stride[3]]);
    return x > 0.0f ? x : x * slope;
  }
};

template <typename T>
Source<T> source(const ConvImages& images, int64_t channels, float slope) {
  Source<T> s{static_cast<const T*>(images.data), {}, channels, slope};
  for (int d = 0; d < 4; ++d) s.stride[d] = images.stride[d];
  return s;
}

__device__ inline int64_t nearest(int64_t i, int64_t size) {
  return i < 0 ? 0 : i < size ? i : size - 1;
}

// A block's tile of kRows x kColumns pixels.
template <int kRows, int kColumns>
struct Tile {
  int64_t image, row, column;

  __device__ Tile(int64_t number, const Map& map) {
    const int64_t across = divide_up(map.width, kColumns), down = divide_up(map.height, kRows);
    image = number / (across * down);
    row = number / across % down * kRows;
    column = number % across * kColumns;
  }

  // The labels of the tile and its halo. Outside the map, where values are 0, the nearest one.
  __device__ void load_labels(const Map& map, int64_t (*labels)[kColumns + 2]) const {
    for (int i = threadIdx.x; i < (kRows + 2) * (kColumns + 2); i += kThreads) {
      const int r = i / (kColumns + 2), j = i % (kColumns + 2);
      const int64_t y = nearest(row + r - 1, map.height), x = nearest(column + j - 1, map.width);
      labels[r][j] = map.labels[(image * map.height + y) * map.width + x];
    }
  }
};

// Bit t: whether the tap of a tile's pixel counts.
template <int kPitch>
__device__ unsigned taps_of(const int64_t (*labels)[kPitch], int row, int column) {
  const int64_t own = labels[row + 1][column + 1];
  unsigned bits = 0;
#pragma unroll
  for (int t = 0; t < kTaps; ++t) {
    if (labels[row + t / 3][column + t % 3] == own) bits |= 1u << t;
  }
  return bits;
}

__device__ inline float keep(float x, unsigned bits, int tap) {
  return (bits >> tap & 1) ? x : 0.0f;
}

template <typename T>
struct alignas(4 * sizeof(T)) Four {
  T at[4];
};

// Outputs of a block: the fewest that hold all, up to 32.
inline int block_outputs(int64_t outputs) {
  return outputs > 16 ? 32 : outputs > 8 ? 16 : outputs > 4 ? 8 : 4;
}

}  // namespace ecgan::cuda::class_conv
