// Vectors of floats for the *_simd.cpp files, each of which is compiled once per instruction set
// with ECGAN_ISA naming the namespace (baseline, avx2, avx512) and the flags of sources.json.
//
// Written on the vector types of GCC and Clang, so that one text serves SSE2, AVX2, AVX-512 and
// NEON; intrinsics appear only where the language has no word for the instruction. All functions
// are static: an inline function with external linkage, compiled with AVX-512 flags, could be the
// copy that the linker keeps for everybody.
#pragma once

#include <cstdint>
#if defined(__F16C__)
#include <immintrin.h>
#endif

#include "types.h"

#if !defined(ECGAN_ISA)
#error "compile this file once per instruction set, with ECGAN_ISA and the flags of sources.json"
#endif
#define ECGAN_SIMD static inline __attribute__((always_inline))

namespace ecgan::ECGAN_ISA {

#if defined(__AVX512F__)
constexpr int kBytes = 64;
#elif defined(__AVX2__)
constexpr int kBytes = 32;
#else
constexpr int kBytes = 16;
#endif
constexpr int kLanes = kBytes / 4;

typedef float Float __attribute__((vector_size(kBytes)));
typedef int32_t Int __attribute__((vector_size(kBytes)));
typedef uint16_t Short __attribute__((vector_size(kBytes / 2)));

struct Half {
  uint16_t bits;
};
struct BFloat16 {
  uint16_t bits;
};

// What a kernel computes in for tensors of T: float for all but double, one lane of it.
template <class T>
struct ComputeType {
  using type = Float;
  using element = float;
  static constexpr int lanes = kLanes;
};
template <>
struct ComputeType<double> {
  using type = double;
  using element = double;
  static constexpr int lanes = 1;
};

// Calls f with a value of the C++ type of dtype: f(auto zero) { using T = decltype(zero); ... }
template <class F>
ECGAN_SIMD void with_type(DType dtype, F f) {
  switch (dtype) {
    case DType::f32:
      return f(float{});
    case DType::f16:
      return f(Half{});
    case DType::bf16:
      return f(BFloat16{});
    case DType::f64:
      return f(double{});
  }
}

// The last n < lanes elements of a run, in a full vector's room.
template <class T>
struct Tail {
  T data[ComputeType<T>::lanes] = {};
  ECGAN_SIMD Tail of(const T* p, int64_t n) {
    Tail tail;
    __builtin_memcpy(tail.data, p, n * sizeof(T));
    return tail;
  }
  inline __attribute__((always_inline)) void copy_to(T* p, int64_t n) const {
    __builtin_memcpy(p, data, n * sizeof(T));
  }
};

template <class To, class From>
ECGAN_SIMD To bit_cast(From from) {
  static_assert(sizeof(To) == sizeof(From));
  To to;
  __builtin_memcpy(&to, &from, sizeof(to));
  return to;
}

// mask is all ones or all zeros in each lane, as comparisons give it.
ECGAN_SIMD Int select(Int mask, Int yes, Int no) {
  return (mask & yes) | (~mask & no);
}
ECGAN_SIMD Float select(Int mask, Float yes, Float no) {
  return bit_cast<Float>(select(mask, bit_cast<Int>(yes), bit_cast<Int>(no)));
}

ECGAN_SIMD double select(bool mask, double yes, double no) {
  return mask ? yes : no;
}

// The larger and the smaller; y where one of them is NaN.
ECGAN_SIMD Float maximum(Float x, Float y) {
#if defined(__AVX512F__)
  return bit_cast<Float>(_mm512_maskz_max_ps(0xffff, bit_cast<__m512>(x), bit_cast<__m512>(y)));
#elif defined(__AVX2__)
  return bit_cast<Float>(_mm256_max_ps(bit_cast<__m256>(x), bit_cast<__m256>(y)));
#else
  return select(x > y, x, y);
#endif
}
ECGAN_SIMD Float minimum(Float x, Float y) {
  return -maximum(-x, -y);
}
ECGAN_SIMD double maximum(double x, double y) {
  return x > y ? x : y;
}
ECGAN_SIMD double minimum(double x, double y) {
  return x < y ? x : y;
}

// Over the lanes of a vector, in a tree.
template <class F>
ECGAN_SIMD float reduce(Float x, F f) {
  float lane[kLanes];
  __builtin_memcpy(lane, &x, sizeof(x));
  for (int n = kLanes / 2; n > 0; n /= 2) {
    for (int i = 0; i < n; ++i) lane[i] = f(lane[i], lane[i + n]);
  }
  return lane[0];
}
ECGAN_SIMD float sum(Float x) {
  return reduce(x, [](float a, float b) { return a + b; });
}
ECGAN_SIMD float largest(Float x) {
  return reduce(x, [](float a, float b) { return a > b ? a : b; });
}
ECGAN_SIMD float smallest(Float x) {
  return reduce(x, [](float a, float b) { return a < b ? a : b; });
}
ECGAN_SIMD double sum(double x) {
  return x;
}
ECGAN_SIMD double largest(double x) {
  return x;
}
ECGAN_SIMD double smallest(double x) {
  return x;
}

// NaN stays NaN.
ECGAN_SIMD Float clamp(Float x, float low, float high) {
  x = select(x < low, low - Float{}, x);
  return select(x > high, high - Float{}, x);
}

// ---------------------------------------------------------------------------------------------
// Memory: unaligned, converted to float and rounded back to nearest, ties to even
// ---------------------------------------------------------------------------------------------

template <class Vector>
ECGAN_SIMD Vector load_bits(const void* p) {
  Vector v;
  __builtin_memcpy(&v, p, sizeof(v));
  return v;
}
template <class Vector>
ECGAN_SIMD void store_bits(void* p, Vector v) {
  __builtin_memcpy(p, &v, sizeof(v));
}

ECGAN_SIMD double load(const double* p) {
  return *p;
}
ECGAN_SIMD void store(double* p, double v) {
  *p = v;
}

ECGAN_SIMD Float load(const float* p) {
  return load_bits<Float>(p);
}
ECGAN_SIMD void store(float* p, Float v) {
  store_bits(p, v);
}

// 16 bits a lane, widened by zeros. By intrinsics on AVX2, here and in narrowing: GCC 12 converts
// in two halves there and takes twice the shuffles.
ECGAN_SIMD Int widen(const void* p) {
#if defined(__AVX2__) && !defined(__AVX512F__)
  return bit_cast<Int>(_mm256_cvtepu16_epi32(load_bits<__m128i>(p)));
#else
  return __builtin_convertvector(load_bits<Short>(p), Int);
#endif
}

ECGAN_SIMD Float load(const BFloat16* p) {
  return bit_cast<Float>(widen(p) << 16);
}
ECGAN_SIMD void store(BFloat16* p, Float v) {
  const Int bits = bit_cast<Int>(v);
  const Int rounded = bits + 0x7fff + ((bits >> 16) & 1);
  const Int quiet = select(v == v, rounded, Int{} + 0x7fc00000);
#if defined(__AVX2__) && !defined(__AVX512F__)
  // The sign is shifted in, so that packing with signed saturation leaves the low 16 bits alone.
  const __m256i high = bit_cast<__m256i>(quiet >> 16);
  store_bits(p, _mm_packs_epi32(_mm256_castsi256_si128(high), _mm256_extracti128_si256(high, 1)));
#else
  store_bits(p, __builtin_convertvector(quiet >> 16, Short));
#endif
}

#if defined(__AVX512F__)
// The maskz forms, since the plain ones make GCC 12 warn of its own header.
ECGAN_SIMD Float load(const Half* p) {
  return bit_cast<Float>(_mm512_maskz_cvtph_ps(0xffff, load_bits<__m256i>(p)));
}
ECGAN_SIMD void store(Half* p, Float v) {
  store_bits(p, _mm512_maskz_cvtps_ph(0xffff, bit_cast<__m512>(v), _MM_FROUND_TO_NEAREST_INT));
}
#elif defined(__F16C__)
ECGAN_SIMD Float load(const Half* p) {
  return bit_cast<Float>(_mm256_cvtph_ps(load_bits<__m128i>(p)));
}
ECGAN_SIMD void store(Half* p, Float v) {
  store_bits(p, _mm256_cvtps_ph(bit_cast<__m256>(v), _MM_FROUND_TO_NEAREST_INT));
}
#else
ECGAN_SIMD Float load(const Half* p) {
  const Int bits = __builtin_convertvector(load_bits<Short>(p), Int);
  const Int magnitude = (bits & 0x7fff) << 13;
  // A multiplication moves the exponent, and makes subnormal halves normal floats on the way.
  const Int finite = bit_cast<Int>(bit_cast<Float>(magnitude) * 0x1p112f);
  const Int special = magnitude | 0x7f800000;  // inf and NaN
  return bit_cast<Float>(select(magnitude >= 0x0f800000, special, finite) | (bits & 0x8000) << 16);
}
ECGAN_SIMD void store(Half* p, Float v) {
  const Int bits = bit_cast<Int>(v);
  const Int magnitude = bits & 0x7fffffff;
  const Int normal = (magnitude + 0xfff + ((magnitude >> 13) & 1) - (112 << 23)) >> 13;
  // Adding 0.5 leaves a subnormal half, rounded, in the low bits.
  const Int subnormal = bit_cast<Int>(bit_cast<Float>(magnitude) + 0.5f) - 0x3f000000;
  Int half = select(magnitude < 0x38800000, subnormal, normal);
  half = select(magnitude >= 0x47800000, Int{} + 0x7c00, half);  // 65536 and above
  half = select(v == v, half, Int{} + 0x7e00);
  store_bits(p, __builtin_convertvector(half | ((bits >> 16) & 0x8000), Short));
}
#endif

// ---------------------------------------------------------------------------------------------
// Functions. Float: about 2 units in the last place; inf and NaN as in <cmath>
// ---------------------------------------------------------------------------------------------

// x = n ln 2 + r with |r| <= ln(2) / 2: returns e^r - 1 and leaves n.
ECGAN_SIMD Float expm1_reduced(Float x, Int* n) {
  constexpr float kRound = 0x1.8p23f;  // adding it rounds to an integer, held in the low bits
  const Float shifted = x * 0x1.715476p0f + kRound;
  *n = bit_cast<Int>(shifted) - bit_cast<int32_t>(kRound);
  const Float whole = shifted - kRound;
  const Float r = (x - whole * 0x1.62e4p-1f) - whole * 0x1.7f7d1cp-20f;
  // (e^r - 1 - r) / r^2, least-maximum fit: relative error of the whole below 2e-8
  Float q = r * 0x1.6bebdp-10f + 0x1.1227b2p-7f;
  q = q * r + 0x1.555674p-5f;
  q = q * r + 0x1.5554bp-3f;
  q = q * r + 0x1.fffffep-2f;
  return (r * r) * q + r;
}

ECGAN_SIMD Float power_of_two(Int n) {
  return bit_cast<Float>((n + 127) << 23);
}

ECGAN_SIMD Float exp(Float x) {
  Int n;
  const Float e = 1.0f + expm1_reduced(clamp(x, -110.0f, 90.0f), &n);
  // Two factors, since 2^n alone leaves the normal numbers before e^x overflows or vanishes.
  const Int half = n >> 1;
  return e * power_of_two(half) * power_of_two(n - half);
}
ECGAN_SIMD double exp(double x) {
  return __builtin_exp(x);
}

// e^x for x <= 0; 0 from -88 on, where float has no normal number left.
ECGAN_SIMD Float exp_nonpositive(Float x) {
  Int n;
  const Float e = 1.0f + expm1_reduced(maximum(-88.0f - Float{}, x), &n);
  return e * power_of_two(n);
}
ECGAN_SIMD double exp_nonpositive(double x) {
  return __builtin_exp(x);
}

// 1 / x of a normal number whose reciprocal is normal too. The processor's estimate has 12 bits;
// one step of Newton's, written so that what is rounded is small, makes them 22.
ECGAN_SIMD Float reciprocal(Float x) {
#if defined(__AVX512F__)
  const Float r = bit_cast<Float>(_mm512_maskz_rcp14_ps(0xffff, bit_cast<__m512>(x)));
  return r + r * (1.0f - x * r);
#elif defined(__AVX2__)
  const Float r = bit_cast<Float>(_mm256_rcp_ps(bit_cast<__m256>(x)));
  return r + r * (1.0f - x * r);
#else
  return 1.0f / x;
#endif
}
ECGAN_SIMD double reciprocal(double x) {
  return 1 / x;
}

// log(1 + x) for 0 <= x <= 1, with its relative accuracy: 2 artanh(w) of w = x / (2 + x) <= 1/3.
ECGAN_SIMD Float log1p_unit(Float x) {
  const Float w = x / (2.0f + x);
  const Float u = w * w;
  Float q = u * (1.0f / 15) + 1.0f / 13;
  q = q * u + 1.0f / 11;
  q = q * u + 1.0f / 9;
  q = q * u + 1.0f / 7;
  q = q * u + 1.0f / 5;
  q = q * u + 1.0f / 3;
  return 2.0f * (w + w * u * q);
}
ECGAN_SIMD double log1p_unit(double x) {
  return __builtin_log1p(x);
}

// A sum of logarithms as the logarithm of a product, whose exponent is counted apart: one log for
// many factors. They are positive normal numbers; infinity and NaN leave nonsense.
template <class V>
struct LogSum;
template <>
struct LogSum<Float> {
  Float mantissa = Float{} + 1.0f;
  Int exponent = {};

  // At most 100 times, then fold(): each mantissa is below 2.
  inline __attribute__((always_inline)) void add(Float x) {
    const Int bits = bit_cast<Int>(x);
    exponent += bits >> 23;
    mantissa *= bit_cast<Float>((bits & 0x7fffff) | 0x3f800000);
  }
  inline __attribute__((always_inline)) void fold(int32_t added) {
    const Int bits = bit_cast<Int>(mantissa);
    exponent += (bits >> 23) - 127 * (added + 1);
    mantissa = bit_cast<Float>((bits & 0x7fffff) | 0x3f800000);
  }
  // After fold().
  double total() const {
    double sum = 0;
    for (int i = 0; i < kLanes; ++i) {
      sum += exponent[i] * 0x1.62e42fefa39efp-1 + __builtin_log(mantissa[i]);
    }
    return sum;
  }
};
template <>
struct LogSum<double> {
  double value = 0;
  void add(double x) { value += __builtin_log(x); }
  void fold(int32_t) {}
  double total() const { return value; }
};

template <class V>
struct ValueAndDerivative {
  V value, derivative;
};

// With m = expm1(-2|x|): tanh |x| = -m / (m + 2), its derivative 4 e^(-2|x|) / (m + 2)^2. Both keep
// their relative accuracy, which 1 - tanh(x)^2 would lose for large x, and exp for small.
ECGAN_SIMD ValueAndDerivative<Float> tanh_with_derivative(Float x) {
  const Int sign = bit_cast<Int>(x) & INT32_MIN;
  const Float magnitude = bit_cast<Float>(bit_cast<Int>(x) ^ sign);
  Int n;
  const Float e = expm1_reduced(clamp(-2.0f * magnitude, -88.0f, 0.0f), &n);
  const Float scale = power_of_two(n);  // 0 at -88, where n = -127
  const Float m = e * scale + (scale - 1.0f);
  const Float d = m + 2.0f;
  return {bit_cast<Float>(bit_cast<Int>(-m / d) ^ sign), 4.0f * (e * scale + scale) / (d * d)};
}
ECGAN_SIMD ValueAndDerivative<double> tanh_with_derivative(double x) {
  const double cosh = __builtin_cosh(x);
  return {__builtin_tanh(x), 1 / (cosh * cosh)};
}

ECGAN_SIMD Float negative_magnitude(Float x) {
  return bit_cast<Float>(bit_cast<Int>(x) | INT32_MIN);
}
ECGAN_SIMD double negative_magnitude(double x) {
  return -__builtin_fabs(x);
}

// With s = sigmoid(x): 1 + s = numerator / denominator and s (1 - s) = small / denominator^2, with
// small = e^-|x|. Nothing overflows or cancels, whatever the sign of x.
template <class V>
struct Gate {
  V small, numerator, denominator;
};
template <class V>
ECGAN_SIMD Gate<V> gate(V x) {
  const V small = exp_nonpositive(negative_magnitude(x));
  const V denominator = 1 + small;
  return {small, denominator + select(x < 0, small, V{} + 1), denominator};
}

}  // namespace ecgan::ECGAN_ISA
