// What GPU kernels share and any C++17 compiler can run too. No CUDA header.
#pragma once

#include <cmath>

#include "strided.h"

namespace ecgan {

struct Sigmoid {
  float value;  // sigmoid(x)
  float slope;  // its derivative, sigmoid(x) (1 - sigmoid(x))
};

// Neither overflows nor cancels, so that the slope of a saturated gate keeps its digits.
ECGAN_HOST_DEVICE inline Sigmoid sigmoid(float x) {
  const float e = expf(-fabsf(x));
  const float r = 1.0f / (1.0f + e);
  return {x < 0.0f ? e * r : r, e * r * r};
}

// 1 / x of a number between 1 and 8. The precise division would carry a branch for subnormals, and
// the registers to call it.
ECGAN_HOST_DEVICE inline float reciprocal(float x) {
#if defined(__CUDA_ARCH__)
  return __fdividef(1.0f, x);
#else
  return 1.0f / x;
#endif
}

struct Gate {
  float gain;  // 1 + sigmoid(x)
  float rate;  // the derivative of its logarithm, sigmoid(x) (1 - sigmoid(x)) / (1 + sigmoid(x))
};

// One exponential and one division; neither overflows nor cancels.
ECGAN_HOST_DEVICE inline Gate gate(float x) {
  const float e = expf(-fabsf(x));
  const float denominator = 1.0f + e;
  const float numerator = denominator + (x < 0.0f ? e : 1.0f);
  const float r = reciprocal(denominator * numerator);
  return {numerator * numerator * r, e * r};
}

// LeakyReLU's derivative by its result or by its input, which have one sign: the slope at 0 too, as
// in torch, and where a small negative result has become 0.
ECGAN_HOST_DEVICE inline float leaky_derivative(float y, float slope) {
  return y > 0.0f ? 1.0f : slope;
}

}  // namespace ecgan
