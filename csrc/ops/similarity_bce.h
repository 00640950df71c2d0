// Checks and allocation of similarity_bce, the same for every device.
#pragma once

#include "tensors.h"

namespace ecgan {

struct SimilarityBceCall {
  DType dtype;
  bool exact;
  int64_t batch, classes, pixels;
  ScalarType result;  // float32, or float64 for float64
  Tensor labels;      // [B, M] int64, contiguous

  SimilarityBceCall(const Tensor& probs, const Tensor& labels_, double eps,
                    const std::string& precision)
      : dtype(dtype_of(probs, "probs")), exact(precision == "exact") {
    STD_TORCH_CHECK(probs.dim() >= 2 && probs.size(1) > 0,
                    "probs: expected shape [B, N, *S] with N > 0");
    check_memory(probs, "probs");
    STD_TORCH_CHECK(labels_.dim() == probs.dim() - 1, "labels: expected shape [B, *S] of probs");
    batch = probs.size(0);
    classes = probs.size(1);
    pixels = 1;
    for (int64_t d = 0; d < labels_.dim(); ++d) {
      const int64_t size = probs.size(d == 0 ? 0 : d + 1);
      STD_TORCH_CHECK(labels_.size(d) == size, "labels: expected ", size, " in dimension ", d,
                      ", got ", labels_.size(d));
      if (d > 0) pixels *= size;
    }
    STD_TORCH_CHECK(pixels < (int64_t{1} << 31) && classes < (int64_t{1} << 31),
                    "probs: expected fewer than 2^31 pixels and classes");
    STD_TORCH_CHECK(labels_.device() == probs.device(), "labels: expected the device of probs");
    STD_TORCH_CHECK(0 < eps && eps < 1, "eps: expected a number in (0, 1)");
    STD_TORCH_CHECK(exact || precision == "fast", "precision: expected 'exact' or 'fast', got '",
                    precision, "'");
    result = dtype == DType::f64 ? ScalarType::Double : ScalarType::Float;
    labels = contiguous_labels(labels_, "labels");
  }
};

}  // namespace ecgan
