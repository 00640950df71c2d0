// CUDA's <cuda_runtime.h>, as much of it as kernels and launchers here use, on the CPU emulator.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstring>
#include <map>
#include <tuple>
#include <type_traits>
#include <utility>

#include "../block.h"
#include "../warp.h"

#define __global__
#define __device__
#define __host__
#define __constant__ static
#define __forceinline__ inline __attribute__((always_inline))
#define __launch_bounds__(...)
#define __align__(n) alignas(n)

// Shared memory with guards around each array (see csrc/cuda/launch.h).
#define ECGAN_SHARED(T, name, dims)                                     \
  using cudaemu_type_of_##name = T dims;                                \
  static const char cudaemu_key_of_##name = 0;                          \
  cudaemu_type_of_##name& name = *static_cast<cudaemu_type_of_##name*>( \
      cudaemu::static_shared(&cudaemu_key_of_##name, sizeof(cudaemu_type_of_##name)))
#define ECGAN_DYNAMIC_SHARED(T, name) \
  T* const name = static_cast<T*>(cudaemu::self().block->dynamic_shared)

#define threadIdx (cudaemu::self().index)
#define blockIdx (cudaemu::self().block->index)
#define blockDim (cudaemu::self().block->threads_dim)
#define gridDim (cudaemu::self().block->grid_dim)
#define warpSize 32

// ------------------------------------------------------------------------------- host side

using cudaStream_t = void*;
enum cudaError_t { cudaSuccess = 0, cudaErrorInvalidValue = 1, cudaErrorInvalidConfiguration = 9 };
struct cudaLaunchConfig_t {
  dim3 grid, block;  // CUDA's gridDim and blockDim, which are macros here
  std::size_t dynamicSmemBytes;
  cudaStream_t stream;
  void* attrs;
  unsigned numAttrs;
};
enum cudaFuncAttribute { cudaFuncAttributeMaxDynamicSharedMemorySize = 8 };

inline const char* cudaGetErrorString(cudaError_t status) {
  switch (status) {
    case cudaSuccess:
      return "no error";
    case cudaErrorInvalidValue:
      return "invalid argument";
    default:
      return "invalid configuration argument";
  }
}

namespace cudaemu {
inline cudaError_t last_error = cudaSuccess;
inline cudaError_t record(cudaError_t status) {
  if (status != cudaSuccess) last_error = status;
  return status;
}
// Dynamic shared memory beyond 48 KiB that a kernel has asked for.
inline std::map<const void*, std::size_t>& shared_opt_in() {
  static std::map<const void*, std::size_t> bytes;
  return bytes;
}
}  // namespace cudaemu

inline cudaError_t cudaGetLastError() {
  return std::exchange(cudaemu::last_error, cudaSuccess);
}

template <typename T>
cudaError_t cudaFuncSetAttribute(T* kernel, cudaFuncAttribute, int bytes) {
  if (bytes < 0 || std::size_t(bytes) > cudaemu::options().shared_limit)
    return cudaemu::record(cudaErrorInvalidValue);
  cudaemu::shared_opt_in()[reinterpret_cast<const void*>(kernel)] = bytes;
  return cudaSuccess;
}

// Runs the whole grid before it returns. Refuses what the runtime refuses; a kernel's misuse of
// barriers, collectives or shared memory throws.
template <typename... Params, typename... Args>
cudaError_t cudaLaunchKernelEx(const cudaLaunchConfig_t* config, void (*kernel)(Params...),
                               Args&&... args) {
  const dim3 grid = config->grid, block = config->block;
  const std::size_t shared_bytes = config->dynamicSmemBytes;
  const std::size_t threads = std::size_t(block.x) * block.y * block.z;
  if (threads == 0 || threads > cudaemu::kMaxThreads || block.z > 64 || grid.x == 0 ||
      grid.x > 0x7fffffffu || grid.y == 0 || grid.y > 65535 || grid.z == 0 || grid.z > 65535)
    return cudaemu::record(cudaErrorInvalidConfiguration);
  if (shared_bytes > cudaemu::kStaticSharedLimit) {
    const auto& asked = cudaemu::shared_opt_in();
    const auto found = asked.find(reinterpret_cast<const void*>(kernel));
    if (found == asked.end() || found->second < shared_bytes)
      return cudaemu::record(cudaErrorInvalidValue);
  }
  const std::tuple<Params...> parameters(std::forward<Args>(args)...);
  cudaemu::run_grid(grid, block, shared_bytes, [&] { std::apply(kernel, parameters); });
  return cudaSuccess;
}

// ----------------------------------------------------------------------------- device side

#define CUDAEMU_PLACE cudaemu::Place place = {__builtin_FILE(), __builtin_LINE()}

inline void __syncthreads(CUDAEMU_PLACE) {
  cudaemu::block_barrier(place);
}
inline void __syncwarp(unsigned mask = ~0u, CUDAEMU_PLACE) {
  cudaemu::sync_warp(mask, place);
}

template <typename T>
T __shfl_sync(unsigned mask, T value, int source, int width = 32, CUDAEMU_PLACE) {
  const int lane = cudaemu::self().lane;
  return cudaemu::shuffle(mask, value, (lane & ~(width - 1)) | (source & (width - 1)), place);
}
template <typename T>
T __shfl_xor_sync(unsigned mask, T value, int bits, int width = 32, CUDAEMU_PLACE) {
  const int lane = cudaemu::self().lane, source = lane ^ bits;
  return cudaemu::shuffle(mask, value, source > (lane | (width - 1)) ? lane : source, place);
}
template <typename T>
T __shfl_down_sync(unsigned mask, T value, unsigned delta, int width = 32, CUDAEMU_PLACE) {
  const int lane = cudaemu::self().lane, source = lane + int(delta);
  return cudaemu::shuffle(mask, value, source > (lane | (width - 1)) ? lane : source, place);
}
template <typename T>
T __shfl_up_sync(unsigned mask, T value, unsigned delta, int width = 32, CUDAEMU_PLACE) {
  const int lane = cudaemu::self().lane, source = lane - int(delta);
  return cudaemu::shuffle(mask, value, source < (lane & ~(width - 1)) ? lane : source, place);
}
inline unsigned __ballot_sync(unsigned mask, bool predicate, CUDAEMU_PLACE) {
  return cudaemu::ballot(mask, predicate, place);
}
inline int __any_sync(unsigned mask, bool predicate, CUDAEMU_PLACE) {
  return cudaemu::ballot(mask, predicate, place) != 0;
}
inline int __all_sync(unsigned mask, bool predicate, CUDAEMU_PLACE) {
  return cudaemu::ballot(mask, predicate, place) == mask;
}

// Atomics are relaxed, as on the device; each returns the old value.
namespace cudaemu {
template <typename T, typename F>
T atomic_update(T* address, F next) {
  T old, now;
  __atomic_load(address, &old, __ATOMIC_RELAXED);
  do {
    now = next(old);
  } while (
      !__atomic_compare_exchange(address, &old, &now, true, __ATOMIC_RELAXED, __ATOMIC_RELAXED));
  return old;
}
template <typename T>
using identity = std::common_type_t<T>;  // so that only the pointer decides T
}  // namespace cudaemu

template <typename T>
T atomicAdd(T* address, cudaemu::identity<T> value) {
  return cudaemu::atomic_update(address, [value](T old) { return T(old + value); });
}
template <typename T>
T atomicMax(T* address, cudaemu::identity<T> value) {
  return cudaemu::atomic_update(address, [value](T old) { return std::max(old, value); });
}
template <typename T>
T atomicMin(T* address, cudaemu::identity<T> value) {
  return cudaemu::atomic_update(address, [value](T old) { return std::min(old, value); });
}
template <typename T>
T atomicExch(T* address, cudaemu::identity<T> value) {
  return cudaemu::atomic_update(address, [value](T) { return value; });
}
template <typename T>
T atomicCAS(T* address, cudaemu::identity<T> expected, cudaemu::identity<T> value) {
  return cudaemu::atomic_update(address,
                                [expected, value](T old) { return old == expected ? value : old; });
}
inline void __threadfence() {
  __atomic_thread_fence(__ATOMIC_SEQ_CST);
}
inline void __threadfence_block() {
  __threadfence();
}

template <typename T>
T __ldg(const T* address) {
  return *address;
}
inline float __expf(float x) {
  return std::exp(x);
}
inline float __logf(float x) {
  return std::log(x);
}
inline float __fdividef(float a, float b) {
  return a / b;
}
inline float rsqrtf(float x) {
  return 1.0f / std::sqrt(x);
}
inline int __popc(unsigned x) {
  return __builtin_popcount(x);
}
inline int __ffs(int x) {
  return __builtin_ffs(x);
}
inline int __clz(int x) {
  return x ? __builtin_clz(x) : 32;
}
using std::max;
using std::min;

struct alignas(8) float2 {
  float x, y;
};
struct alignas(16) float4 {
  float x, y, z, w;
};
inline float2 make_float2(float x, float y) {
  return {x, y};
}
inline float4 make_float4(float x, float y, float z, float w) {
  return {x, y, z, w};
}
