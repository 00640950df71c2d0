// What the emulator tells AddressSanitizer and ThreadSanitizer; all of it is empty in a plain
// build.
#pragma once

#if defined(__has_feature)
#define CUDAEMU_HAS_FEATURE(x) __has_feature(x)
#else
#define CUDAEMU_HAS_FEATURE(x) 0
#endif

#if defined(__SANITIZE_ADDRESS__) || CUDAEMU_HAS_FEATURE(address_sanitizer)
#include <sanitizer/asan_interface.h>
#include <sanitizer/common_interface_defs.h>
#define CUDAEMU_WITH_ASAN 1
#define CUDAEMU_ASAN(x) x
#else
#define CUDAEMU_WITH_ASAN 0
#define CUDAEMU_ASAN(x)
#endif

#if defined(__SANITIZE_THREAD__) || CUDAEMU_HAS_FEATURE(thread_sanitizer)
#include <sanitizer/tsan_interface.h>
extern "C" {
void AnnotateIgnoreReadsBegin(const char*, int);
void AnnotateIgnoreReadsEnd(const char*, int);
void AnnotateIgnoreWritesBegin(const char*, int);
void AnnotateIgnoreWritesEnd(const char*, int);
}
#define CUDAEMU_WITH_TSAN 1
#define CUDAEMU_TSAN(x) x
// The emulator itself is not checked, and TSan's entry hooks must not straddle a stack switch.
#define CUDAEMU_UNCHECKED __attribute__((no_sanitize("thread"), noinline))
#else
#define CUDAEMU_WITH_TSAN 0
#define CUDAEMU_TSAN(x)
#define CUDAEMU_UNCHECKED
#endif

namespace cudaemu {

// While one lives, TSan ignores this thread's memory accesses: the emulator's own bookkeeping.
struct Quiet {
  Quiet() {
    CUDAEMU_TSAN(AnnotateIgnoreReadsBegin("", 0));
    CUDAEMU_TSAN(AnnotateIgnoreWritesBegin("", 0));
  }
  ~Quiet() {
    CUDAEMU_TSAN(AnnotateIgnoreReadsEnd("", 0));
    CUDAEMU_TSAN(AnnotateIgnoreWritesEnd("", 0));
  }
  Quiet(const Quiet&) = delete;
  Quiet& operator=(const Quiet&) = delete;
};

}  // namespace cudaemu
