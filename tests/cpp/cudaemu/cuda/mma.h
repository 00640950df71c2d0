// CUDA's <mma.h> on the CPU emulator: nvcuda::wmma for 16x16x16 tiles of __half or __nv_bfloat16
// with float sums.
#pragma once

#include <cstdint>
#include <string>
#include <type_traits>

#include "cuda_bf16.h"
#include "cuda_fp16.h"

namespace cudaemu {
inline float to_float(float x) {
  return x;
}
inline float to_float(__half x) {
  return __half2float(x);
}
inline float to_float(__nv_bfloat16 x) {
  return __bfloat162float(x);
}

template <typename T>
void check_tile(const T* tile, unsigned leading, const char* what, Place place) {
  warp_collective(~0u, op_wmma_access, nullptr, 0, place, [](Thread*) {});
  if (reinterpret_cast<std::uintptr_t>(tile) % 32)
    fail(std::string(what) + ": pointer is not 32-byte aligned", self(), place);
  if (leading * sizeof(T) % 16)
    fail(std::string(what) + ": leading dimension is not a multiple of 16 bytes", self(), place);
}
}  // namespace cudaemu

namespace nvcuda::wmma {

struct matrix_a {};
struct matrix_b {};
struct accumulator {};
struct row_major {};
struct col_major {};
enum layout_t { mem_row_major, mem_col_major };

// Each lane holds 8 of the 256 elements, at scrambled places: nothing may rely on where.
template <typename Use, int M, int N, int K, typename T, typename Layout = void>
struct fragment {
  static_assert(M == 16 && N == 16 && K == 16, "the emulator knows 16x16x16 tiles only");
  static constexpr int num_elements = 8;
  T x[num_elements];
};
inline int cudaemu_element(int lane, int e) {
  return ((lane * 8 + e) * 37 + 11) & 255;
}

template <typename Use, typename T, typename Layout, typename V>
void fill_fragment(fragment<Use, 16, 16, 16, T, Layout>& f, const V& value) {
  for (T& element : f.x) element = T(value);
}

template <typename Use, typename T, typename Layout>
void load_matrix_sync(fragment<Use, 16, 16, 16, T, Layout>& f, const T* tile, unsigned leading,
                      CUDAEMU_PLACE) {
  cudaemu::check_tile(tile, leading, "load_matrix_sync", place);
  for (int e = 0; e < 8; ++e) {
    const int i = cudaemu_element(cudaemu::self().lane, e), row = i / 16, column = i % 16;
    f.x[e] = std::is_same_v<Layout, row_major> ? tile[row * leading + column]
                                               : tile[column * leading + row];
  }
}

template <typename T>
void load_matrix_sync(fragment<accumulator, 16, 16, 16, T>& f, const T* tile, unsigned leading,
                      layout_t layout, CUDAEMU_PLACE) {
  cudaemu::check_tile(tile, leading, "load_matrix_sync", place);
  for (int e = 0; e < 8; ++e) {
    const int i = cudaemu_element(cudaemu::self().lane, e), row = i / 16, column = i % 16;
    f.x[e] = layout == mem_row_major ? tile[row * leading + column] : tile[column * leading + row];
  }
}

template <typename T>
void store_matrix_sync(T* tile, const fragment<accumulator, 16, 16, 16, T>& f, unsigned leading,
                       layout_t layout, CUDAEMU_PLACE) {
  cudaemu::check_tile(tile, leading, "store_matrix_sync", place);
  for (int e = 0; e < 8; ++e) {
    const int i = cudaemu_element(cudaemu::self().lane, e), row = i / 16, column = i % 16;
    (layout == mem_row_major ? tile[row * leading + column] : tile[column * leading + row]) =
        f.x[e];
  }
}

// Products are exact in float and summed in float; tensor cores sum in groups and truncate, so
// tests compare with a tolerance.
template <typename T, typename LayoutA, typename LayoutB>
void mma_sync(fragment<accumulator, 16, 16, 16, float>& d,
              const fragment<matrix_a, 16, 16, 16, T, LayoutA>& a,
              const fragment<matrix_b, 16, 16, 16, T, LayoutB>& b,
              const fragment<accumulator, 16, 16, 16, float>& c, CUDAEMU_PLACE) {
  struct Registers {
    float* d;
    const T *a, *b;
    const float* c;
  } registers{d.x, a.x, b.x, c.x};
  const auto multiply = [](cudaemu::Thread* lanes) {
    float rows[256], columns[256], sums[256];
    for (int l = 0; l < 32; ++l) {
      const Registers& r = *static_cast<Registers*>(lanes[l].data);
      for (int e = 0; e < 8; ++e) {
        const int i = cudaemu_element(l, e);
        rows[i] = cudaemu::to_float(r.a[e]);
        columns[i % 16 * 16 + i / 16] = cudaemu::to_float(r.b[e]);
        sums[i] = r.c[e];
      }
    }
    for (int i = 0; i < 256; ++i)
      for (int k = 0; k < 16; ++k) sums[i] += rows[i / 16 * 16 + k] * columns[i % 16 * 16 + k];
    for (int l = 0; l < 32; ++l) {
      const Registers& r = *static_cast<Registers*>(lanes[l].data);
      for (int e = 0; e < 8; ++e) r.d[e] = sums[cudaemu_element(l, e)];
    }
  };
  cudaemu::warp_collective(~0u, cudaemu::op_wmma_multiply, &registers, 0, place, multiply);
}

}  // namespace nvcuda::wmma
