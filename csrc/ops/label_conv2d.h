// Checks and allocation of label_conv2d, the same for every device.
#pragma once

#include <array>
#include <optional>

#include "tensors.h"

namespace ecgan {

struct LabelConv2dCall {
  DType dtype;
  int64_t out_height, out_width;
  int label_bytes;              // 1: uint8, 2: int16, 4: int32, 8: int64
  Tensor labels;                // [B, H, W], contiguous
  std::optional<Tensor> edges;  // bool, as labels
  std::optional<Tensor> scale;  // float32, for float64 weights float64, as labels
  ScalarType compute;           // the dtype of scale

  LabelConv2dCall(const Tensor& labels_, const Tensor& weight, const std::optional<Tensor>& edges_,
                  const std::optional<Tensor>& scale_, int64_t stride_height, int64_t stride_width,
                  int64_t padding_height, int64_t padding_width)
      : dtype(dtype_of(weight, "weight")) {
    STD_TORCH_CHECK(labels_.dim() == 3, "labels: expected 3 dimensions, got ", labels_.dim());
    STD_TORCH_CHECK(weight.dim() == 4, "weight: expected 4 dimensions, got ", weight.dim());
    STD_TORCH_CHECK(labels_.device() == weight.device(), "weight: expected the device of labels");
    constexpr int64_t kMost = int64_t{1} << 20;  // rows, columns
    STD_TORCH_CHECK(
        0 < stride_height && stride_height < kMost && 0 < stride_width && stride_width < kMost,
        "stride: expected at least 1 and less than 2^20");
    STD_TORCH_CHECK(0 <= padding_height && padding_height < kMost && 0 <= padding_width &&
                        padding_width < kMost,
                    "padding: expected at least 0 and less than 2^20");
    check_memory(labels_, "labels");
    check_memory(weight, "weight");
    STD_TORCH_CHECK(weight.size(1) >= (edges_ ? 1 : 0), "weight: expected a column for edges");
    const int64_t height = labels_.size(1) + 2 * padding_height;
    const int64_t width = labels_.size(2) + 2 * padding_width;
    STD_TORCH_CHECK(0 < weight.size(2) && weight.size(2) <= height && 0 < weight.size(3) &&
                        weight.size(3) <= width,
                    "weight: expected a kernel within the padded labels");
    STD_TORCH_CHECK(height < kMost && width < kMost,
                    "labels: expected fewer than 2^20 rows and columns");
    // Kernels number the pairs of a tap and a code, which has an edge bit, in 32 bits.
    STD_TORCH_CHECK(weight.size(2) * weight.size(3) * (weight.size(1) + 1) < (int64_t{1} << 30),
                    "weight: expected fewer than 2^30 columns and taps");
    out_height = (height - weight.size(2)) / stride_height + 1;
    out_width = (width - weight.size(3)) / stride_width + 1;
    check_extent(std::array{labels_.size(0), height, width}, "labels");
    check_extent(std::array{labels_.size(0), weight.size(0), out_height, out_width}, "weight");
    switch (labels_.scalar_type()) {
      case ScalarType::Byte:
        label_bytes = 1;
        break;
      case ScalarType::Short:
        label_bytes = 2;
        break;
      case ScalarType::Int:
        label_bytes = 4;
        break;
      case ScalarType::Long:
        label_bytes = 8;
        break;
      default:
        STD_TORCH_CHECK(false, "labels: expected uint8, int16, int32 or int64");
    }
    labels = torch::stable::contiguous(labels_);
    compute = dtype == DType::f64 ? ScalarType::Double : ScalarType::Float;
    if (edges_) {
      STD_TORCH_CHECK(edges_->scalar_type() == ScalarType::Bool, "edges: expected bool");
      STD_TORCH_CHECK(edges_->dim() == 4 && edges_->size(1) == 1, "edges: expected [B, 1, H, W]");
      check_map(*edges_, "edges", {edges_->size(0), edges_->size(2), edges_->size(3)});
      edges = torch::stable::contiguous(*edges_);
    }
    if (scale_) {
      dtype_of(*scale_, "scale");
      STD_TORCH_CHECK(scale_->dim() == 3, "scale: expected 3 dimensions, got ", scale_->dim());
      check_map(*scale_, "scale", {scale_->size(0), scale_->size(1), scale_->size(2)});
      scale = torch::stable::contiguous(torch::stable::to(*scale_, compute));
    }
  }

  int64_t outputs(const Tensor& weight) const {
    return labels.size(0) * weight.size(0) * out_height * out_width;
  }
  const uint8_t* edge_data() const {
    return edges ? static_cast<const uint8_t*>(edges->const_data_ptr()) : nullptr;
  }
  const void* scale_data() const { return scale ? scale->const_data_ptr() : nullptr; }

  // The shape of y, the dtype of the weight and its device.
  void check_grad(const Tensor& grad, const Tensor& weight) const {
    const int64_t shape[] = {labels.size(0), weight.size(0), out_height, out_width};
    STD_TORCH_CHECK(grad.dim() == 4, "grad: expected 4 dimensions, got ", grad.dim());
    for (int64_t d = 0; d < 4; ++d) {
      STD_TORCH_CHECK(grad.size(d) == shape[d], "grad: expected ", shape[d], " in dimension ", d,
                      ", got ", grad.size(d));
    }
    STD_TORCH_CHECK(grad.scalar_type() == weight.scalar_type(),
                    "grad: expected the dtype of weight");
    STD_TORCH_CHECK(grad.device() == weight.device(), "grad: expected the device of weight");
    check_memory(grad, "grad");
  }

 private:
  void check_map(const Tensor& map, const char* name, std::initializer_list<int64_t> shape) const {
    int64_t d = 0;
    for (int64_t size : shape) {
      STD_TORCH_CHECK(size == labels.size(d), name, ": expected the size of labels, ",
                      labels.size(d), ", got ", size);
      ++d;
    }
    STD_TORCH_CHECK(map.device() == labels.device(), name, ": expected the device of labels");
    check_memory(map, name);
  }
};

inline void check_bias(const std::optional<Tensor>& bias, const Tensor& weight) {
  if (!bias) return;
  STD_TORCH_CHECK(bias->dim() == 1 && bias->size(0) == weight.size(0),
                  "bias: expected shape [O] of weight");
  STD_TORCH_CHECK(bias->scalar_type() == weight.scalar_type(),
                  "bias: expected the dtype of weight");
  STD_TORCH_CHECK(bias->device() == weight.device(), "bias: expected the device of weight");
  check_memory(*bias, "bias");
}

// A gradient as [B, O, M]: its strides, one of which is 1 as the kernels want it, and the memory.
struct FlatGrad {
  Tensor tensor;
  int64_t strides[3];

  explicit FlatGrad(const Tensor& grad) : tensor(grad) {
    if (!read()) {
      tensor = torch::stable::contiguous(grad);
      read();
    }
  }

 private:
  // Strides of dimensions of size 1 may be anything, and count as what is most convenient.
  bool read() {
    const int64_t height = tensor.size(2), width = tensor.size(3);
    const int64_t outputs = height * width;
    const bool even = height == 1 || width == 1 || step(tensor, 2) == width * step(tensor, 3);
    strides[2] = width > 1 ? step(tensor, 3) : height > 1 ? step(tensor, 2) : 1;
    strides[1] = tensor.size(1) > 1 ? step(tensor, 1) : outputs == 1 ? 1 : outputs;
    strides[0] = tensor.size(0) > 1 ? step(tensor, 0) : tensor.size(1) * outputs;
    // Of one output a channel, those of a batch make the rows.
    return even && (strides[1] == 1 || strides[outputs == 1 ? 0 : 2] == 1);
  }
};

}  // namespace ecgan
