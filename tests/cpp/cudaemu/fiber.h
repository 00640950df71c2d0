// One hand-switched stack of execution (x86-64), known to the sanitizers.
#pragma once

#include <cstddef>

#include "sanitizer.h"

namespace cudaemu {

struct Fiber {
  void* stack_pointer = nullptr;  // saved while switched out
  char* stack = nullptr;          // lowest usable address
  std::size_t stack_size = 0;
  void* asan_fake_stack = nullptr;
  void* tsan_fiber = nullptr;
};

// A stack of `size` bytes above a guard page. Kept for the life of the process.
char* allocate_stack(std::size_t size);

// Makes `fiber` (whose stack is set) call `entry` when it is next switched to. entry never returns.
void prepare(Fiber& fiber, void (*entry)());

// Leaves `from` for `to`; returns when somebody switches back. `last`: `from` never runs again.
void switch_fiber(Fiber& from, Fiber& to, bool last = false);

// The first thing an entry calls; `from` is the fiber that switched to it.
void entered(Fiber& from);

}  // namespace cudaemu
