#include "pairwise_simd.h"

#include "../common/simd.h"

namespace ecgan::ECGAN_ISA {
namespace {

using cpu::kTile;

template <class T, class E>
bool pack(const T* source, int64_t vector_stride, int64_t depth_stride, const int32_t* order,
          int64_t members, int64_t depth, int64_t width, E* panel, E* rows) {
  using V = typename ComputeType<E>::type;
  constexpr int64_t kStep = ComputeType<E>::lanes;
  V check = V{};  // 0, or NaN as soon as an infinity or a NaN is multiplied by 0
  T gathered[kTile] = {};
  for (int64_t k = 0; k < depth; ++k) {
    const T* from = source + k * depth_stride;
    for (int64_t i = 0; i < members; ++i) gathered[i] = from[order[i] * vector_stride];
    for (int64_t i = 0; i < kTile; i += kStep) {
      const V x = load(gathered + i);
      check += x * (V{});
      store(panel + k * kTile + i, x);
    }
  }
  if (rows) {
    for (int64_t i = 0; i < kTile; ++i) {
      for (int64_t k = 0; k < depth; ++k) rows[i * width + k] = panel[k * kTile + i];
      for (int64_t k = depth; k < width; ++k) rows[i * width + k] = 0;
    }
  }
  return sum(check) == 0;
}

}  // namespace

int64_t pairwise_width(int64_t depth, DType dtype) {
  const int64_t lanes = dtype == DType::f64 ? 1 : kLanes;
  return (depth + lanes - 1) / lanes * lanes;
}

bool pairwise_pack(const void* source, DType dtype, int64_t vector_stride, int64_t depth_stride,
                   const int32_t* order, int64_t members, int64_t depth, int64_t width, void* panel,
                   void* rows) {
  bool finite = false;
  with_type(dtype, [&](auto zero) {
    using T = decltype(zero);
    using E = typename ComputeType<T>::element;
    finite = pack(static_cast<const T*>(source), vector_stride, depth_stride, order, members, depth,
                  width, static_cast<E*>(panel), static_cast<E*>(rows));
  });
  return finite;
}

}  // namespace ecgan::ECGAN_ISA
