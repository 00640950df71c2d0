// The tiles of pairwise.h as the *_simd.cpp files see them, and packing: one copy per instruction
// set. No standard header but cstdint (see common/simd.h).
#pragma once

#include <cstdint>

#include "../common/types.h"

namespace ecgan::cpu {

// Vectors in a tile: a multiple of what the micro-kernels of pairwise_engine.h take at a time under
// every instruction set (rows 4, 6 and 12; columns 12, 24 and 48). A tile of pairs fills 36 KiB.
constexpr int64_t kTile = 96;

// Whether all pairs of two tiles are of one class, all of two, or some of either kind.
enum class TileKind : int { same, different, mixed };

}  // namespace ecgan::cpu

// pairwise_width: depth rounded up to whole SIMD vectors.
// pairwise_pack: gathers `members` <= kTile vectors at the indices of `order`, converted to float
// (double for double), into panel [depth, kTile] and, if not null, rows [kTile, width], and fills
// both up with zeros. Returns whether all are finite.
#define ECGAN_DECLARE_PAIRWISE(isa)                                                                \
  namespace ecgan::isa {                                                                           \
  int64_t pairwise_width(int64_t depth, DType dtype);                                              \
  bool pairwise_pack(const void* source, DType dtype, int64_t vector_stride, int64_t depth_stride, \
                     const int32_t* order, int64_t members, int64_t depth, int64_t width,          \
                     void* panel, void* rows);                                                     \
  }

ECGAN_DECLARE_PAIRWISE(baseline)
ECGAN_DECLARE_PAIRWISE(avx2)
ECGAN_DECLARE_PAIRWISE(avx512)
