// Runs CUDA C++ kernels on the CPU, for tests on machines without a GPU (x86-64, C++17).
//
// The folder cuda/ holds headers with CUDA's own names (cuda_runtime.h, cuda_fp16.h, ...). Put it
// first on the include path, compile a .cu as C++, and its kernels run here: one fiber a CUDA
// thread, switched at barriers and warp collectives; blocks one after another. This finds
//   - order dependence: compare results under forward, reverse and random order (for_each_order);
//   - shared memory read before it is written: filled with 0xFF (NaN, -1) at every block start;
//   - divergent __syncthreads and *_sync, shuffles from absent lanes, deadlocks: an exception that
//     names file and line;
//   - too much shared memory for an architecture, misaligned wmma accesses: an exception;
//   - accesses out of bounds: -fsanitize=address (Buffer and shared arrays have red zones);
//   - misaligned vector accesses: -fsanitize=alignment;
//   - data races in shared and global memory, whatever the order: -fsanitize=thread.
// Not modelled: speed, registers, weak memory order, cooperative launches, textures, inline PTX,
// cp.async, the lane/element layout of wmma fragments (scrambled on purpose) and the rounding
// inside a tensor core. A race between one thread index of two blocks that are two apart is missed.
//
// This header is what a test needs besides the kernels' own launchers.
#pragma once

#include <cstddef>
#include <cstdint>
#include <cstdlib>
#include <cstring>
#include <new>

#include "sanitizer.h"

namespace cudaemu {

enum class Order { forward, reverse, random };

// Bytes of shared memory that a block may use on compute capability `arch` (70, 75, 80, ...).
std::size_t shared_memory_limit(int arch);

struct Options {
  Order order = Order::forward;  // of the threads in a block and of the blocks in a grid
  std::uint64_t seed = 1;        // of Order::random
  bool strict_exit = true;       // a thread may not return while others wait at __syncthreads
  std::size_t shared_limit = shared_memory_limit(75);  // the least there is
  std::size_t stack_bytes =
      64 << 10;  // of each CUDA thread; sanitizer builds take at least 256 KiB
};
Options& options();

// Calls f under forward, reverse and `shuffles` random orders; f compares what its kernels leave.
template <typename F>
void for_each_order(F f, int shuffles = 1) {
  const Options saved = options();
  options().order = Order::forward;
  f();
  options().order = Order::reverse;
  f();
  options().order = Order::random;
  for (int s = 1; s <= shuffles; ++s) {
    options().seed = s;
    f();
  }
  options() = saved;
}

// Global memory: aligned as cudaMalloc aligns, filled with 0xFF, red zones around it under ASan.
template <typename T>
class Buffer {
 public:
  explicit Buffer(std::size_t count)
      : count_(count), data_(static_cast<T*>(std::aligned_alloc(256, padded()))) {
    if (!data_) throw std::bad_alloc();
    std::memset(static_cast<void*>(data_), 0xFF, count * sizeof(T));
    CUDAEMU_ASAN(ASAN_POISON_MEMORY_REGION(data_ + count, padded() - count * sizeof(T)));
  }
  ~Buffer() {
    CUDAEMU_ASAN(ASAN_UNPOISON_MEMORY_REGION(data_, padded()));
    std::free(data_);
  }
  Buffer(const Buffer&) = delete;
  Buffer& operator=(const Buffer&) = delete;

  std::size_t size() const { return count_; }
  T* data() const { return data_; }
  T* begin() const { return data_; }
  T* end() const { return data_ + count_; }
  T& operator[](std::size_t i) const { return data_[i]; }

 private:
  std::size_t padded() const { return (count_ * sizeof(T) / 256 + 1) * 256; }

  std::size_t count_;
  T* data_;
};

}  // namespace cudaemu
