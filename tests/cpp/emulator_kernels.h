// Kernels that prove the emulator: right ones, and the same with one planted fault.
#pragma once

#include <cuda_fp16.h>
#include <mma.h>

#include "../../csrc/cuda/launch.h"

enum class Fault { none, no_barrier, past_the_end, misaligned };

template <typename T>
__device__ inline T warp_sum(T value) {
  for (int bits = 16; bits; bits /= 2) value += __shfl_xor_sync(~0u, value, bits);
  return value;
}

// *out += the sum of x. Faults: no barrier between writing and reading the warps' sums; reads one
// element too many; reads x as float4 from an odd element on.
template <Fault F>
__global__ void reduce_sum(const float* x,  // [count]
                           float* out,      // [1]
                           int count) {
  ECGAN_SHARED(float, partial, [32]);
  float sum = 0;
  const int end = F == Fault::past_the_end ? count + 1 : count;
  for (int i = blockIdx.x * blockDim.x + threadIdx.x; i < end; i += gridDim.x * blockDim.x) {
    sum += x[i];
  }
  if (F == Fault::misaligned && threadIdx.x == 0) {
    sum += reinterpret_cast<const float4*>(x + 1)->x;
  }
  sum = warp_sum(sum);
  if (threadIdx.x % 32 == 0) partial[threadIdx.x / 32] = sum;
  if (F != Fault::no_barrier) __syncthreads();
  if (threadIdx.x < 32) {
    sum = warp_sum(threadIdx.x < blockDim.x / 32 ? partial[threadIdx.x] : 0.0f);
    if (threadIdx.x == 0) atomicAdd(out, sum);
  }
}

// *out += sum over i, j < count of log(1 - <s_i, s_j>); one warp a 16 x 16 tile. Faults: no
// barrier between storing a tile and reading it; reads past the tile of the last warp.
template <Fault F>
__global__ void pair_log_sum(const __half* s,  // [count, 32]
                             float* out,       // [1]
                             int count) {
  using namespace nvcuda;
  constexpr int kClasses = 32;
  ECGAN_DYNAMIC_SHARED(float, shared);  // [warps, 16, 16]
  const int warp = threadIdx.x / 32, lane = threadIdx.x % 32;
  const int tiles = count / 16, t = blockIdx.x * (blockDim.x / 32) + warp;
  if (t >= tiles * tiles) return;
  float* const tile = shared + warp * 256;
  const __half* const rows = s + t / tiles * 16 * kClasses;
  const __half* const columns = s + t % tiles * 16 * kClasses;
  wmma::fragment<wmma::matrix_a, 16, 16, 16, __half, wmma::row_major> a;
  wmma::fragment<wmma::matrix_b, 16, 16, 16, __half, wmma::col_major> b;
  wmma::fragment<wmma::accumulator, 16, 16, 16, float> c;
  wmma::fill_fragment(c, 0.0f);
  for (int k = 0; k < kClasses; k += 16) {
    wmma::load_matrix_sync(a, rows + k, kClasses);
    wmma::load_matrix_sync(b, columns + k, kClasses);
    wmma::mma_sync(c, a, b, c);
  }
  wmma::store_matrix_sync(tile, c, 16, wmma::mem_row_major);
  if (F != Fault::no_barrier) __syncwarp();
  float sum = 0;
  for (int i = lane; i < 256 + (F == Fault::past_the_end ? 32 : 0); i += 32)
    sum += log1pf(-tile[i]);
  sum = warp_sum(sum);
  if (lane == 0) atomicAdd(out, sum);
}

// y[i] = the value that thread i of the block holds after each of the collectives.
inline __global__ void collectives(int* y) {  // [5, 64]
  const int i = threadIdx.x;
  y[i] = __shfl_sync(~0u, i, 3);
  y[64 + i] = __shfl_down_sync(~0u, i, 1);
  y[128 + i] = __shfl_up_sync(~0u, i, 2, 16);
  y[192 + i] = static_cast<int>(__ballot_sync(~0u, i % 3 == 0));
  y[256 + i] = __all_sync(~0u, i < 32) + 2 * __any_sync(~0u, i == 40);
}

inline __global__ void divergent_barrier(int* out) {  // [64]
  if (threadIdx.x < 32) {
    __syncthreads();
  } else {
    out[threadIdx.x] = 1;
    __syncthreads();
  }
}

inline __global__ void early_exit(int* out) {  // [64]
  if (threadIdx.x == 7) return;
  __syncthreads();
  out[threadIdx.x] = 1;
}

inline __global__ void absent_lanes(int* out) {  // [32]
  if (threadIdx.x < 16) {
    out[threadIdx.x] = __shfl_down_sync(~0u, static_cast<int>(threadIdx.x), 1);
  }
}

inline __global__ void much_static_shared(float* out) {  // [1]
  ECGAN_SHARED(float, big, [13000]);
  *out = big[0];
}

// One thread writes what another wrote without any order between the two blocks.
inline __global__ void racing_blocks(int* out) {
  *out = static_cast<int>(blockIdx.x);
}  // [1]
