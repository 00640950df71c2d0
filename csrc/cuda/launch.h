// How every kernel is launched and names its shared memory.
#pragma once

#include <cuda_runtime.h>

#include <cstddef>
#include <cstdint>
#include <stdexcept>
#include <string>

// ECGAN_SHARED(float, tile, [32][33]) declares an array of the block, ECGAN_DYNAMIC_SHARED(float,
// buffer) a pointer to the memory of the launch's shared_bytes, aligned as WMMA wants it. Kernels
// use these and never plain __shared__, so that a test build may put guards around each array.
#ifndef ECGAN_SHARED
#define ECGAN_SHARED(T, name, dims) __shared__ T name dims
#define ECGAN_DYNAMIC_SHARED(T, name)                            \
  extern __shared__ __align__(32) unsigned char ecgan_dynamic[]; \
  T* const name = reinterpret_cast<T*>(ecgan_dynamic)
#endif

// Most blocks an elementwise launch makes; each thread strides over what is left. Tests lower it.
#ifndef ECGAN_MAX_BLOCKS
#define ECGAN_MAX_BLOCKS 65536
#endif

namespace ecgan::cuda {

// Threads of a block in elementwise kernels: several blocks fit a multiprocessor of any
// architecture, and a small tensor still spreads over many of them.
constexpr int kThreads = 256;

// Blocks of kThreads for `items` pieces of work, one a thread and turn.
inline unsigned elementwise_blocks(int64_t items) {
  const int64_t blocks = (items + kThreads - 1) / kThreads;
  return static_cast<unsigned>(blocks < ECGAN_MAX_BLOCKS ? blocks : ECGAN_MAX_BLOCKS);
}

// Throws std::runtime_error with the operator's name and CUDA's reason unless `status` is success.
inline void check(cudaError_t status, const char* op, const char* what) {
  if (status == cudaSuccess) return;
  cudaGetLastError();  // reported here: leave nothing behind for the next caller to trip over
  throw std::runtime_error(std::string(op) + ": " + what + ": " + cudaGetErrorString(status));
}

// Runs `kernel` on `stream` (a cudaStream_t); `op` is the operator that errors name.
template <typename... Params, typename... Args>
void launch(const char* op, void (*kernel)(Params...), dim3 grid, dim3 block,
            std::size_t shared_bytes, void* stream, Args... args) {
  if (shared_bytes > 48 * 1024) {  // beyond this a kernel has to ask, on every architecture
    check(cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize,
                               static_cast<int>(shared_bytes)),
          op, "this GPU has too little shared memory");
  }
  const cudaLaunchConfig_t config = {
      grid, block, shared_bytes, static_cast<cudaStream_t>(stream), /*attrs=*/nullptr, 0};
  check(cudaLaunchKernelEx(&config, kernel, args...), op, "CUDA kernel launch failed");
}

}  // namespace ecgan::cuda
