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

}  // namespace ecgan
