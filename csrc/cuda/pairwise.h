// The pair matrix of two sets of vectors, tile by tile: one engine for every pairwise operator.
//
// A block owns kRows rows and walks over the columns, kColumns at a time; a warp owns 16 rows. For
// each tile it forms the products p = <x_i, y_j> on tensor cores, hands them to the operator's
// `tile`, which turns them into whatever it sums up and into weights g, and, where a gradient is
// wanted, adds g y to a sum of its 16 rows, on tensor cores again. Nothing of size rows x columns
// ever leaves the block.
//
// Numbers are halves times a power of two of each vector, so that neither large nor small vectors
// leave a half's range. Split in two halves, high + low / 2048, with high * high and
// high * low + low * high summed apart in float32, products are of float32 grade: what is left out,
// low * low, is 2^-24 of the whole. Weights are split likewise, under one scale of the warp's rows
// that grows as they do.
//
// Shared memory: the 64 columns' vectors, 64 elements at a time (18 KB split), and 4.5 KB a warp in
// which first the products and then the weights lie: 57 KB, within the 64 KB of sm_75. The rows'
// vectors are read through L1, where the few that a block needs stay.
#pragma once

#include <mma.h>

#include "pairwise_pack.h"

namespace ecgan::cuda::pairwise {

constexpr int kWarps = kThreads / 32;
constexpr int kBand = 16;       // rows of a warp
constexpr int kSlice = 64;      // elements of the vectors in shared memory at a time
constexpr int kPitch = 64 + 8;  // elements from row to row there: no two rows in the same banks
constexpr int kPairs = 32;      // of a tile that a lane works on: half of the columns of one row
static_assert(kRows == kWarps * kBand && kColumns == 64);

// Blocks of a multiprocessor when there is no gradient. Before Ampere its shared memory holds one.
#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ < 800
constexpr int kLightBlocks = 1;
#else
constexpr int kLightBlocks = 2;
#endif

constexpr int kSliceElements = kColumns * kPitch;
constexpr int kBandBytes = kBand * kPitch * sizeof(float);  // as many as of two arrays of halves

// What an operator's `tile` sees of the columns. A lane's pairs are numbered 0 to kPairs - 1.
template <typename Label>
struct Columns {
  const Label* labels;  // [kColumns] in shared memory
  const float* values;  // [Op::kValues, kColumns] in shared memory
  int64_t first;        // number of the tile's first column
  int half;             // which of the two lanes of its row
  bool above;           // every column comes after every row of the block

  // Chunks of four columns go to a row's two lanes in turn, for 16-byte accesses without conflicts.
  __device__ int at(int pair) const { return pair / 4 * 8 + half * 4 + pair % 4; }
  __device__ Label label(int pair) const { return labels[at(pair)]; }
  __device__ float value(int n, int pair) const { return values[n * kColumns + at(pair)]; }
  __device__ int64_t number(int pair) const { return first + at(pair); }
};

template <typename Label>
struct Plan {
  Packed<Label> rows, columns;
  float* gradient;  // [splits, images, padded rows, width], or null
  int64_t images;
  unsigned row_blocks;  // of an image
  unsigned splits;      // blocks that share the columns of a row block, by turns
  unsigned chunks;      // blocks that share the gradient's elements; each forms all products
  bool upper;           // leave out the tiles below a row block: the operator counts others twice
};

template <typename Label>
Plan<Label> make_plan(int64_t images, const Packed<Label>& rows, const Packed<Label>& columns,
                      bool gradient, bool upper) {
  Plan<Label> plan{rows, columns, nullptr, images, 0, 0, 1, upper};
  plan.row_blocks = static_cast<unsigned>(rows.padded / kRows);
  if (gradient && rows.width > kSlice) plan.chunks = (rows.width + 127) / 128;
  const int64_t blocks = images * plan.row_blocks * plan.chunks;
  const int64_t tiles = (columns.count + kColumns - 1) / kColumns;
  int64_t splits = blocks > 0 ? (kBlocks + blocks - 1) / blocks : 1;
  if (splits > kMaxSplits) splits = kMaxSplits;
  if (splits > tiles) splits = tiles;
  plan.splits = static_cast<unsigned>(splits < 1 ? 1 : splits);
  return plan;
}

using Sums = nvcuda::wmma::fragment<nvcuda::wmma::accumulator, 16, 16, 16, float>;
using Left =
    nvcuda::wmma::fragment<nvcuda::wmma::matrix_a, 16, 16, 16, __half, nvcuda::wmma::row_major>;

struct alignas(8) Four {
  __half at[4];
};

template <int N>
__device__ inline void scale_sums(Sums (&sums)[N], float factor) {
#pragma unroll
  for (int f = 0; f < N; ++f) {
#pragma unroll
    for (int e = 0; e < sums[f].num_elements; ++e) sums[f].x[e] *= factor;
  }
}

// Elements [from, from + kSlice) of 64 vectors, up to the width, into a slice of shared memory.
__device__ inline void stage(__half* slice, const __half* vectors, int from, int width) {
  for (int i = threadIdx.x; i < kColumns * kSlice / 8; i += kThreads) {
    const int j = i / (kSlice / 8), k = i % (kSlice / 8) * 8;
    if (from + k >= width) continue;
    const auto* source = reinterpret_cast<const float4*>(vectors + int64_t{j} * width + from + k);
    *reinterpret_cast<float4*>(slice + j * kPitch + k) = __ldg(source);
  }
}

// The operator Op gives
//   Label, kValues          the labels' type, and how many numbers of each column `tile` needs
//   Row                     what a lane keeps of its row
//   begin(image, row, label)            -> Row
//   column_value(n, image, column)      -> number n of a column (past the last one, too)
//   tile(Row&, float (&p)[kPairs], columns)   turns p into g; sums up what it wants in Row
//   end(Row&, image, row, block)        in every lane; block: number of (image, row block, split)
// kSplit: the vectors have low halves; kSplitWeights: so do the weights. kFragments: 16s of
// elements of the gradient that a block sums up, at most; 0: no gradient.
template <class Op, bool kSplit, bool kSplitWeights, int kFragments>
__global__ void __launch_bounds__(kThreads, kFragments ? 1 : kLightBlocks)
    pair_tiles(Op op, Plan<typename Op::Label> plan) {
  using namespace nvcuda;
  using Label = typename Op::Label;
  ECGAN_DYNAMIC_SHARED(unsigned char, shared);
  constexpr int kSlices = kSplit ? 2 : 1;
  __half* const high = reinterpret_cast<__half*>(shared);  // [kColumns, kPitch]
  __half* const low = high + kSliceElements;               // the same, where split
  unsigned char* const bands = shared + kSlices * kSliceElements * sizeof(__half);
  Label* const labels = reinterpret_cast<Label*>(bands + kWarps * kBandBytes);
  float* const scales = reinterpret_cast<float*>(labels + kColumns);
  float* const values = scales + kColumns;  // [Op::kValues, kColumns]

  const int warp = threadIdx.x / 32, lane = threadIdx.x % 32;
  float* const products = reinterpret_cast<float*>(bands + warp * kBandBytes);  // [kBand, kPitch]
  __half* const weights = reinterpret_cast<__half*>(products);                  // [kBand, kPitch]
  __half* const low_weights = weights + kBand * kPitch;                         // [kBand, kPitch]

  const int64_t image = blockIdx.x / plan.row_blocks;
  const unsigned row_block = blockIdx.x % plan.row_blocks;
  const Packed<Label> rows = plan.rows.of(image), columns = plan.columns.of(image);
  const int width = rows.width;
  const int64_t band = int64_t{row_block} * kRows + warp * kBand;  // first row of the warp
  const int64_t row = band + lane / 2;
  const float row_scale = rows.scale[row];
  typename Op::Row state = op.begin(image, row, rows.label[row]);

  constexpr int kSums = kFragments ? kFragments : 1;
  const int chunk = blockIdx.z * kFragments * 16;  // first element of the gradient
  Sums sums[kSums];
  float weight_limit = 0.0f;  // largest weight that the scale of the sums can take
  Scale weight_scale = half_scale(0.0f);
#pragma unroll
  for (int f = 0; f < kSums; ++f) wmma::fill_fragment(sums[f], 0.0f);

  const int64_t tiles = (columns.count + kColumns - 1) / kColumns;
  constexpr int kTilesOfBlock = kRows / kColumns;
  const int64_t own = int64_t{row_block} * kTilesOfBlock;
  for (int64_t t = (plan.upper ? own : 0) + blockIdx.y; t < tiles; t += plan.splits) {
    const int64_t column = t * kColumns;
    // p = <x_i, y_j> of 16 rows and 64 columns
    {
      Sums product[4], cross[kSplit ? 4 : 1];
#pragma unroll
      for (int f = 0; f < 4; ++f) {
        wmma::fill_fragment(product[f], 0.0f);
        if constexpr (kSplit) wmma::fill_fragment(cross[f], 0.0f);
      }
      for (int from = 0; from < width; from += kSlice) {
        __syncthreads();  // the last slice has been read
        stage(high, columns.high + column * width, from, width);
        if constexpr (kSplit) stage(low, columns.low + column * width, from, width);
        if (from == 0 && threadIdx.x < kColumns) {
          labels[threadIdx.x] = columns.label[column + threadIdx.x];
          scales[threadIdx.x] = columns.scale[column + threadIdx.x];
          for (int n = 0; n < Op::kValues; ++n) {
            values[n * kColumns + threadIdx.x] = op.column_value(n, image, column + threadIdx.x);
          }
        }
        __syncthreads();
#pragma unroll 1  // registers
        for (int k = 0; k < kSlice && from + k < width; k += 16) {
          Left a, a_low;
          wmma::load_matrix_sync(a, rows.high + band * width + from + k, width);
          if constexpr (kSplit) {
            wmma::load_matrix_sync(a_low, rows.low + band * width + from + k, width);
          }
#pragma unroll
          for (int f = 0; f < 4; ++f) {
            wmma::fragment<wmma::matrix_b, 16, 16, 16, __half, wmma::col_major> b;
            wmma::load_matrix_sync(b, high + f * 16 * kPitch + k, kPitch);
            wmma::mma_sync(product[f], a, b, product[f]);
            if constexpr (kSplit) {
              wmma::mma_sync(cross[f], a_low, b, cross[f]);
              wmma::load_matrix_sync(b, low + f * 16 * kPitch + k, kPitch);
              wmma::mma_sync(cross[f], a, b, cross[f]);
            }
          }
        }
      }
#pragma unroll
      for (int f = 0; f < 4; ++f) {
        if constexpr (kSplit) {
#pragma unroll
          for (int e = 0; e < product[f].num_elements; ++e) {
            product[f].x[e] += cross[f].x[e] * (1.0f / kLowScale);
          }
        }
        wmma::store_matrix_sync(products + f * 16, product[f], kPitch, wmma::mem_row_major);
      }
    }
    __syncwarp();

    const Columns<Label> seen{labels, values, column, lane % 2, t >= own + kTilesOfBlock};
    float p[kPairs];
#pragma unroll
    for (int i = 0; i < kPairs; i += 4) {
      const int at = seen.at(i);
      const float4 four = *reinterpret_cast<const float4*>(products + lane / 2 * kPitch + at);
      const float4 scale = *reinterpret_cast<const float4*>(scales + at);
      p[i] = four.x * (row_scale * scale.x);
      p[i + 1] = four.y * (row_scale * scale.y);
      p[i + 2] = four.z * (row_scale * scale.z);
      p[i + 3] = four.w * (row_scale * scale.w);
    }
    op.tile(state, p, seen);

    // sums += g y: the vectors' scales go into the weights
    if constexpr (kFragments > 0) {
      float largest = 0.0f;
#pragma unroll
      for (int i = 0; i < kPairs; ++i) {
        p[i] *= scales[seen.at(i)];
        largest = fmaxf(largest, fabsf(p[i]));
      }
      for (int bits = 16; bits; bits /= 2) {
        largest = fmaxf(largest, __shfl_xor_sync(~0u, largest, bits));
      }
      if (largest > weight_limit) {  // the same in all lanes
        const Scale scale = half_scale(largest);
        scale_sums(sums, weight_scale.down * scale.up);  // at first, of zeros
        weight_scale = scale;
        weight_limit = 32768.0f * scale.down;
      }
      __syncwarp();  // every lane has its products: weights may overwrite them
#pragma unroll
      for (int i = 0; i < kPairs; i += 4) {
        Four four, four_low;
#pragma unroll
        for (int e = 0; e < 4; ++e) {
          const float g = p[i + e] * weight_scale.up;
          four.at[e] = from_float<__half>(g);
          if constexpr (kSplitWeights)
            four_low.at[e] = from_float<__half>(g - to_float(four.at[e]));
        }
        const int at = lane / 2 * kPitch + seen.at(i);
        *reinterpret_cast<Four*>(weights + at) = four;
        if constexpr (kSplitWeights) *reinterpret_cast<Four*>(low_weights + at) = four_low;
      }
      __syncwarp();
#pragma unroll
      for (int slice = 0; slice < kFragments * 16; slice += kSlice) {
        if constexpr (kFragments * 16 > kSlice) {  // else it is still there
          __syncthreads();
          stage(high, columns.high + column * width, chunk + slice, width);
          if constexpr (kSplit) stage(low, columns.low + column * width, chunk + slice, width);
          __syncthreads();
        }
#pragma unroll
        for (int j = 0; j < kColumns; j += 16) {
          Left g, g_low;
          wmma::load_matrix_sync(g, weights + j, kPitch);
          if constexpr (kSplitWeights) wmma::load_matrix_sync(g_low, low_weights + j, kPitch);
          Left g_small = g;  // meets the low halves, which are kLowScale too large
          if constexpr (kSplit) {
#pragma unroll
            for (int e = 0; e < g.num_elements; ++e) {
              g_small.x[e] = from_float<__half>(to_float(g.x[e]) * (1.0f / kLowScale));
            }
          }
#pragma unroll
          for (int f = 0; f < kSlice / 16; ++f) {
            if (chunk + slice + f * 16 >= width) break;
            Sums& sum = sums[slice / 16 + f];
            wmma::fragment<wmma::matrix_b, 16, 16, 16, __half, wmma::row_major> b;
            wmma::load_matrix_sync(b, high + j * kPitch + f * 16, kPitch);
            wmma::mma_sync(sum, g, b, sum);
            if constexpr (kSplitWeights) wmma::mma_sync(sum, g_low, b, sum);
            if constexpr (kSplit) {
              wmma::load_matrix_sync(b, low + j * kPitch + f * 16, kPitch);
              wmma::mma_sync(sum, g_small, b, sum);
            }
          }
        }
      }
    }
  }

  const int64_t block = int64_t{blockIdx.x} * plan.splits + blockIdx.y;
  if (blockIdx.z == 0) op.end(state, image, row, block);
  if constexpr (kFragments > 0) {
    scale_sums(sums, weight_scale.down);
    float* const out =
        plan.gradient + ((blockIdx.y * plan.images + image) * rows.padded + band) * width + chunk;
#pragma unroll
    for (int f = 0; f < kFragments; ++f) {
      if (chunk + f * 16 < width) {
        wmma::store_matrix_sync(out + f * 16, sums[f], width, wmma::mem_row_major);
      }
    }
  }
}

// Runs `kernel`, a pair_tiles of Op, with the shared memory that it needs.
template <class Op>
void launch_tiles(const char* name, void (*kernel)(Op, Plan<typename Op::Label>), bool split,
                  const Op& op, const Plan<typename Op::Label>& plan, void* stream) {
  const std::size_t bytes = (split ? 2 : 1) * kSliceElements * sizeof(__half) +
                            kWarps * kBandBytes +
                            kColumns * (sizeof(typename Op::Label) + (1 + Op::kValues) * 4);
  const dim3 grid(static_cast<unsigned>(plan.images * plan.row_blocks), plan.splits, plan.chunks);
  launch(name, kernel, grid, dim3(kThreads), bytes, stream, op, plan);
}

}  // namespace ecgan::cuda::pairwise
