// Vectors as tensor cores take them, and the way back: what surrounds the tiles of pairwise.h.
#pragma once

#include <cstdint>
#include <cstring>

#include "launch.h"
#include "scalar.h"

namespace ecgan::cuda::pairwise {

// Rows of the pair matrix that a block works on, and columns that it takes at a time.
constexpr int kRows = 128;
constexpr int kColumns = 64;

// Blocks that fill a large GPU a few times; fewer row blocks than that share out their columns.
constexpr int kBlocks = ECGAN_MAX_BLOCKS < 512 ? ECGAN_MAX_BLOCKS : 512;
constexpr int kMaxSplits = 16;

// The low half of a number is kept times this, so that it is no denormal where the high one isn't.
constexpr float kLowScale = 2048.0f;  // 2^11, the digits of a half

constexpr int64_t round_up(int64_t n, int64_t multiple) {
  return (n + multiple - 1) / multiple * multiple;
}

__device__ inline unsigned bits_of(float x) {
  unsigned bits;
  memcpy(&bits, &x, sizeof bits);
  return bits;
}

__device__ inline float float_of(unsigned bits) {
  float x;
  memcpy(&x, &bits, sizeof x);
  return x;
}

struct Scale {
  float up, down;  // powers of two, up * down = 1
};

// up * largest lies in [2^14, 2^15): below a half's limit, and far above its denormals.
__device__ inline Scale half_scale(float largest) {
  unsigned exponent = bits_of(largest) >> 23;
  if (exponent < 20) exponent = 20;  // so that `up` stays finite
  return {float_of((127 + 14 + 127 - exponent) << 23), float_of((exponent - 14) << 23)};
}

// Sets of vectors, one an image: vector r is (high[r] + low[r] / kLowScale) * scale[r]. Each set
// starts at a multiple of `padded` rows; what is none of its vectors, or ignored, is zero.
template <typename Label>
struct Packed {
  __half* high;  // [images, padded, width]
  __half* low;   // [images, padded, width], or null: zero
  float* scale;  // [images, padded]
  Label* label;  // [images, padded], `none` where nothing counts
  Label none;
  int width;  // a multiple of 16
  int64_t count, padded;

  // The set of one image.
  __device__ Packed of(int64_t image) const {
    Packed one = *this;
    const int64_t first = image * padded;
    one.high += first * width;
    if (low) one.low += first * width;
    one.scale += first;
    one.label += first;
    return one;
  }
};

// Where the vectors lie in a tensor: element k of vector r of an image.
struct Strides {
  int64_t image, row, column;
};

// A block packs 32 vectors. Labels count where they are not `ignore` and, with classes > 0, lie in
// [0, classes).
template <typename T, typename Label>
__global__ void __launch_bounds__(kThreads, 4)
    pack(const T* __restrict__ x,  // [images, count, columns] by strides
         Strides strides, int columns,
         const int64_t* __restrict__ labels,  // [images, count]
         int64_t ignore, int64_t classes, Packed<Label> packed) {
  ECGAN_SHARED(float, tile, [32][33]);
  ECGAN_SHARED(bool, counts, [32]);
  const int64_t blocks = packed.padded / 32;
  const int64_t image = blockIdx.x / blocks, first = blockIdx.x % blocks * 32;
  const Packed<Label> out = packed.of(image);
  const int thread = threadIdx.x;
  if (thread < 32) {
    const int64_t r = first + thread;
    int64_t label = ignore;
    if (r < out.count) label = labels[image * out.count + r];
    const bool in = label != ignore && (classes == 0 || (label >= 0 && label < classes));
    counts[thread] = in;
    out.label[r] = in ? static_cast<Label>(label) : out.none;
  }
  __syncthreads();

  // Reads along whichever dimension is dense.
  const bool by_rows = strides.row == 1;
  const auto load = [&](int from) {
#pragma unroll 1
    for (int i = thread; i < 1024; i += kThreads) {
      const int r = by_rows ? i % 32 : i / 32, k = by_rows ? i / 32 : i % 32;
      float v = 0.0f;
      if (counts[r] && from + k < columns) {
        v = to_float(
            x[image * strides.image + (first + r) * strides.row + (from + k) * strides.column]);
      }
      tile[r][k] = v;
    }
  };

  float largest = 0.0f;  // of row thread / 8
#pragma unroll 1
  for (int from = 0; from < columns; from += 32) {
    load(from);
    __syncthreads();
    for (int k = 0; k < 4; ++k) {
      largest = fmaxf(largest, fabsf(tile[thread / 8][thread % 8 * 4 + k]));
    }
    __syncthreads();
  }
  for (int bits = 4; bits; bits /= 2) {
    largest = fmaxf(largest, __shfl_xor_sync(~0u, largest, bits));
  }
  ECGAN_SHARED(float, up, [32]);
  if (thread % 8 == 0) {
    const Scale scale = half_scale(largest);
    up[thread / 8] = scale.up;
    out.scale[first + thread / 8] = scale.down;
  }

  const int r = thread % 128 / 4, chunk = thread % 4 * 8;
  const bool low = thread >= 128;
#pragma unroll 1
  for (int from = 0; from < out.width; from += 32) {
    load(from);
    __syncthreads();  // at first, `up` is there too
    if (from + chunk < out.width && !(low && !out.low)) {
      Pack<__half> eight;
#pragma unroll
      for (int k = 0; k < 8; ++k) {
        const float v = tile[r][chunk + k] * up[r];
        const __half high = from_float<__half>(v);
        eight.at[k] = low ? from_float<__half>((v - to_float(high)) * kLowScale) : high;
      }
      store_pack((low ? out.low : out.high) + (first + r) * out.width + from + chunk, eight);
    }
    __syncthreads();
  }
}

// out[r][k] = factor * the sum over splits of partial[split][r][k], times 1 / counts[image]^2 where
// counts is given; 0 where nothing counts. A block does 32 vectors and 32 of their elements.
template <typename Label>
__global__ void __launch_bounds__(kThreads)
    sum_splits(const float* __restrict__ partial,  // [splits, images, padded, width]
               int splits, int64_t images, Packed<Label> packed, float factor,
               const int64_t* __restrict__ counts,  // [images] or null
               float* __restrict__ out,             // [images, count, columns] by strides
               Strides strides, int columns) {
  ECGAN_SHARED(float, tile, [32][33]);
  const int64_t blocks = packed.padded / 32;
  const int64_t image = blockIdx.x / blocks, first = blockIdx.x % blocks * 32;
  const int from = blockIdx.y * 32;
  const int64_t size = images * packed.padded * packed.width;
  const Label* const label = packed.label + image * packed.padded;
  if (counts) {
    const float count = static_cast<float>(counts[image]);
    factor = count > 0.0f ? factor / count / count : 0.0f;
  }
  for (int i = threadIdx.x; i < 1024; i += kThreads) {
    const int r = i / 32, k = i % 32;
    float sum = 0.0f;
    if (from + k < packed.width && label[first + r] != packed.none) {
      const int64_t at = (image * packed.padded + first + r) * packed.width + from + k;
      for (int s = 0; s < splits; ++s) sum += partial[s * size + at];
    }
    tile[r][k] = sum * factor;
  }
  __syncthreads();
  const bool by_rows = strides.row == 1;
  for (int i = threadIdx.x; i < 1024; i += kThreads) {
    const int r = by_rows ? i % 32 : i / 32, k = by_rows ? i / 32 : i % 32;
    if (first + r < packed.count && from + k < columns) {
      out[image * strides.image + (first + r) * strides.row + (from + k) * strides.column] =
          tile[r][k];
    }
  }
}

// Hands out pieces of a workspace; over a null pointer it only counts.
class Arena {
 public:
  explicit Arena(void* base) : base_(static_cast<char*>(base)) {}

  template <typename T>
  T* take(int64_t count) {
    char* const at = base_ ? base_ + used_ : nullptr;
    used_ += round_up(count * static_cast<int64_t>(sizeof(T)), 256);
    return reinterpret_cast<T*>(at);
  }

  template <typename Label>
  Packed<Label> take_packed(int64_t images, int64_t count, int64_t columns, bool split,
                            Label none) {
    Packed<Label> packed;
    packed.count = count;
    packed.padded = round_up(count, kRows);
    packed.width = static_cast<int>(round_up(columns, 16));
    packed.none = none;
    const int64_t rows = images * packed.padded;
    packed.high = take<__half>(rows * packed.width);
    packed.low = split ? take<__half>(rows * packed.width) : nullptr;
    packed.scale = take<float>(rows);
    packed.label = take<Label>(rows);
    return packed;
  }

  int64_t used() const { return used_; }

 private:
  char* base_;
  int64_t used_ = 0;
};

}  // namespace ecgan::cuda::pairwise
