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

// Most elements of a tensor, counting a size of 0 as 1: an expanded tensor may claim 2^60 rows of
// nothing, and offsets are products of sizes whether or not there is an element.
constexpr int64_t kMaxElements = int64_t{1} << 40;

template <class Sizes>
void check_extent(const Sizes& sizes, const char* name, int64_t limit = kMaxElements) {
  int64_t extent = 1;
  for (const int64_t size : sizes) {
    STD_TORCH_CHECK(size < limit / extent, name, ": expected sizes with a product below ", limit);
    extent *= size > 0 ? size : 1;
  }
}

// What kernels take for granted of memory: sizes that can be multiplied, aligned elements (those of
// torch.frombuffer may stand anywhere).
inline void check_memory(const Tensor& tensor, const char* name, int64_t limit = kMaxElements) {
  check_extent(tensor.sizes(), name, limit);
  const auto address = reinterpret_cast<uintptr_t>(tensor.const_data_ptr());
  STD_TORCH_CHECK(address % static_cast<uintptr_t>(tensor.element_size()) == 0, name,
                  ": expected memory aligned to its elements");
}

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

// Label maps and the like as int64, contiguous.
inline Tensor contiguous_labels(const Tensor& labels, const char* name) {
  const ScalarType type = labels.scalar_type();
  STD_TORCH_CHECK(type == ScalarType::Byte || type == ScalarType::Short ||
                      type == ScalarType::Int || type == ScalarType::Long,
                  name, ": expected uint8, int16, int32 or int64");
  check_memory(labels, name);
  return torch::stable::contiguous(torch::stable::to(labels, ScalarType::Long));
}

// Shape, dtype, device and memory.
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
  check_memory(tensor, name);
}

// The stride, or 0 where there is no second element, of which it may be any number.
inline int64_t step(const Tensor& tensor, int64_t d) {
  return tensor.size(d) > 1 && tensor.numel() > 0 ? tensor.stride(d) : 0;
}

// The coalesced layout of tensors of one shape; the last must be dense, as empty_like gives it.
template <int N>
Strided<N> strided(const Tensor (&tensors)[N]) {
  const int64_t dims = tensors[0].dim();
  STD_TORCH_CHECK(dims <= kMaxDims, "expected at most ", kMaxDims, " dimensions, got ", dims);
  Strided<N> layout;
  layout.numel = tensors[0].numel();
  layout.ndim = layout.numel > 0 ? static_cast<int>(dims) : 0;
  for (int64_t d = 0; d < layout.ndim; ++d) {
    layout.size[d] = tensors[0].size(dims - 1 - d);
    for (int t = 0; t < N; ++t) layout.stride[t][d] = step(tensors[t], dims - 1 - d);
  }
  layout.coalesce();
  return layout;
}

// Elements for which a thread is worth waking, in an elementwise kernel.
constexpr int64_t kGrain = 16384;

}  // namespace ecgan
