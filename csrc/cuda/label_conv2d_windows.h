// What label_conv2d's two passes share: codes of the label map, and the windows of some outputs.
// For its .cu file alone.
#pragma once

#include <cstdint>

#include "label_conv2d.h"
#include "launch.h"
#include "scalar.h"

namespace ecgan::cuda {
namespace {

struct Geometry {
  int64_t height, width, out_width;
  int64_t outputs;           // of an image
  int64_t images, channels;  //
  int kernel_width, taps;
  int stride_height, stride_width, padding_height, padding_width;
  int none;   // the code of a pixel without a label
  int codes;  // none + 1, twice that with edges

  explicit Geometry(const LabelConv2d& c, bool edges)
      : height(c.height),
        width(c.width),
        out_width(c.out_width),
        outputs(c.out_height * c.out_width),
        images(c.batch),
        channels(c.outputs),
        kernel_width(static_cast<int>(c.kernel_width)),
        taps(static_cast<int>(c.kernel_height * c.kernel_width)),
        stride_height(static_cast<int>(c.stride_height)),
        stride_width(static_cast<int>(c.stride_width)),
        padding_height(static_cast<int>(c.padding_height)),
        padding_width(static_cast<int>(c.padding_width)),
        none(static_cast<int>(c.columns - edges)),
        codes((none + 1) * (edges ? 2 : 1)) {}

  // Rows of the table: a tap and code each, and the bias.
  __host__ __device__ int64_t rows() const { return int64_t{taps} * codes + 1; }
};

// Where y or its gradient lies in memory. One output an image: those of the batch follow each
// other as if they were one image's.
struct Place {
  int64_t image, channel, output;  // strides in elements
};

__host__ __device__ inline int64_t divide_up(int64_t a, int64_t b) {
  return (a + b - 1) / b;
}

template <typename Label>
__global__ void __launch_bounds__(kThreads)
    encode(const Label* __restrict__ labels,         // [numel]
           const unsigned char* __restrict__ edges,  // [numel] or null
           int* __restrict__ codes,                  // [numel]
           int64_t numel, int none, int64_t ignore_index) {
  const int64_t stride = int64_t{gridDim.x} * blockDim.x;
  for (int64_t i = int64_t{blockIdx.x} * blockDim.x + threadIdx.x; i < numel; i += stride) {
    const int64_t label = static_cast<int64_t>(labels[i]);
    const bool known = label >= 0 && label < none && label != ignore_index;
    int code = known ? static_cast<int>(label) : none;
    if (edges && edges[i]) code += none + 1;
    codes[i] = code;
  }
}

template <typename T>
__global__ void __launch_bounds__(kThreads)
    pack_table(const T* __restrict__ weight,  // [channels, columns, kernel height, width], strides
               int64_t channel_stride, int64_t column_stride, int64_t row_stride,
               int64_t element_stride,
               const T* __restrict__ bias,  // [channels] or null
               float* __restrict__ table,   // [rows, width]
               int64_t width, Geometry g) {
  const int64_t stride = int64_t{gridDim.x} * blockDim.x;
  const int64_t numel = g.rows() * width;
  for (int64_t i = int64_t{blockIdx.x} * blockDim.x + threadIdx.x; i < numel; i += stride) {
    const int64_t row = i / width, o = i % width;
    const int tap = static_cast<int>(row / g.codes);
    const int code = static_cast<int>(row - int64_t{tap} * g.codes);
    float value = 0.0f;
    if (o < g.channels && tap == g.taps) {
      if (bias) value = to_float(bias[o]);
    } else if (o < g.channels) {
      const T* from = weight + o * channel_stride + tap / g.kernel_width * row_stride +
                      tap % g.kernel_width * element_stride;
      const int label = code % (g.none + 1);
      if (label != g.none) value = to_float(from[label * column_stride]);
      if (code > g.none) value += to_float(from[g.none * column_stride]);
    }
    table[i] = value;
  }
}

// Row of the table under a tap of an output; a window's margin outside the map has no label.
struct Window {
  int64_t row;  // -1: outside, nothing to add
  float scale;
};
__device__ inline Window look(const Geometry& g, const int* __restrict__ codes,
                              const float* __restrict__ scale, int64_t image, int64_t output,
                              int tap) {
  const int64_t y =
      output / g.out_width * g.stride_height + tap / g.kernel_width - g.padding_height;
  const int64_t x = output % g.out_width * g.stride_width + tap % g.kernel_width - g.padding_width;
  if (y < 0 || y >= g.height || x < 0 || x >= g.width) return {-1, 0.0f};
  const int64_t at = (image * g.height + y) * g.width + x;
  const int code = codes[at];
  if (code == g.none) return {-1, 0.0f};
  return {int64_t{tap} * g.codes + code, scale ? scale[at] : 1.0f};
}

// Rows and scales of the windows of kPixels outputs from `first` on (of the batch, where images
// have one output each), and as a mask which outputs see another window than the one before.
template <int kPixels>
__device__ inline void look_at_tile(const Geometry& g, const int* __restrict__ codes,
                                    const float* __restrict__ scale, int64_t image, int64_t first,
                                    int count,
                                    int* rows,          // [kPixels, taps]
                                    float* scales,      // [kPixels, taps]
                                    unsigned* heads) {  // [kPixels / 32]
  const bool single = g.outputs == 1;
  for (int i = threadIdx.x; i < kPixels * g.taps; i += kThreads) {
    const int p = i / g.taps, tap = i % g.taps;
    Window window{-1, 0.0f};
    if (p < count) {
      window = single ? look(g, codes, scale, first + p, 0, tap)
                      : look(g, codes, scale, image, first + p, tap);
    }
    rows[i] = static_cast<int>(window.row);
    scales[i] = window.scale;
  }
  __syncthreads();
  if (threadIdx.x < kPixels) {  // whole warps
    const int p = threadIdx.x;
    bool head = p % 8 == 0;  // a warp's outputs begin
    for (int tap = 0; tap < g.taps && !head; ++tap) {
      head = rows[p * g.taps + tap] != rows[(p - 1) * g.taps + tap] ||
             scales[p * g.taps + tap] != scales[(p - 1) * g.taps + tap];
    }
    const unsigned mask = __ballot_sync(~0u, head);
    if (p % 32 == 0) heads[p / 32] = mask;
  }
  __syncthreads();
}

}  // namespace
}  // namespace ecgan::cuda
