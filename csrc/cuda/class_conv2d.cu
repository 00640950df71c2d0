// Implicit matrix products, forward and grad_x as one kernel, with the weights turned. A block
// holds a tile of the map with its halo in shared memory, in float; which taps of a pixel count are
// nine bits in a register, and what does not count is replaced by 0 as it leaves shared memory.
#include "class_conv2d_tile.h"

namespace ecgan::cuda {
namespace {

using namespace class_conv;

// A thread sums up 4 pixels in a row and kOutputs outputs, a warp 4 rows of pixels; 4 warps share
// the outputs, 2 the rows.
constexpr int kRows = 8, kColumns = 32, kPixels = 4;
constexpr int kChunk = 8;             // channels in shared memory at a time
constexpr int kPitch = kColumns + 4;  // floats from row to row there: whole 16 bytes
constexpr int kGroups = 4;            // of outputs
static_assert(kRows * kColumns / kPixels * kGroups == kThreads);

// packed[block][c][t][o] = weight[o][c][t], or turned weight[c][o][8 - t]; 0 in the rest of the
// last block of outputs and of the last chunk of channels.
__global__ void __launch_bounds__(kThreads)
    pack_weights(const float* __restrict__ weight,  // [outputs, channels, 9] or turned
                 float* __restrict__ packed,        // [blocks, padded channels, 9, block outputs]
                 int64_t outputs, int64_t channels, int64_t padded, int block, bool turned,
                 int64_t count) {
  const int64_t stride = int64_t{gridDim.x} * blockDim.x * 4;
  for (int64_t i = (int64_t{blockIdx.x} * blockDim.x + threadIdx.x) * 4; i < count; i += stride) {
    const int64_t t = i / block % kTaps, c = i / block / kTaps % padded;
    const int64_t first = i / block / kTaps / padded * block + i % block;
    Pack<float> pack;
#pragma unroll
    for (int k = 0; k < 4; ++k) {
      const int64_t o = first + k;
      pack.at[k] = 0.0f;
      if (o < outputs && c < channels) {
        pack.at[k] = turned ? weight[(c * outputs + o) * kTaps + kTaps - 1 - t]
                            : weight[(o * channels + c) * kTaps + t];
      }
    }
    store_pack(packed + i, pack);
  }
}

template <typename T>
struct Product {
  Map map;
  Source<T> x;
  const float* weight;  // packed
  const float* bias;    // [outputs], or null
  Source<T> gate;       // sums are multiplied by gate > 0 ? 1 : its slope; null: they are not
  T* y;                 // [batch, outputs, height, width]
  int64_t outputs, padded_channels;
};

template <typename T, int kOutputs>
__global__ void __launch_bounds__(kThreads, 2) product(Product<T> p) {
  constexpr int kBlock = kGroups * kOutputs, kWeights = kChunk * kTaps * kBlock;
  ECGAN_SHARED(int64_t, labels, [kRows + 2][kColumns + 2]);
  ECGAN_SHARED(Four<float>, values, [kChunk][kRows + 2][kPitch / 4]);
  ECGAN_SHARED(Four<float>, weights, [kWeights / 4]);
  const Tile<kRows, kColumns> tile(blockIdx.x, p.map);
  const int lane = threadIdx.x % 32, warp = threadIdx.x / 32;
  const int group = warp % kGroups, row = warp / kGroups * 4 + lane / 8, column = lane % 8 * 4;
  const bool by_channels = p.x.stride[3] != 1 && p.x.stride[1] == 1;

  tile.load_labels(p.map, labels);
  __syncthreads();
  unsigned bits[kPixels];
#pragma unroll
  for (int i = 0; i < kPixels; ++i) bits[i] = taps_of<kColumns + 2>(labels, row, column + i);

  float sum[kPixels][kOutputs] = {};
  const float* packed = p.weight + blockIdx.y * p.padded_channels * kTaps * kBlock;
  for (int64_t first = 0; first < p.x.channels; first += kChunk, packed += kWeights) {
    __syncthreads();  // the last chunk has been read
    constexpr int kArea = (kRows + 2) * (kColumns + 2);
    for (int i = threadIdx.x; i < kChunk * kArea; i += kThreads) {
      const int c = by_channels ? i % kChunk : i / kArea;
      const int pixel = by_channels ? i / kChunk : i % kArea;
      const int r = pixel / (kColumns + 2), j = pixel % (kColumns + 2);
      values[c][r][j / 4].at[j % 4] =
          p.x.at(p.map, tile.image, first + c, tile.row + r - 1, tile.column + j - 1);
    }
    for (int i = threadIdx.x; i < kWeights / 4; i += kThreads) {
      const float4 four = __ldg(reinterpret_cast<const float4*>(packed) + i);
      weights[i] = {{four.x, four.y, four.z, four.w}};
    }
    __syncthreads();
#pragma unroll 1
    for (int c = 0; c < kChunk; ++c) {
#pragma unroll
      for (int dy = 0; dy < 3; ++dy) {
        // The pixels' values from one column before to one behind them.
        const Four<float> left = values[c][row + dy][column / 4];
        const Four<float> right = values[c][row + dy][column / 4 + 1];
        const float x[6] = {left.at[0], left.at[1],  left.at[2],
                            left.at[3], right.at[0], right.at[1]};
#pragma unroll
        for (int dx = 0; dx < 3; ++dx) {
          const int tap = dy * 3 + dx;
          const float* const from = reinterpret_cast<const float*>(weights) +
                                    (c * kTaps + tap) * kBlock + group * kOutputs;
          float w[kOutputs];
#pragma unroll
          for (int o = 0; o < kOutputs; ++o) w[o] = from[o];
#pragma unroll
          for (int i = 0; i < kPixels; ++i) {
            const float v = keep(x[i + dx], bits[i], tap);
#pragma unroll
            for (int o = 0; o < kOutputs; ++o) sum[i][o] += w[o] * v;
          }
        }
      }
    }
  }

  const int64_t y = tile.row + row, x = tile.column + column;
  if (y >= p.map.height) return;
  const int64_t columns = p.map.width - x;
  const int64_t first = int64_t{blockIdx.y} * kBlock + group * kOutputs;
  const auto result = [&](int o, int i) {
    float v = sum[i][o] + (p.bias ? p.bias[first + o] : 0.0f);
    if (p.gate.data) {
      const int64_t* const s = p.gate.stride;
      const T gate =
          p.gate.data[tile.image * s[0] + (first + o) * s[1] + y * s[2] + (x + i) * s[3]];
      if (!(to_float(gate) > 0.0f)) v *= p.gate.slope;
    }
    return from_float<T>(v);
  };
  T* to = p.y + ((tile.image * p.outputs + first) * p.map.height + y) * p.map.width + x;
  const int64_t step = p.map.height * p.map.width;
#pragma unroll
  for (int o = 0; o < kOutputs; ++o, to += step) {
    if (first + o >= p.outputs) break;
#pragma unroll
    for (int i = 0; i < kPixels; ++i) {
      if (i < columns) to[i] = result(o, i);
    }
  }
}

template <typename T>
void run_product(Product<T> p, int64_t batch, const float* weight, bool turned, void* workspace,
                 void* stream) {
  const int64_t tiles = batch * divide_up(p.map.height, kRows) * divide_up(p.map.width, kColumns);
  if (tiles == 0 || p.outputs == 0) return;
  const int block = block_outputs(p.outputs);
  const int64_t blocks = divide_up(p.outputs, block);
  p.padded_channels = divide_up(p.x.channels, kChunk) * kChunk;
  const int64_t count = blocks * p.padded_channels * kTaps * block;
  float* const packed = static_cast<float*>(workspace);
  if (count > 0) {
    launch(kOp, pack_weights, elementwise_blocks(count / 4), kThreads, 0, stream, weight, packed,
           p.outputs, p.x.channels, p.padded_channels, block, turned, count);
  }
  p.weight = packed;
  const auto kernel = block == 32   ? product<T, 8>
                      : block == 16 ? product<T, 4>
                      : block == 8  ? product<T, 2>
                                    : product<T, 1>;
  const dim3 grid(static_cast<unsigned>(tiles), static_cast<unsigned>(blocks));
  launch(kOp, kernel, grid, dim3(kThreads), 0, stream, p);
}

}  // namespace

int64_t class_conv2d_workspace(const ClassConv2d& call) {
  const auto bytes = [](int64_t outputs, int64_t channels) {
    const int block = block_outputs(outputs);
    return divide_up(outputs, block) * block * divide_up(channels, kChunk) * kChunk * kTaps * 4;
  };
  const int64_t forward = bytes(call.outputs, call.channels);
  const int64_t backward = bytes(call.channels, call.outputs);
  return forward > backward ? forward : backward;
}

void class_conv2d(const ClassConv2d& call, const ConvImages& x, const float* weight,
                  const float* bias, void* y, void* workspace, void* stream) {
  dispatch_dtype(kOp, call.dtype, [&](auto scalar) {
    using T = decltype(scalar);
    Product<T> p{};
    p.map = {call.labels, call.height, call.width};
    p.x = source<T>(x, call.channels, call.slope);
    p.bias = bias;
    p.y = static_cast<T*>(y);
    p.outputs = call.outputs;
    run_product(p, call.batch, weight, false, workspace, stream);
  });
}

void class_conv2d_backward_x(const ClassConv2d& call, const ConvImages& grad, const ConvImages& x,
                             const float* weight, void* grad_x, void* workspace, void* stream) {
  dispatch_dtype(kOp, call.dtype, [&](auto scalar) {
    using T = decltype(scalar);
    Product<T> p{};
    p.map = {call.labels, call.height, call.width};
    p.x = source<T>(grad, call.outputs, 1.0f);
    if (call.slope != 1.0f) p.gate = source<T>(x, call.channels, call.slope);
    p.y = static_cast<T*>(grad_x);
    p.outputs = call.channels;
    run_product(p, call.batch, weight, true, workspace, stream);
  });
}

}  // namespace ecgan::cuda
