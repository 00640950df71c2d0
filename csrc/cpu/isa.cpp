#include "isa.h"

#include <cstdlib>
#include <cstring>

namespace ecgan::cpu {
namespace {

constexpr const char* kNames[] = {"baseline", "avx2", "avx512"};

Isa detect() {
  int best = 0;
#if defined(__x86_64__)
  // These also ask whether the operating system saves the wide registers.
  if (__builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma") &&
      __builtin_cpu_supports("f16c")) {
    best = 1;
    if (__builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512dq") &&
        __builtin_cpu_supports("avx512bw") && __builtin_cpu_supports("avx512vl")) {
      best = 2;
    }
  }
#endif
  if (const char* cap = std::getenv("ECGAN_CPU_ISA")) {
    for (int i = 0; i < best; ++i) {
      if (std::strcmp(cap, kNames[i]) == 0) best = i;
    }
  }
  return static_cast<Isa>(best);
}

}  // namespace

Isa isa() {
  static const Isa decided = detect();
  return decided;
}

const char* isa_name() {
  return kNames[static_cast<int>(isa())];
}

}  // namespace ecgan::cpu
