// Labels become codes once: the label, or `classes` where there is none, plus classes + 1 on an
// edge. A code and a tap name a row of a table whose channels lie side by side, so that a warp
// reads it coalesced. Neighbouring outputs mostly see the same window: forward, a warp then keeps
// its sums; backward, the gradients of such outputs are added up before the table is touched.
#include <algorithm>

#include "label_conv2d.h"
#include "label_conv2d_windows.h"
#include "launch.h"
#include "scalar.h"

namespace ecgan::cuda {
namespace {

constexpr const char* kOp = "label_conv2d";
constexpr int kWarps = kThreads / 32;
constexpr int kTilePixels = 32;     // forward: outputs of a block, a full line of floats a channel
constexpr int kTileChannels = 128;  // forward: a warp reads 4 of each lane
// Odd, so that lanes on different outputs hit different banks.
constexpr int kTileStride = kTileChannels + 1;
constexpr int kSumPixels = 64;    // backward: outputs of a block and turn, 8 a warp
constexpr int kSumChannels = 32;  // backward: a lane each
constexpr int kSumStride = kSumChannels + 1;
constexpr int64_t kMostBlocks = 2048;  // backward: more than the largest GPU runs at once

// ---------------------------------------------------------------------------------------------
// Forward: a block has kTilePixels outputs of an image and kTileChannels channels
// ---------------------------------------------------------------------------------------------

template <typename T>
__global__ void __launch_bounds__(kThreads, 4)  // without the 4, sm_86 gets 40 registers and spills
    forward(const int* __restrict__ codes,      // [images, height, width]
            const float* __restrict__ scale,    // as codes, or null
            const float* __restrict__ table,    // [rows, width], 16-byte aligned
            int64_t width,
            T* __restrict__ y,  // place
            Place place, int64_t tiles, bool packed, Geometry g) {
  ECGAN_DYNAMIC_SHARED(float, sums);  // [kTilePixels, kTileStride], then rows and scales
  ECGAN_SHARED(unsigned, heads, [1]);
  int* const rows = reinterpret_cast<int*>(sums + kTilePixels * kTileStride);
  float* const scales = reinterpret_cast<float*>(rows + kTilePixels * g.taps);
  const bool single = g.outputs == 1;
  const int64_t image = single ? 0 : blockIdx.x / tiles;
  const int64_t first = (blockIdx.x % tiles) * kTilePixels;
  const int64_t left = (single ? g.images : g.outputs) - first;
  const int count = static_cast<int>(left < kTilePixels ? left : kTilePixels);
  const int lane = threadIdx.x % 32, warp = threadIdx.x / 32;
  look_at_tile<kTilePixels>(g, codes, scale, image, first, count, rows, scales, heads);

  const int64_t block_channel = int64_t{blockIdx.y} * kTileChannels;
  const int64_t channel = block_channel + 4 * lane;
  const unsigned mask = heads[0];
  if (channel < width) {
    const float* const column = table + channel;
    const Pack<float> bias = load_pack(column + (g.rows() - 1) * width);
    Pack<float> sum = bias;
    for (int p = warp * (kTilePixels / kWarps); p < (warp + 1) * (kTilePixels / kWarps); ++p) {
      // The mask has a head every 8 outputs; a warp has fewer, and begins anew in any case.
      if (mask >> p & 1 || p % (kTilePixels / kWarps) == 0) {
        sum = bias;
        for (int tap = 0; tap < g.taps; ++tap) {
          const int row = rows[p * g.taps + tap];
          if (row < 0) continue;
          const float times = scales[p * g.taps + tap];
          const Pack<float> add = load_pack(column + row * width);
#pragma unroll
          for (int k = 0; k < 4; ++k) sum.at[k] += times * add.at[k];
        }
      }
      // Rotated by one every 8 lanes, which else would meet on the same bank.
#pragma unroll
      for (int k = 0; k < 4; ++k) {
        const int turn = (k + lane / 8) % 4;
        const float low = turn & 1 ? sum.at[1] : sum.at[0];
        const float high = turn & 1 ? sum.at[3] : sum.at[2];
        sums[p * kTileStride + 4 * lane + turn] = turn & 2 ? high : low;
      }
    }
  }
  __syncthreads();

  const int64_t channels_left = g.channels - block_channel;
  const int channels =
      static_cast<int>(channels_left < kTileChannels ? channels_left : kTileChannels);
  T* const out = y + image * place.image + block_channel * place.channel + first * place.output;
  constexpr int kSize = Pack<T>::kSize;
  if (place.output == 1 && packed && count == kTilePixels) {
    constexpr int kPacks = kTilePixels / kSize;
    for (int i = threadIdx.x; i < channels * kPacks; i += kThreads) {
      const int o = i / kPacks, p = i % kPacks * kSize;
      Pack<T> values;
#pragma unroll
      for (int k = 0; k < kSize; ++k) {
        values.at[k] = from_float<T>(sums[(p + k) * kTileStride + o]);
      }
      store_pack(out + o * place.channel + p, values);
    }
  } else if (place.output == 1) {
    for (int i = threadIdx.x; i < channels * kTilePixels; i += kThreads) {
      const int o = i / kTilePixels, p = i % kTilePixels;
      if (p < count) out[o * place.channel + p] = from_float<T>(sums[p * kTileStride + o]);
    }
  } else {
    for (int i = threadIdx.x; i < kTileChannels * count; i += kThreads) {
      const int o = i % kTileChannels, p = i / kTileChannels;
      if (o < channels) {
        out[o * place.channel + p * place.output] = from_float<T>(sums[p * kTileStride + o]);
      }
    }
  }
}

// ---------------------------------------------------------------------------------------------
// Backward: a block has a part of the tiles and kSumChannels channels, and a table of its own.
//   dT_o,c,t = sum_p g_o(p) s(p + t) [c(p + t) = c],   dbias_o = sum_p g_o(p)
// ---------------------------------------------------------------------------------------------

// The gradients of a tile, zeros where there are none.
template <typename T>
__device__ inline void stage(const T* __restrict__ grad,  // the tile's first, by place
                             const Place& place, int count, int channels, bool packed,
                             float* values) {  // [kSumPixels, kSumStride]
  constexpr int kSize = Pack<T>::kSize;
  if (place.output == 1 && packed && count == kSumPixels) {
    constexpr int kPacks = kSumPixels / kSize;
    for (int i = threadIdx.x; i < kSumChannels * kPacks; i += kThreads) {
      const int o = i / kPacks, p = i % kPacks * kSize;
      Pack<T> pack{};
      if (o < channels) pack = load_pack(grad + o * place.channel + p);
#pragma unroll
      for (int k = 0; k < kSize; ++k) {
        values[(p + k) * kSumStride + o] = o < channels ? to_float(pack.at[k]) : 0.0f;
      }
    }
    return;
  }
  const bool along = place.channel != 1;  // neighbouring threads on neighbouring outputs
  for (int i = threadIdx.x; i < kSumChannels * kSumPixels; i += kThreads) {
    const int o = along ? i / kSumPixels : i % kSumChannels;
    const int p = along ? i % kSumPixels : i / kSumChannels;
    const bool inside = o < channels && p < count;
    values[p * kSumStride + o] =
        inside ? to_float(grad[o * place.channel + p * place.output]) : 0.0f;
  }
}

template <typename T>
__global__ void __launch_bounds__(kThreads)
    backward(const T* __restrict__ grad,       // place
             const int* __restrict__ codes,    // [images, height, width]
             const float* __restrict__ scale,  // as codes, or null
             float* __restrict__ tables,       // [parts, channel blocks, rows, kSumChannels]
             Place place, int64_t tiles, bool packed, Geometry g) {
  ECGAN_DYNAMIC_SHARED(float, values);  // [kSumPixels, kSumStride], then rows and scales
  ECGAN_SHARED(unsigned, heads, [kSumPixels / 32]);
  int* const rows = reinterpret_cast<int*>(values + kSumPixels * kSumStride);
  float* const scales = reinterpret_cast<float*>(rows + kSumPixels * g.taps);
  const bool single = g.outputs == 1;
  const int64_t parts = gridDim.x, part = blockIdx.x;
  const int64_t all = single ? tiles : tiles * g.images;
  const int lane = threadIdx.x % 32, warp = threadIdx.x / 32;
  const int64_t channel = int64_t{blockIdx.y} * kSumChannels;
  const int64_t channels_left = g.channels - channel;
  const int channels =
      static_cast<int>(channels_left < kSumChannels ? channels_left : kSumChannels);
  float* const table = tables + (part * gridDim.y + blockIdx.y) * g.rows() * kSumChannels + lane;
  // Behind the barriers of a tile each warp owns the rows of its taps: it alone writes them.
  for (int64_t row = warp; row < g.rows(); row += kWarps) table[row * kSumChannels] = 0.0f;

  for (int64_t tile = all * part / parts; tile < all * (part + 1) / parts; ++tile) {
    const int64_t image = single ? 0 : tile / tiles;
    const int64_t first = (single ? tile : tile % tiles) * kSumPixels;
    const int64_t left = (single ? g.images : g.outputs) - first;
    const int count = static_cast<int>(left < kSumPixels ? left : kSumPixels);
    const T* const from =
        grad + image * place.image + channel * place.channel + first * place.output;
    stage(from, place, count, channels, packed, values);
    look_at_tile<kSumPixels>(g, codes, scale, image, first, count, rows, scales, heads);

    // Each warp adds up the runs among its outputs, which go to the run's first.
    constexpr int kEach = kSumPixels / kWarps;
    static_assert(kEach == 8, "look_at_tile begins a run every 8 outputs");
    const unsigned here = heads[warp * kEach / 32] >> (warp * kEach % 32);
    float sum = 0.0f;
    for (int k = kEach - 1; k >= 0; --k) {
      float* const value = values + (warp * kEach + k) * kSumStride + lane;
      sum += *value;
      if (here >> k & 1) {
        *value = sum;
        sum = 0.0f;
      }
    }
    __syncthreads();

    // Then each warp takes the runs of all to the rows of its taps; tap `taps` is the bias.
    for (int tap = warp; tap <= g.taps; tap += kWarps) {
      int now = -1;
      float add = 0.0f;
      for (int half = 0; half < kSumPixels / 32; ++half) {
        for (unsigned mask = heads[half]; mask; mask &= mask - 1) {
          const int p = half * 32 + __ffs(static_cast<int>(mask)) - 1;
          const bool bias = tap == g.taps;
          const int row = bias ? tap * g.codes : rows[p * g.taps + tap];
          const float value = values[p * kSumStride + lane];
          if (row != now) {
            if (now >= 0) table[int64_t{now} * kSumChannels] += add;
            now = row;
            add = 0.0f;
          }
          add += bias ? value : value * scales[p * g.taps + tap];
        }
      }
      if (now >= 0) table[int64_t{now} * kSumChannels] += add;
    }
    __syncthreads();  // before the next tile is staged
  }
}

// tables of part 0 += those of the others, in their order.
__global__ void __launch_bounds__(kThreads)
    sum_parts(float* __restrict__ tables,  // [parts, packs], 16-byte aligned
              int64_t packs, int64_t parts) {
  const int64_t stride = int64_t{gridDim.x} * blockDim.x;
  for (int64_t i = int64_t{blockIdx.x} * blockDim.x + threadIdx.x; i < packs; i += stride) {
    Pack<float> sum = load_pack(tables + i * 4);
    for (int64_t part = 1; part < parts; ++part) {
      const Pack<float> other = load_pack(tables + (part * packs + i) * 4);
#pragma unroll
      for (int k = 0; k < 4; ++k) sum.at[k] += other.at[k];
    }
    store_pack(tables + i * 4, sum);
  }
}

// A warp a column of the weight (the last one is of the edges) and tap, a lane a channel.
template <typename T>
__global__ void __launch_bounds__(kThreads)
    unpack_table(const float* __restrict__ table,  // [channel blocks, rows, kSumChannels]
                 T* __restrict__ grad_weight,      // [channels, columns, taps] or null
                 T* __restrict__ grad_bias,        // [channels] or null
                 int64_t columns, Geometry g) {
  const int lane = threadIdx.x % 32;
  const int64_t channel = int64_t{blockIdx.y} * kSumChannels + lane;
  const float* const from = table + blockIdx.y * g.rows() * kSumChannels + lane;
  if (channel >= g.channels) return;
  const int64_t stride = int64_t{gridDim.x} * kWarps;
  for (int64_t i = int64_t{blockIdx.x} * kWarps + threadIdx.x / 32; i <= columns * g.taps;
       i += stride) {
    if (i == columns * g.taps) {
      if (grad_bias) grad_bias[channel] = from_float<T>(from[(g.rows() - 1) * kSumChannels]);
      continue;
    }
    if (!grad_weight) continue;
    const int64_t column = i / g.taps, tap = i % g.taps;
    const float* const rows = from + tap * g.codes * kSumChannels;
    float sum = 0.0f;
    if (column < g.none) {
      sum = rows[column * kSumChannels];
      if (g.codes > g.none + 1) sum += rows[(column + g.none + 1) * kSumChannels];
    } else {
      for (int code = g.none + 1; code < g.codes; ++code) sum += rows[code * kSumChannels];
    }
    grad_weight[(channel * columns + column) * g.taps + tap] = from_float<T>(sum);
  }
}

// ---------------------------------------------------------------------------------------------
// Launches
// ---------------------------------------------------------------------------------------------

struct Workspace {
  int64_t codes_bytes, width, table_floats, parts = 0, channel_blocks;

  Workspace(const LabelConv2d& c, const Geometry& g, bool backward) {
    codes_bytes = divide_up(c.batch * c.height * c.width * 4, 256) * 256;
    width = divide_up(c.outputs, 4) * 4;
    channel_blocks = divide_up(c.outputs, kSumChannels);
    table_floats = g.rows() * width;
    if (!backward) return;
    // As many parts as fill a GPU; their tables, which are zeroed and summed, stay a quarter of
    // the gradient. A number that depends on sizes alone, as the order of the sums does.
    table_floats = channel_blocks * g.rows() * kSumChannels;
    const int64_t size = c.dtype == DType::f32 ? 4 : 2;
    const int64_t outputs = c.batch * g.outputs;
    const int64_t affordable = outputs * c.outputs * size / 4 / (table_floats * 4);
    const int64_t tiles = divide_up(outputs, kSumPixels);
    parts =
        std::max<int64_t>(1, std::min({affordable, tiles, divide_up(kMostBlocks, channel_blocks)}));
  }
  int64_t bytes() const { return codes_bytes + std::max<int64_t>(parts, 1) * table_floats * 4; }
  int* codes(void* memory) const { return static_cast<int*>(memory); }
  float* table(void* memory) const {
    return reinterpret_cast<float*>(static_cast<char*>(memory) + codes_bytes);
  }
};

void launch_encode(const LabelConv2d& c, const Geometry& g, const void* labels, const void* edges,
                   int* codes, void* stream) {
  const int64_t numel = c.batch * c.height * c.width;
  const auto run = [&](auto label) {
    using Label = decltype(label);
    launch(kOp, encode<Label>, elementwise_blocks(numel), kThreads, 0, stream,
           static_cast<const Label*>(labels), static_cast<const unsigned char*>(edges), codes,
           numel, g.none, c.ignore_index);
  };
  switch (c.label_bytes) {
    case 1:
      return run(static_cast<unsigned char>(0));
    case 2:
      return run(int16_t{0});
    case 4:
      return run(int32_t{0});
    default:
      return run(int64_t{0});
  }
}

std::size_t shared_bytes(const Geometry& g, int pixels, int stride) {
  return static_cast<std::size_t>(pixels) * (stride + 2 * g.taps) * 4;
}

}  // namespace

int64_t label_conv2d_workspace(const LabelConv2d& call, bool edges, bool backward) {
  return Workspace(call, Geometry(call, edges), backward).bytes();
}

void label_conv2d(const LabelConv2d& call, const void* labels, const void* edges,
                  const float* scale, const void* weight, const int64_t (&strides)[4],
                  const void* bias, void* y, void* workspace, void* stream) {
  const Geometry g(call, edges != nullptr);
  if (g.images == 0 || g.channels == 0) return;
  const Workspace work(call, g, false);
  int* const codes = work.codes(workspace);
  float* const table = work.table(workspace);
  launch_encode(call, g, labels, edges, codes, stream);
  const bool single = g.outputs == 1;
  const Place place =
      single ? Place{0, 1, g.channels} : Place{g.channels * g.outputs, g.outputs, 1};
  const int64_t tiles = divide_up(single ? g.images : g.outputs, kTilePixels);
  const dim3 grid(static_cast<unsigned>(single ? tiles : tiles * g.images),
                  static_cast<unsigned>(divide_up(g.channels, kTileChannels)));
  dispatch_dtype(kOp, call.dtype, [&](auto scalar) {
    using T = decltype(scalar);
    launch(kOp, pack_table<T>, elementwise_blocks(work.table_floats), kThreads, 0, stream,
           static_cast<const T*>(weight), strides[0], strides[1], strides[2], strides[3],
           static_cast<const T*>(bias), table, work.width, g);
    const bool packed = pack_aligned(y) && g.outputs % Pack<T>::kSize == 0;
    launch(kOp, forward<T>, grid, kThreads, shared_bytes(g, kTilePixels, kTileStride), stream,
           static_cast<const int*>(codes), scale, static_cast<const float*>(table), work.width,
           static_cast<T*>(y), place, tiles, packed, g);
  });
}

void label_conv2d_backward(const LabelConv2d& call, const void* grad, const int64_t (&strides)[3],
                           const void* labels, const void* edges, const float* scale,
                           void* grad_weight, void* grad_bias, void* workspace, void* stream) {
  const Geometry g(call, edges != nullptr);
  if (g.channels == 0 || (!grad_weight && !grad_bias)) return;
  const Workspace work(call, g, true);
  int* const codes = work.codes(workspace);
  float* const tables = work.table(workspace);
  if (g.images > 0) launch_encode(call, g, labels, edges, codes, stream);
  const bool single = g.outputs == 1;
  const Place place =
      single ? Place{0, strides[1], strides[0]} : Place{strides[0], strides[1], strides[2]};
  const int64_t tiles = divide_up(single ? g.images : g.outputs, kSumPixels);
  const unsigned channel_blocks = static_cast<unsigned>(work.channel_blocks);
  dispatch_dtype(kOp, call.dtype, [&](auto scalar) {
    using T = decltype(scalar);
    const int64_t size = Pack<T>::kSize;
    const bool packed = pack_aligned(grad) && place.channel % size == 0 && place.image % size == 0;
    launch(kOp, backward<T>, dim3(static_cast<unsigned>(work.parts), channel_blocks), kThreads,
           shared_bytes(g, kSumPixels, kSumStride), stream, static_cast<const T*>(grad),
           static_cast<const int*>(codes), scale, tables, place, tiles, packed, g);
    launch(kOp, sum_parts, elementwise_blocks(work.table_floats / 4), kThreads, 0, stream, tables,
           work.table_floats / 4, work.parts);
    const unsigned warps = elementwise_blocks((call.columns * g.taps + 1) * 32);
    launch(kOp, unpack_table<T>, dim3(warps, channel_blocks), kThreads, 0, stream,
           static_cast<const float*>(tables), static_cast<T*>(grad_weight),
           static_cast<T*>(grad_bias), call.columns, g);
  });
}

}  // namespace ecgan::cuda
