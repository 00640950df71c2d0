// CUDA's <cuda_fp16.h> on the CPU emulator. No implicit conversions and no operators: PyTorch's
// build flags switch them off, so kernels may not lean on them.
#pragma once

#include "cuda_runtime.h"

struct __half {
  _Float16 value;
};
using half = __half;

inline float __half2float(__half h) {
  return static_cast<float>(h.value);
}
inline __half __float2half_rn(float f) {
  return {static_cast<_Float16>(f)};
}  // to nearest even
inline __half __float2half(float f) {
  return __float2half_rn(f);
}

struct alignas(4) __half2 {
  __half x, y;
};
using half2 = __half2;

inline __half2 __halves2half2(__half a, __half b) {
  return {a, b};
}
inline __half2 __floats2half2_rn(float a, float b) {
  return {__float2half_rn(a), __float2half_rn(b)};
}
inline float2 __half22float2(__half2 h) {
  return {__half2float(h.x), __half2float(h.y)};
}
