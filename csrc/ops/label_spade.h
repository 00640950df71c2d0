// Checks of label_spade, the same for every device.
#pragma once

#include <optional>

#include "tensors.h"

namespace ecgan {

struct LabelSpadeCall {
  DType dtype;
  SpadeNorm norm;
  int64_t batch, channels, pixels, patches;
  ScalarType table_type;  // float32, or float64 for float64
  Tensor x;               // planes in a row
  Tensor table;           // contiguous

  LabelSpadeCall(const Tensor& x_, const Tensor& table_, const Tensor& inverse,
                 const std::string& norm_name)
      : dtype(dtype_of(x_, "x")), norm(parse(norm_name)) {
    STD_TORCH_CHECK(x_.dim() == 4, "x: expected shape [B, C, H, W]");
    check_memory(x_, "x");
    batch = x_.size(0);
    channels = x_.size(1);
    pixels = x_.size(2) * x_.size(3);
    table_type = dtype == DType::f64 ? ScalarType::Double : ScalarType::Float;
    STD_TORCH_CHECK(table_.dim() == 2 && table_.size(0) == 2 * channels,
                    "table: expected shape [2 C, patches]");
    STD_TORCH_CHECK(table_.scalar_type() == table_type,
                    "table: expected float32, or float64 for float64 x");
    STD_TORCH_CHECK(table_.device() == x_.device(), "table: expected the device of x");
    patches = table_.size(1);
    STD_TORCH_CHECK(inverse.scalar_type() == ScalarType::Int && inverse.dim() == 3 &&
                        inverse.size(0) == batch && inverse.size(1) == x_.size(2) &&
                        inverse.size(2) == x_.size(3) && inverse.is_contiguous(),
                    "inverse: expected contiguous int32 [B, H, W]");
    STD_TORCH_CHECK(inverse.device() == x_.device(), "inverse: expected the device of x");
    check_memory(table_, "table");
    check_memory(inverse, "inverse");
    x = with_planes(x_);
    table = torch::stable::contiguous(table_);
  }

  static SpadeNorm parse(const std::string& name) {
    if (name == "instance") return SpadeNorm::instance;
    if (name == "batch") return SpadeNorm::batch;
    if (name == "shared") return SpadeNorm::shared;
    STD_TORCH_CHECK(name == "fixed",
                    "norm: expected 'instance', 'batch', 'fixed' or 'shared', got '", name, "'");
    return SpadeNorm::fixed;
  }

  // The tensor itself where each channel of an image is one run of pixels, else a copy.
  static Tensor with_planes(const Tensor& t) {
    const bool rows = t.size(3) == 1 || t.stride(3) == 1;
    const bool planes = t.size(2) == 1 || t.stride(2) == t.size(3);
    return rows && planes ? t : torch::stable::contiguous(t);
  }

  Tensor grad_like_x(const Tensor& grad) const {
    STD_TORCH_CHECK(grad.dim() == 4 && grad.scalar_type() == x.scalar_type(),
                    "grad: expected the shape and dtype of x");
    for (int64_t d = 0; d < 4; ++d) {
      STD_TORCH_CHECK(grad.size(d) == x.size(d), "grad: expected the shape of x");
    }
    STD_TORCH_CHECK(grad.device() == x.device(), "grad: expected the device of x");
    check_memory(grad, "grad");
    return with_planes(grad);
  }

  // The means of the gradient's sums over all processes, which norm "shared" is given.
  const Tensor& means(const std::optional<Tensor>& given) const {
    STD_TORCH_CHECK(given && given->dim() == 2 && given->size(0) == channels &&
                        given->size(1) == 2 && given->scalar_type() == ScalarType::Double &&
                        given->device() == x.device(),
                    "shared: expected the means, float64 [C, 2], with norm='shared' and need_x");
    return *given;
  }

  // Numbers of statistics: one a channel and, for instance norm, an image.
  int64_t groups() const { return norm == SpadeNorm::instance ? batch : 1; }
  bool computes_statistics() const {
    return norm == SpadeNorm::instance || norm == SpadeNorm::batch;
  }
  Tensor statistics(const Tensor& given, const char* name) const {
    STD_TORCH_CHECK(given.dim() == 2 && given.size(0) == groups() && given.size(1) == channels &&
                        given.scalar_type() == ScalarType::Double,
                    name, ": expected float64 [B or 1, C]");
    STD_TORCH_CHECK(given.device() == x.device(), name, ": expected the device of x");
    check_memory(given, name);
    return torch::stable::contiguous(given);
  }
};

}  // namespace ecgan
