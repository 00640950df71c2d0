// label_windows and label_segments: what LabelIndex is built of on the CPU, and their schemas.
#include "../cpu/label_index.h"

#include <cstring>
#include <vector>

#include "tensors.h"

namespace ecgan {
namespace {

Tensor int32_map(const Tensor& tensor, const char* name) {
  STD_TORCH_CHECK(tensor.scalar_type() == ScalarType::Int, name, ": expected int32");
  STD_TORCH_CHECK(tensor.dim() == 3, name, ": expected shape [B, H, W]");
  check_memory(tensor, name, int64_t{1} << 31);
  return torch::stable::contiguous(tensor);
}

int32_t as_int32(int64_t value, const char* name) {
  STD_TORCH_CHECK(value == static_cast<int32_t>(value), name, ": expected 32 bits, got ", value);
  return static_cast<int32_t>(value);
}

Tensor rows_of(const std::vector<int32_t>& values, int64_t columns, const Tensor& like) {
  const int64_t rows = static_cast<int64_t>(values.size()) / columns;
  Tensor out = torch::stable::new_empty(like, {rows, columns});
  if (rows > 0) std::memcpy(out.mutable_data_ptr(), values.data(), values.size() * sizeof(int32_t));
  return out;
}

std::tuple<Tensor, Tensor> label_windows(const Tensor& map_, int64_t outside, int64_t kernel_size) {
  const Tensor map = int32_map(map_, "map");
  STD_TORCH_CHECK(kernel_size > 0 && kernel_size % 2 == 1 && kernel_size <= cpu::kMaxWindow,
                  "kernel_size: expected an odd number up to ", cpu::kMaxWindow, ", got ",
                  kernel_size);
  Tensor inverse = torch::stable::new_empty(map, {map.size(0), map.size(1), map.size(2)});
  std::vector<int32_t> windows;
  int64_t distinct = 0;
  cpu::label_windows(static_cast<const int32_t*>(map.const_data_ptr()), map.size(0), map.size(1),
                     map.size(2), as_int32(outside, "outside"), kernel_size,
                     static_cast<int32_t*>(inverse.mutable_data_ptr()), windows, &distinct);
  return {rows_of(windows, kernel_size * kernel_size, map), inverse};
}

std::tuple<Tensor, Tensor> label_segments(const Tensor& inverse_, int64_t shortest) {
  const Tensor inverse = int32_map(inverse_, "inverse");
  STD_TORCH_CHECK(shortest > 0, "shortest: expected at least 1, got ", shortest);
  const int64_t batch = inverse.size(0);
  Tensor offsets = torch::stable::new_empty(inverse, {batch + 1}, ScalarType::Long);
  std::vector<int32_t> segments;
  cpu::label_segments(static_cast<const int32_t*>(inverse.const_data_ptr()), batch,
                      inverse.size(1) * inverse.size(2), as_int32(shortest, "shortest"), segments,
                      static_cast<int64_t*>(offsets.mutable_data_ptr()));
  return {rows_of(segments, 2, inverse), offsets};
}

}  // namespace
}  // namespace ecgan

STABLE_TORCH_LIBRARY_FRAGMENT(ecgan, m) {
  // map: int32 [B, H, W]. Returns the distinct windows [U, kernel_size^2] and their places
  // [B, H, W], both int32.
  m.def("label_windows(Tensor map, int outside, int kernel_size) -> (Tensor, Tensor)");
  // inverse: int32 [B, H, W]. Returns the stretches int32 [S, 2] (first pixel of the image, length:
  // positive for one number, negative for a mixture) and each image's first one, int64 [B + 1].
  m.def("label_segments(Tensor inverse, int shortest) -> (Tensor, Tensor)");
}

STABLE_TORCH_LIBRARY_IMPL(ecgan, CPU, m) {
  m.impl("label_windows", TORCH_BOX(&ecgan::label_windows));
  m.impl("label_segments", TORCH_BOX(&ecgan::label_segments));
}
