#include "fiber.h"

#include <sys/mman.h>

#include <new>

#ifndef __x86_64__
#error "the CUDA emulator switches contexts on x86-64 only"
#endif

// void cudaemu_switch(void** save, void* to): pushes the callee-saved registers, swaps the stack
// pointers, pops the others'.
extern "C" void cudaemu_switch(void** save, void* to);
asm(R"(
  .pushsection .text
  .type cudaemu_switch,@function
cudaemu_switch:
  pushq %rbp
  pushq %rbx
  pushq %r12
  pushq %r13
  pushq %r14
  pushq %r15
  movq %rsp, (%rdi)
  movq %rsi, %rsp
  popq %r15
  popq %r14
  popq %r13
  popq %r12
  popq %rbx
  popq %rbp
  ret
  .size cudaemu_switch,.-cudaemu_switch
  .popsection
)");

namespace cudaemu {

char* allocate_stack(std::size_t size) {
  constexpr std::size_t kGuard = 4096;
  void* memory = mmap(nullptr, size + kGuard, PROT_READ | PROT_WRITE,
                      MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
  if (memory == MAP_FAILED) throw std::bad_alloc();
  mprotect(memory, kGuard, PROT_NONE);
  return static_cast<char*>(memory) + kGuard;
}

void prepare(Fiber& fiber, void (*entry)()) {
  CUDAEMU_ASAN(ASAN_UNPOISON_MEMORY_REGION(fiber.stack, fiber.stack_size));
  void** top = reinterpret_cast<void**>(fiber.stack + fiber.stack_size);
  *--top = nullptr;  // the return address of a call, so that entry finds the stack aligned
  *--top = reinterpret_cast<void*>(entry);
  for (int callee_saved = 0; callee_saved < 6; ++callee_saved) *--top = nullptr;
  fiber.stack_pointer = top;
  fiber.asan_fake_stack = nullptr;
}

CUDAEMU_UNCHECKED void switch_fiber(Fiber& from, Fiber& to, [[maybe_unused]] bool last) {
  CUDAEMU_ASAN(__sanitizer_start_switch_fiber(last ? nullptr : &from.asan_fake_stack, to.stack,
                                              to.stack_size));
  CUDAEMU_TSAN(__tsan_switch_to_fiber(to.tsan_fiber, __tsan_switch_to_fiber_no_sync));
  cudaemu_switch(&from.stack_pointer, to.stack_pointer);
  CUDAEMU_ASAN(__sanitizer_finish_switch_fiber(from.asan_fake_stack, nullptr, nullptr));
}

CUDAEMU_UNCHECKED void entered([[maybe_unused]] Fiber& from) {
#if CUDAEMU_WITH_ASAN
  // The scheduler's own stack is the process's; ASan tells where it lies.
  const void* bottom = nullptr;
  __sanitizer_finish_switch_fiber(nullptr, &bottom, &from.stack_size);
  from.stack = static_cast<char*>(const_cast<void*>(bottom));
#endif
}

}  // namespace cudaemu
