// What the tests of elementwise operators share: layouts of up to five tensors, values, closeness.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <limits>
#include <random>
#include <string>
#include <type_traits>
#include <vector>

#include "../../csrc/common/strided.h"
#include "../../csrc/cuda/scalar.h"

struct Case {
  std::string name;
  std::vector<int64_t> size;                  // dimension 0 the fastest
  std::vector<std::vector<int64_t>> strides;  // of each tensor; one entry serves all
  int64_t offset = 0;                         // of every tensor's first element, from 16 bytes on

  const std::vector<int64_t>& stride(int tensor) const {
    return strides[strides.size() == 1 ? 0 : tensor];
  }
  int64_t numel() const {
    int64_t n = 1;
    for (int64_t s : size) n *= s;
    return n;
  }
  // Offset of each element in one tensor, by plain nested counting.
  std::vector<int64_t> elements(int tensor) const {
    std::vector<int64_t> at, index(size.size(), 0);
    for (int64_t n = numel(); n > 0; --n) {
      int64_t offset_here = offset;
      for (std::size_t d = 0; d < size.size(); ++d) offset_here += index[d] * stride(tensor)[d];
      at.push_back(offset_here);
      for (std::size_t d = 0; d < size.size() && ++index[d] == size[d]; ++d) index[d] = 0;
    }
    return at;
  }
  template <int Tensors>
  ecgan::Strided<Tensors> layout(const int (&tensors)[Tensors]) const {
    ecgan::Strided<Tensors> layout;
    layout.ndim = static_cast<int>(size.size());
    layout.numel = numel();
    for (int d = 0; d < layout.ndim; ++d) {
      layout.size[d] = size[d];
      for (int t = 0; t < Tensors; ++t) layout.stride[t][d] = stride(tensors[t])[d];
    }
    if (layout.numel > 0) layout.coalesce();
    return layout;
  }
};

inline std::vector<Case> cases() {
  std::vector<Case> all;
  for (int64_t n : {0, 1, 2, 7, 8, 17, 257, 6211}) {
    all.push_back({"dense " + std::to_string(n), {n}, {{1}}});
  }
  all.push_back({"misaligned", {1031}, {{1}}, 1});
  all.push_back({"scalar", {}, {{}}});
  all.push_back({"gaps between rows", {17, 31}, {{1, 20}}});
  // [B, C, H, W] = [2, 11, 7, 5]: contiguous, channels last, expanded over channels, a sum's
  // gradient
  const std::vector<int64_t> nchw{1, 5, 35, 385}, nhwc{11, 55, 1, 385}, one{1, 5, 0, 35}, sum(4, 0);
  const std::vector<int64_t> bchw{5, 7, 11, 2};
  all.push_back({"channels last", bchw, {nhwc}});
  all.push_back({"mixed formats", bchw, {nhwc, nchw, nhwc, nchw, nhwc}});
  all.push_back({"expanded edge", bchw, {nchw, nchw, one, nchw, nchw}});
  all.push_back({"gradient of a sum", bchw, {sum, nchw, nchw, nchw, nchw}});
  all.push_back({"transposed", {43, 37}, {{37, 1}, {1, 43}, {1, 43}, {1, 43}, {1, 43}}});
  const std::vector<int64_t> up{1, 2, 6, 6, 12, 24, 72, 144}, down{144, 48, 48, 24, 12, 4, 2, 1};
  all.push_back({"eight dimensions", {2, 3, 1, 2, 2, 3, 2, 2}, {down, up, down, up, up}});
  return all;
}

// Values that reach saturation, both infinities, NaN and denormals.
inline float sample(std::mt19937& random, int i) {
  constexpr float kInf = std::numeric_limits<float>::infinity();
  const float special[] = {0.0f, -0.0f, 100.0f, -100.0f, 20.0f, -20.0f, 1e-6f, kInf, -kInf, NAN};
  if (i % 23 == 22) return special[i / 23 % 10];
  return std::uniform_real_distribution<float>(-6, 6)(random);
}

template <typename T>
constexpr double kEpsilon = sizeof(T) == 4              ? 0
                            : std::is_same_v<T, __half> ? 0x1p-11
                                                        : 0x1p-8;

// One rounding to T, a few of float, and what float loses where 1 - tanh^2 cancels (`scale`).
template <typename T>
bool near(double got, double want, double scale) {
  if (std::isnan(want)) return std::isnan(got);
  const double largest = std::is_same_v<T, __half> ? 65504 : 3e38;
  if (std::fabs(want) > largest) return got == want || std::fabs(got) >= largest;
  const double smallest = std::is_same_v<T, __half> ? 0x1p-24 : 1e-37;
  return std::fabs(got - want) <=
         (kEpsilon<T> * 1.01 + 1e-6) * std::fabs(want) + 5e-7 * scale + smallest;
}
