// Checks of pixel_contrast, the same for every device.
#pragma once

#include "tensors.h"

namespace ecgan {

struct PixelContrastCall {
  DType dtype;
  int64_t anchors, others, depth;
  Tensor labels, contrast_labels;  // int64, contiguous

  PixelContrastCall(const Tensor& embeddings, const Tensor& labels_, const Tensor& contrast,
                    const Tensor& contrast_labels_, bool same_set, double temperature)
      : dtype(dtype_of(embeddings, "embeddings")),
        anchors(embeddings.dim() == 2 ? embeddings.size(0) : -1),
        others(contrast.dim() == 2 ? contrast.size(0) : -1),
        depth(embeddings.dim() == 2 ? embeddings.size(1) : -1) {
    STD_TORCH_CHECK(dtype == DType::f32 || dtype == DType::f64,
                    "embeddings: expected float32 or float64");
    STD_TORCH_CHECK(anchors >= 0, "embeddings: expected 2 dimensions, got ", embeddings.dim());
    STD_TORCH_CHECK(others >= 0 && contrast.size(1) == depth,
                    "contrast: expected shape [Q, D] with D = ", depth);
    STD_TORCH_CHECK(contrast.scalar_type() == embeddings.scalar_type(),
                    "contrast: expected the dtype of embeddings");
    STD_TORCH_CHECK(contrast.device() == embeddings.device(),
                    "contrast: expected the device of embeddings");
    check_memory(embeddings, "embeddings");
    check_memory(contrast, "contrast");
    STD_TORCH_CHECK(!same_set || others == anchors, "contrast: expected the embeddings");
    STD_TORCH_CHECK(anchors < (int64_t{1} << 31) && others < (int64_t{1} << 31),
                    "embeddings, contrast: expected fewer than 2^31 vectors");
    STD_TORCH_CHECK(temperature > 0, "temperature: expected a positive number");
    labels = checked(labels_, "labels", anchors, embeddings);
    contrast_labels =
        same_set ? labels : checked(contrast_labels_, "contrast_labels", others, embeddings);
  }

 private:
  static Tensor checked(const Tensor& labels, const char* name, int64_t count,
                        const Tensor& embeddings) {
    STD_TORCH_CHECK(labels.dim() == 1 && labels.size(0) == count, name, ": expected shape [", count,
                    "]");
    STD_TORCH_CHECK(labels.device() == embeddings.device(), name,
                    ": expected the device of embeddings");
    return contiguous_labels(labels, name);
  }
};

}  // namespace ecgan
