// The instruction set that the CPU kernels run with: the best that processor and build share.
#pragma once

namespace ecgan::cpu {

enum class Isa : int { baseline, avx2, avx512 };

// Decided at the first call. The environment variable ECGAN_CPU_ISA (baseline, avx2, avx512) caps
// it, so that a test can run what an older processor would.
Isa isa();
const char* isa_name();

#if defined(__x86_64__)
// The copy of `name` compiled for isa(), out of the namespaces baseline, avx2 and avx512.
#define ECGAN_BEST(name)                                                    \
  (::ecgan::cpu::isa() == ::ecgan::cpu::Isa::avx512 ? ::ecgan::avx512::name \
   : ::ecgan::cpu::isa() == ::ecgan::cpu::Isa::avx2 ? ::ecgan::avx2::name   \
                                                    : ::ecgan::baseline::name)
#else
#define ECGAN_BEST(name) ::ecgan::baseline::name
#endif

}  // namespace ecgan::cpu
