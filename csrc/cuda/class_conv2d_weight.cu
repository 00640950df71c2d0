// The weights' gradient: sums over pixels, in parts which a last kernel adds up in order.
//
// A thread sums up 4 outputs, one channel and all taps; the lanes of a warp take kGroupsOfFour
// groups of outputs and 32 / kGroupsOfFour channels. A block takes 32 channels; where they need
// fewer than its 8 warps, the others take rows of the tile, and write sums of their own.
#include "class_conv2d_tile.h"

namespace ecgan::cuda {
namespace {

using namespace class_conv;

constexpr int kWeightRows = 8, kWeightColumns = 16, kWeightChannels = 32;
constexpr int kPixelPitch = kWeightChannels + 1;  // odd: neighbours lie in different banks
// Blocks that fill a large GPU, and bytes that their sums may take.
constexpr int kBlocks = ECGAN_MAX_BLOCKS < 256 ? ECGAN_MAX_BLOCKS : 256;
constexpr int64_t kPartBytes = int64_t{8} << 20;

struct Plan {
  int groups;  // of 4 outputs in a block
  int64_t output_blocks, channel_blocks, tiles;
  int64_t parts;            // of the tiles; each writes 8 / groups sums
  int64_t weights, biases;  // floats of a slice: whole packs
  int64_t slices() const { return parts * (8 / groups); }

  explicit Plan(const ClassConv2d& call) {
    groups = block_outputs(call.outputs) / 4;
    output_blocks = divide_up(call.outputs, groups * 4);
    channel_blocks = divide_up(call.channels > 0 ? call.channels : 1, kWeightChannels);
    tiles =
        call.batch * divide_up(call.height, kWeightRows) * divide_up(call.width, kWeightColumns);
    weights = divide_up(call.outputs * call.channels * kTaps, 4) * 4;
    biases = divide_up(call.outputs, 4) * 4;
    const int64_t blocks = output_blocks * channel_blocks;
    parts = blocks > 0 ? divide_up(kBlocks, blocks) : 1;
    const int64_t bytes = (8 / groups) * (weights + biases) * 4;
    const int64_t fit = bytes > 0 ? kPartBytes / bytes : 1;
    if (parts > fit) parts = fit > 1 ? fit : 1;
    if (parts > tiles) parts = tiles;
  }
};

template <typename T>
struct WeightSums {
  Map map;
  Source<T> grad, x;
  int64_t tiles, parts;
  float* weight;            // [slices, weights], of which [outputs, channels, 9] are in use
  float* bias;              // [parts, biases], of which [outputs]
  int64_t weights, biases;  // as in the plan
};

template <typename T, int kGroupsOfFour>
__global__ void __launch_bounds__(kThreads, 2) weight_sums(WeightSums<T> w) {
  constexpr int kOutputs = kGroupsOfFour * 4, kOutputPitch = kOutputs + 4;
  constexpr int kSlices = 8 / kGroupsOfFour, kSubsets = kThreads / kOutputs;
  constexpr int kHigh = kWeightRows + 2, kWide = kWeightColumns + 2;
  ECGAN_SHARED(int64_t, labels, [kHigh][kWide]);
  ECGAN_SHARED(unsigned short, taps, [kWeightRows][kWeightColumns]);
  ECGAN_SHARED(Four<float>, grads, [kHigh][kWide][kOutputPitch / 4]);
  ECGAN_SHARED(float, values, [kWeightRows][kWeightColumns][kPixelPitch]);
  ECGAN_SHARED(float, bias_sums, [kSubsets][kOutputs]);
  const int lane = threadIdx.x % 32, warp = threadIdx.x / 32;
  const int group = lane % kGroupsOfFour, slice = warp / kGroupsOfFour;
  const int channel = warp % kGroupsOfFour * (32 / kGroupsOfFour) + lane / kGroupsOfFour;
  const int64_t output = int64_t{blockIdx.y} * kOutputs;
  const int64_t first_channel = int64_t{blockIdx.z} * kWeightChannels;
  const int bias_output = threadIdx.x % kOutputs, subset = threadIdx.x / kOutputs;

  // With q for p + t: dW_t = sum_q a(x(q)) grad(q - t)^T [labels(q) == labels(q - t)]
  float sum[kTaps][4] = {};
  float bias_sum = 0.0f;
  const int64_t begin = blockIdx.x * w.tiles / w.parts, end = (blockIdx.x + 1) * w.tiles / w.parts;
  for (int64_t number = begin; number < end; ++number) {
    const Tile<kWeightRows, kWeightColumns> tile(number, w.map);
    __syncthreads();  // the last tile has been read
    tile.load_labels(w.map, labels);
    for (int i = threadIdx.x; i < kOutputs * kHigh * kWide; i += kThreads) {
      const int o = i / (kHigh * kWide), r = i / kWide % kHigh, j = i % kWide;
      grads[r][j][o / 4].at[o % 4] =
          w.grad.at(w.map, tile.image, output + o, tile.row + r - 1, tile.column + j - 1);
    }
    for (int i = threadIdx.x; i < kWeightChannels * kWeightRows * kWeightColumns; i += kThreads) {
      const int c = i / (kWeightRows * kWeightColumns), r = i / kWeightColumns % kWeightRows;
      const int j = i % kWeightColumns;
      values[r][j][c] = w.x.at(w.map, tile.image, first_channel + c, tile.row + r, tile.column + j);
    }
    __syncthreads();
    if (threadIdx.x < kWeightRows * kWeightColumns) {
      const int r = threadIdx.x / kWeightColumns, j = threadIdx.x % kWeightColumns;
      taps[r][j] = static_cast<unsigned short>(taps_of<kWide>(labels, r, j));
    }
    __syncthreads();
#pragma unroll 1
    for (int r = slice; r < kWeightRows; r += kSlices) {
      Four<float> near[3][3];  // grad around the pixel
#pragma unroll
      for (int dy = 0; dy < 3; ++dy) {
        near[dy][1] = grads[r + dy][0][group];
        near[dy][2] = grads[r + dy][1][group];
      }
#pragma unroll 3  // as often as `near` turns: nothing is moved, and no architecture spills
      for (int j = 0; j < kWeightColumns; ++j) {
#pragma unroll
        for (int dy = 0; dy < 3; ++dy) {
          near[dy][0] = near[dy][1];
          near[dy][1] = near[dy][2];
          near[dy][2] = grads[r + dy][j + 2][group];
        }
        const unsigned bits = taps[r][j];
        const float x = values[r][j][channel];
#pragma unroll
        for (int t = 0; t < kTaps; ++t) {
          const float v = keep(x, bits, kTaps - 1 - t);
#pragma unroll
          for (int o = 0; o < 4; ++o) {
            sum[t][o] += v * near[2 - t / 3][2 - t % 3].at[o];
          }
        }
      }
    }
    if (blockIdx.z == 0) {
      for (int i = subset; i < kWeightRows * kWeightColumns; i += kSubsets) {
        const int r = i / kWeightColumns + 1, j = i % kWeightColumns + 1;
        bias_sum += grads[r][j][bias_output / 4].at[bias_output % 4];
      }
    }
  }

  if (first_channel + channel < w.x.channels) {
    float* const to = w.weight + (int64_t{blockIdx.x} * kSlices + slice) * w.weights;
#pragma unroll
    for (int o = 0; o < 4; ++o) {
      const int64_t row = output + group * 4 + o;
      if (row >= w.grad.channels) continue;
#pragma unroll
      for (int t = 0; t < kTaps; ++t) {
        to[(row * w.x.channels + first_channel + channel) * kTaps + t] = sum[t][o];
      }
    }
  }
  if (blockIdx.z == 0) {
    bias_sums[subset][bias_output] = bias_sum;
    __syncthreads();
    if (subset == 0 && output + bias_output < w.grad.channels) {
      float total = 0.0f;
      for (int s = 0; s < kSubsets; ++s) total += bias_sums[s][bias_output];
      w.bias[blockIdx.x * w.biases + output + bias_output] = total;
    }
  }
}

// sums[i] = sum over slices of partial[slice][i]
__global__ void __launch_bounds__(kThreads)
    add_slices(const float* __restrict__ partial,  // [slices, stride]
               int64_t slices, int64_t stride,     // whole packs
               float* __restrict__ sums,           // [count]
               int64_t count) {
  constexpr int kSize = Pack<float>::kSize;
  const int64_t step = int64_t{gridDim.x} * blockDim.x * kSize;
  for (int64_t i = (int64_t{blockIdx.x} * blockDim.x + threadIdx.x) * kSize; i < count; i += step) {
    double sum[kSize] = {};
    for (int64_t s = 0; s < slices; ++s) {
      const Pack<float> pack = load_pack(partial + s * stride + i);
#pragma unroll
      for (int k = 0; k < kSize; ++k) sum[k] += pack.at[k];
    }
    Pack<float> pack;
#pragma unroll
    for (int k = 0; k < kSize; ++k) pack.at[k] = static_cast<float>(sum[k]);
    if (i + kSize <= count) {
      store_pack(sums + i, pack);
    } else {
      for (int k = 0; i + k < count; ++k) sums[i + k] = pack.at[k];
    }
  }
}

}  // namespace

int64_t class_conv2d_weight_workspace(const ClassConv2d& call) {
  const Plan plan(call);
  return (plan.slices() * plan.weights + plan.parts * plan.biases) * 4;
}

void class_conv2d_backward_weight(const ClassConv2d& call, const ConvImages& grad,
                                  const ConvImages& x, float* grad_weight, float* grad_bias,
                                  void* workspace, void* stream) {
  if (call.outputs == 0) return;
  const Plan plan(call);
  float* const weights = static_cast<float*>(workspace);
  float* const bias = weights + plan.slices() * plan.weights;
  dispatch_dtype(kOp, call.dtype, [&](auto scalar) {
    using T = decltype(scalar);
    if (plan.parts == 0) return;
    const WeightSums<T> w{{call.labels, call.height, call.width},
                          source<T>(grad, call.outputs, 1.0f),
                          source<T>(x, call.channels, call.slope),
                          plan.tiles,
                          plan.parts,
                          weights,
                          bias,
                          plan.weights,
                          plan.biases};
    const auto kernel = plan.groups == 8   ? weight_sums<T, 8>
                        : plan.groups == 4 ? weight_sums<T, 4>
                        : plan.groups == 2 ? weight_sums<T, 2>
                                           : weight_sums<T, 1>;
    const dim3 grid(static_cast<unsigned>(plan.parts), static_cast<unsigned>(plan.output_blocks),
                    static_cast<unsigned>(plan.channel_blocks));
    launch(kOp, kernel, grid, dim3(kThreads), 0, stream, w);
  });
  const auto add = [&](const float* partial, int64_t slices, int64_t stride, float* sums,
                       int64_t count) {
    if (count == 0) return;
    launch(kOp, add_slices, elementwise_blocks(stride / 4), kThreads, 0, stream, partial, slices,
           stride, sums, count);
  };
  add(weights, plan.slices(), plan.weights, grad_weight, call.outputs * call.channels * kTaps);
  add(bias, plan.parts, plan.biases, grad_bias, call.outputs);
}

}  // namespace ecgan::cuda
