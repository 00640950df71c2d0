// Checks and allocation of class_conv2d, the same for every device.
#pragma once

#include <array>
#include <optional>

#include "tensors.h"

namespace ecgan {

// x [B, C, H, W], labels [B, H, W], weight [O, C, 3, 3] of any floating dtype.
struct ClassConv2dCall {
  DType dtype;
  ScalarType compute;  // float32, or float64 for float64
  int64_t batch, channels, outputs, height, width;
  Tensor labels;  // [B, H, W] int64, contiguous
  Tensor weight;  // [O, C, 3, 3] in `compute`, contiguous

  ClassConv2dCall(const Tensor& x, const Tensor& labels_, const Tensor& weight_)
      : dtype(dtype_of(x, "x")) {
    STD_TORCH_CHECK(x.dim() == 4, "x: expected shape [B, C, H, W]");
    check_memory(x, "x");
    batch = x.size(0), channels = x.size(1), height = x.size(2), width = x.size(3);
    STD_TORCH_CHECK(labels_.dim() == 3 && labels_.size(0) == batch && labels_.size(1) == height &&
                        labels_.size(2) == width,
                    "labels: expected shape [B, H, W] of x");
    STD_TORCH_CHECK(weight_.dim() == 4 && weight_.size(1) == channels && weight_.size(2) == 3 &&
                        weight_.size(3) == 3,
                    "weight: expected shape [O, C of x, 3, 3]");
    STD_TORCH_CHECK(labels_.device() == x.device(), "labels: expected the device of x");
    STD_TORCH_CHECK(weight_.device() == x.device(), "weight: expected the device of x");
    dtype_of(weight_, "weight");
    check_memory(weight_, "weight");
    outputs = weight_.size(0);
    check_extent(std::array{batch, outputs, height, width}, "weight");
    compute = dtype == DType::f64 ? ScalarType::Double : ScalarType::Float;
    labels = contiguous_labels(labels_, "labels");
    weight = in_compute(weight_);
  }

  Tensor in_compute(const Tensor& tensor) const {
    return torch::stable::contiguous(torch::stable::to(tensor, compute));
  }

  // The bias in `compute`, if there is one.
  std::optional<Tensor> checked_bias(const std::optional<Tensor>& bias) const {
    if (!bias) return bias;
    STD_TORCH_CHECK(bias->dim() == 1 && bias->size(0) == outputs, "bias: expected shape [O]");
    STD_TORCH_CHECK(bias->device() == weight.device(), "bias: expected the device of x");
    dtype_of(*bias, "bias");
    check_memory(*bias, "bias");
    return in_compute(*bias);
  }

  void check_grad(const Tensor& grad, const Tensor& x) const {
    STD_TORCH_CHECK(grad.dim() == 4 && grad.size(0) == batch && grad.size(1) == outputs &&
                        grad.size(2) == height && grad.size(3) == width,
                    "grad: expected shape [B, O, H, W]");
    STD_TORCH_CHECK(grad.scalar_type() == x.scalar_type(), "grad: expected the dtype of x");
    STD_TORCH_CHECK(grad.device() == x.device(), "grad: expected the device of x");
    check_memory(grad, "grad");
  }

  const int64_t* label_data() const { return static_cast<const int64_t*>(labels.const_data_ptr()); }
};

}  // namespace ecgan
