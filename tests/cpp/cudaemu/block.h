// The state of the block that runs, and what the device-side names of cuda/*.h need of it.
#pragma once

#include <cstddef>
#include <cstdint>
#include <exception>
#include <functional>
#include <map>
#include <string>
#include <vector>

#include "cudaemu.h"
#include "fiber.h"

struct dim3 {
  unsigned x, y, z;
  constexpr dim3(unsigned x = 1, unsigned y = 1, unsigned z = 1) : x(x), y(y), z(z) {}
};

namespace cudaemu {

constexpr std::size_t kWarp = 32;
constexpr std::size_t kMaxThreads = 1024;
constexpr std::size_t kStaticSharedLimit = 48 << 10;  // and of dynamic memory without opting in

// Where in the kernel's source something was called.
struct Place {
  const char* file = "";
  int line = 0;
};

struct Block;
struct Thread : Fiber {
  enum State { ready, at_barrier, at_warp, done } state = done;
  Block* block = nullptr;
  dim3 index;
  unsigned lane = 0;
  Place place;  // where it waits
  // The warp collective it waits in.
  unsigned mask = 0;
  unsigned source = 0;  // lane that a shuffle reads
  int operation = 0;
  void* data = nullptr;
};

struct Block {
  dim3 index, threads_dim, grid_dim;
  std::vector<Thread> threads{kMaxThreads};  // the first `count` are in use
  std::size_t count = 0, live = 0, waiting = 0;
  const std::function<void()>* kernel = nullptr;
  std::exception_ptr error;
  Fiber scheduler;
  char barrier_token = 0;  // what TSan takes for the object behind __syncthreads

  char* shared = nullptr;  // the arena of shared memory; each array lies between red zones
  std::size_t shared_size = 0, shared_used = 0, shared_counted = 0, static_counted = 0;
  void* dynamic_shared = nullptr;
  std::map<const void*, void*> static_shared;
};

// The CUDA thread that runs.
Thread& self();

[[noreturn]] void fail(const std::string& what, const Thread& thread, Place place);

// __syncthreads.
void block_barrier(Place place);

// The calling block's SHARED array of this key, made on first use.
void* static_shared(const void* key, std::size_t size);

// Runs every block of a grid; throws what a kernel's misuse throws.
void run_grid(dim3 grid, dim3 block, std::size_t dynamic_shared_bytes,
              const std::function<void()>& kernel);

}  // namespace cudaemu
