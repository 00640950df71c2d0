// From tensors to what kernels take: element type, and the strides of several tensors of one shape.
#pragma once

#include <torch/csrc/stable/library.h>
#include <torch/csrc/stable/ops.h>
#include <torch/csrc/stable/tensor.h>

#include <string>
#include <tuple>

#include "../common/strided.h"
#include "../common/types.h"

namespace ecgan {

using torch::headeronly::ScalarType;
using torch::stable::Tensor;

inline DType dtype_of(const Tensor& tensor, const char* name) {
  switch (tensor.scalar_type()) {
    case ScalarType::Float:
      return DType::f32;
    case ScalarType::Half:
      return DType::f16;
    case ScalarType::BFloat16:
      return DType::bf16;
    case ScalarType::Double:
      return DType::f64;
    default:
      STD_TORCH_CHECK(false, name, ": expected float32, float16, bfloat16 or float64");
      return DType::f32;
  }
}

// Shape, dtype and device.
inline void check_like(const Tensor& tensor, const char* name, const Tensor& like,
                       const char* like_name) {
  STD_TORCH_CHECK(tensor.dim() == like.dim(), name, ": expected the shape of ", like_name, ", ",
                  like.dim(), " dimensions, got ", tensor.dim());
  for (int64_t d = 0; d < like.dim(); ++d) {
    STD_TORCH_CHECK(tensor.size(d) == like.size(d), name, ": expected the shape of ", like_name,
                    ", ", like.size(d), " in dimension ", d, ", got ", tensor.size(d));
  }
  STD_TORCH_CHECK(tensor.scalar_type() == like.scalar_type(), name, ": expected the dtype of ",
                  like_name);
  STD_TORCH_CHECK(tensor.device() == like.device(), name, ": expected the device of ", like_name);
}

// The coalesced layout of tensors of one shape; the last must be dense, as empty_like gives it.
template <int N>
Strided<N> strided(const Tensor (&tensors)[N]) {
  const int64_t dims = tensors[0].dim();
  STD_TORCH_CHECK(dims <= kMaxDims, "expected at most ", kMaxDims, " dimensions, got ", dims);
  Strided<N> layout;
  layout.ndim = static_cast<int>(dims);
  layout.numel = tensors[0].numel();
  for (int64_t d = 0; d < dims; ++d) {
    layout.size[d] = tensors[0].size(dims - 1 - d);
    for (int t = 0; t < N; ++t) layout.stride[t][d] = tensors[t].stride(dims - 1 - d);
  }
  layout.coalesce();
  return layout;
}

// Elements for which a thread is worth waking, in an elementwise kernel.
constexpr int64_t kGrain = 16384;

}  // namespace ecgan
