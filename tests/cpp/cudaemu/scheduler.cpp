#include <algorithm>
#include <cstring>
#include <random>
#include <stdexcept>

#include "block.h"

namespace cudaemu {
namespace {

Thread* current = nullptr;
// What TSan takes for the order host -> every block -> host.
[[maybe_unused]] char grid_begin, grid_end;

std::size_t stack_bytes() {
  constexpr bool kSanitized = CUDAEMU_WITH_ASAN || CUDAEMU_WITH_TSAN;
  return std::max<std::size_t>(options().stack_bytes, kSanitized ? 256 << 10 : 0);
}

template <typename V>
void arrange(V& items, std::uint64_t salt) {
  if (options().order == Order::reverse) std::reverse(items.begin(), items.end());
  if (options().order == Order::random) {
    std::mt19937_64 generator(options().seed * 1000003 + salt);
    std::shuffle(items.begin(), items.end(), generator);
  }
}

// Stacks and TSan fibers are made once and reused by every block.
struct Pool {
  std::vector<char*> stacks;
  std::vector<void*> tsan_fibers;
  std::size_t stack_size = 0;

  char* stack(std::size_t i) {
    if (stack_size != stack_bytes()) {
      stacks.clear();
      stack_size = stack_bytes();
    }
    while (stacks.size() <= i) stacks.push_back(allocate_stack(stack_size));
    return stacks[i];
  }
};

void free_shared(Block& block) {
  CUDAEMU_ASAN(ASAN_UNPOISON_MEMORY_REGION(block.shared, block.shared_size));
  std::free(block.shared);
  block.shared = nullptr;
}

// Shared memory of a new block: none of the last block's arrays, all of it out of bounds.
void reset_shared(Block& block) {
  CUDAEMU_TSAN(free_shared(block));  // so that TSan knows no history of it
  block.shared_used = block.shared_counted = block.static_counted = 0;
  block.static_shared.clear();
  block.dynamic_shared = nullptr;
  CUDAEMU_ASAN(ASAN_POISON_MEMORY_REGION(block.shared, block.shared_size));
}

void allocate_shared(Block& block) {
  block.shared_size = (2 * options().shared_limit + (64 << 10) + 255) / 256 * 256;
  block.shared = static_cast<char*>(std::aligned_alloc(256, block.shared_size));
  if (!block.shared) throw std::bad_alloc();
  CUDAEMU_ASAN(ASAN_POISON_MEMORY_REGION(block.shared, block.shared_size));
}

// Takes `size` bytes of shared memory, poisons them with 0xFF and leaves a red zone before them.
void* carve(Block& block, std::size_t size, const char* what) {
  constexpr std::size_t kZone = 128;
  if (!block.shared) allocate_shared(block);
  block.shared_counted += size;
  if (block.shared_counted > options().shared_limit)
    throw std::runtime_error(
        std::string(what) + ": the block needs " + std::to_string(block.shared_counted) +
        " bytes of shared memory, the limit is " + std::to_string(options().shared_limit));
  const std::size_t at = block.shared_used + kZone;
  block.shared_used = (at + size + 127) / 128 * 128;
  if (block.shared_used + kZone > block.shared_size)
    throw std::runtime_error("the emulator's shared memory arena is too small for its red zones");
  CUDAEMU_ASAN(ASAN_UNPOISON_MEMORY_REGION(block.shared + at, size));
  std::memset(block.shared + at, 0xFF, size);
  return block.shared + at;
}

CUDAEMU_UNCHECKED void thread_main() {
  Block& block = *self().block;
  entered(block.scheduler);
  CUDAEMU_TSAN(__tsan_acquire(&grid_begin));
  try {
    (*block.kernel)();
  } catch (...) {
    block.error = std::current_exception();
  }
  CUDAEMU_TSAN(__tsan_release(&grid_end));
  {
    Quiet quiet;
    self().state = Thread::done;
    --block.live;
  }
  switch_fiber(self(), block.scheduler, true);
  std::abort();
}

CUDAEMU_UNCHECKED void resume(Thread& thread) {
  current = &thread;
  switch_fiber(thread.block->scheduler, thread);
}

void start_threads(Block& block, Pool& pool, std::size_t turn) {
  block.count = std::size_t(block.threads_dim.x) * block.threads_dim.y * block.threads_dim.z;
  block.live = block.count;
  block.waiting = 0;
  block.error = nullptr;
  // Two sets of fibers take turns: TSan sees the threads of adjacent blocks (in order of running)
  // as different.
  const std::size_t first = turn % 2 * kMaxThreads;
#if CUDAEMU_WITH_TSAN
  block.scheduler.tsan_fiber = __tsan_get_current_fiber();
  while (pool.tsan_fibers.size() < first + block.count)
    pool.tsan_fibers.push_back(__tsan_create_fiber(0));
#endif
  for (std::size_t i = 0; i < block.count; ++i) {
    Thread& thread = block.threads[i];
    thread.state = Thread::ready;
    thread.block = &block;
    thread.lane = i % kWarp;
    thread.index = dim3(i % block.threads_dim.x, i / block.threads_dim.x % block.threads_dim.y,
                        i / (std::size_t(block.threads_dim.x) * block.threads_dim.y));
    thread.stack = pool.stack(first + i);
    thread.stack_size = stack_bytes();
    CUDAEMU_TSAN(thread.tsan_fiber = pool.tsan_fibers[first + i]);
    prepare(thread, thread_main);
  }
}

// Every thread that still runs is at a barrier: opens it, if it is one and the same.
void open_barrier(Block& block) {
  const Thread* first = nullptr;
  for (std::size_t i = 0; i < block.count; ++i) {
    const Thread& thread = block.threads[i];
    if (thread.state != Thread::at_barrier) continue;
    if (!first) first = &thread;
    if (thread.place.line != first->place.line || std::strcmp(thread.place.file, first->place.file))
      fail("__syncthreads reached at different places (other: line " +
               std::to_string(first->place.line) + ")",
           thread, thread.place);
  }
  if (block.live != block.count && options().strict_exit)
    fail(std::to_string(block.count - block.live) + " threads returned before this __syncthreads",
         *first, first->place);
  for (std::size_t i = 0; i < block.count; ++i)
    if (block.threads[i].state == Thread::at_barrier) block.threads[i].state = Thread::ready;
  block.waiting = 0;
}

CUDAEMU_UNCHECKED void run_threads(Block& block, std::uint64_t salt) {
  std::vector<unsigned> order(block.count);
  for (std::size_t i = 0; i < block.count; ++i) order[i] = i;
  arrange(order, salt);
  while (block.live) {
    bool ran = false;
    for (unsigned i : order) {
      if (block.threads[i].state != Thread::ready) continue;
      resume(block.threads[i]);
      ran = true;
      if (block.error) return;
    }
    if (block.live && block.waiting == block.live) {
      open_barrier(block);
      if (options().order == Order::random) arrange(order, salt + 0x9E37);
    } else if (!ran) {
      for (std::size_t i = 0; i < block.count; ++i)
        if (block.threads[i].state == Thread::at_warp)
          fail("deadlock: a *_sync collective never completes, some lane of its mask is elsewhere",
               block.threads[i], block.threads[i].place);
    }
  }
}

// Block `number` of the grid, run as the `turn`-th.
CUDAEMU_UNCHECKED void run_block(Block& block, std::size_t number, std::size_t turn,
                                 std::size_t dynamic_bytes, Pool& pool) {
  Quiet quiet;
  reset_shared(block);
  if (dynamic_bytes) block.dynamic_shared = carve(block, dynamic_bytes, "dynamic shared memory");
  start_threads(block, pool, turn);
  run_threads(block, number);
  if (block.error) std::rethrow_exception(block.error);
}

}  // namespace

Options& options() {
  static Options instance;
  return instance;
}

std::size_t shared_memory_limit(int arch) {
  switch (arch) {
    case 70:
      return 96 << 10;
    case 75:
      return 64 << 10;
    case 80:
      return 163 << 10;
    case 86:
    case 89:
      return 99 << 10;
    case 90:
    case 100:
      return 227 << 10;
    default:
      throw std::invalid_argument("no shared memory limit known for sm_" + std::to_string(arch));
  }
}

CUDAEMU_UNCHECKED Thread& self() {
  return *current;
}

void fail(const std::string& what, const Thread& thread, Place place) {
  const auto triple = [](dim3 d) {
    return "(" + std::to_string(d.x) + "," + std::to_string(d.y) + "," + std::to_string(d.z) + ")";
  };
  throw std::runtime_error(std::string(place.file) + ":" + std::to_string(place.line) + ": " +
                           what + " [block " + triple(thread.block->index) + " thread " +
                           triple(thread.index) + "]");
}

void block_barrier(Place place) {
  Quiet quiet;
  Thread& thread = self();
  Block& block = *thread.block;
  CUDAEMU_TSAN(__tsan_release(&block.barrier_token));
  ++block.waiting;
  thread.state = Thread::at_barrier;
  thread.place = place;
  switch_fiber(thread, block.scheduler);
  CUDAEMU_TSAN(__tsan_acquire(&block.barrier_token));
}

void* static_shared(const void* key, std::size_t size) {
  Quiet quiet;
  Block& block = *self().block;
  auto found = block.static_shared.find(key);
  if (found == block.static_shared.end()) {
    block.static_counted += size;
    if (block.static_counted > kStaticSharedLimit)
      throw std::runtime_error("static shared memory: more than 48 KiB in a block");
    found = block.static_shared.emplace(key, carve(block, size, "static shared memory")).first;
  }
  return found->second;
}

CUDAEMU_UNCHECKED void run_grid(dim3 grid, dim3 threads, std::size_t dynamic_bytes,
                                const std::function<void()>& kernel) {
  static Pool pool;
  Block block;
  block.threads_dim = threads;
  block.grid_dim = grid;
  block.kernel = &kernel;
  const std::size_t count = std::size_t(grid.x) * grid.y * grid.z;
  std::vector<std::size_t> order(count);
  for (std::size_t i = 0; i < count; ++i) order[i] = i;
  arrange(order, 77);
  CUDAEMU_TSAN(__tsan_release(&grid_begin));
  try {
    for (std::size_t turn = 0; turn < count; ++turn) {
      const std::size_t i = order[turn];
      block.index = dim3(i % grid.x, i / grid.x % grid.y, i / (std::size_t(grid.x) * grid.y));
      run_block(block, i, turn, dynamic_bytes, pool);
    }
  } catch (...) {
    free_shared(block);
    throw;
  }
  CUDAEMU_TSAN(__tsan_acquire(&grid_end));
  free_shared(block);
}

}  // namespace cudaemu
