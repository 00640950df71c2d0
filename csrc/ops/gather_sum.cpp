// gather_sum: schemas and CPU. The formulas stand in cpu/gather_sum.h.
#include "../cpu/gather_sum.h"

#include <array>

#include "fresh_data.h"
#include "parallel.h"
#include "tensors.h"

namespace ecgan {
namespace {

cpu::GatherSum kernel_of(int64_t table_rows, int64_t width, const Tensor& rows, int64_t row_step,
                         int64_t tap_step) {
  constexpr int64_t kMost = int64_t{1} << 31;  // with int32 rows, no address exceeds 2^63
  STD_TORCH_CHECK(0 <= row_step && row_step < kMost && 0 <= tap_step && tap_step < kMost,
                  "row_step, tap_step: expected at least 0 and less than 2^31");
  const auto* data = static_cast<const int32_t*>(rows.const_data_ptr());
  const int64_t count = rows.size(0), taps = rows.size(1);
  bool inside = true;
  for (int64_t v = 0; v < count; ++v) {
    for (int64_t t = 0; t < taps; ++t) {
      const int64_t row = data[v * taps + t];
      inside &= row < 0 || row * row_step + t * tap_step < table_rows;
    }
  }
  STD_TORCH_CHECK(inside, "rows: expected rows of a table of ", table_rows, ", or negative ones");
  return {count, taps, width, table_rows, data, row_step, tap_step};
}

Tensor checked_rows(const Tensor& rows, const Tensor& like, const char* name) {
  STD_TORCH_CHECK(rows.scalar_type() == ScalarType::Int && rows.dim() == 2,
                  "rows: expected int32 [V, taps]");
  STD_TORCH_CHECK(rows.device() == like.device(), "rows: expected the device of ", name);
  check_memory(rows, "rows", int64_t{1} << 31);
  return torch::stable::contiguous(rows);
}

template <class F>
void with_element(const Tensor& tensor, const char* name, F f) {
  if (tensor.scalar_type() == ScalarType::Double) return f(double{});
  STD_TORCH_CHECK(tensor.scalar_type() == ScalarType::Float, name, ": expected float32 or float64");
  f(float{});
}

Tensor fresh(const Tensor& like, int64_t rows, int64_t width) {
  Tensor out = torch::stable::new_empty(like, {rows, width});
  fresh_data(out);
  return out;
}

Tensor gather_sum(const Tensor& values_, const Tensor& rows_, int64_t row_step, int64_t tap_step) {
  STD_TORCH_CHECK(values_.dim() == 2, "values: expected shape [R, C]");
  check_memory(values_, "values");
  const Tensor values = torch::stable::contiguous(values_);
  const Tensor rows = checked_rows(rows_, values_, "values");
  const auto kernel = kernel_of(values.size(0), values.size(1), rows, row_step, tap_step);
  check_extent(std::array{kernel.count, kernel.width}, "values");
  Tensor out = fresh(values, kernel.count, kernel.width);
  with_element(values, "values", [&](auto zero) {
    using T = decltype(zero);
    cpu::gather_sum(kernel, static_cast<const T*>(values.const_data_ptr()),
                    static_cast<T*>(out.mutable_data_ptr()), run_tasks);
  });
  return out;
}

Tensor gather_sum_backward(const Tensor& grad_, const Tensor& rows_, const Tensor& size,
                           int64_t row_step, int64_t tap_step) {
  const Tensor rows = checked_rows(rows_, grad_, "grad");
  STD_TORCH_CHECK(size.dim() == 2 && size.size(1) == 0, "size: expected shape [R, 0]");
  const int64_t table_rows = size.size(0);
  STD_TORCH_CHECK(grad_.dim() == 2 && grad_.size(0) == rows.size(0), "grad: expected shape [V, C]");
  check_memory(grad_, "grad");
  check_extent(std::array{table_rows, grad_.size(1)}, "size");
  const Tensor grad = torch::stable::contiguous(grad_);
  const auto kernel = kernel_of(table_rows, grad.size(1), rows, row_step, tap_step);
  Tensor out = fresh(grad, table_rows, kernel.width);
  with_element(grad, "grad", [&](auto zero) {
    using T = decltype(zero);
    cpu::gather_sum_backward(kernel, static_cast<const T*>(grad.const_data_ptr()),
                             static_cast<T*>(out.mutable_data_ptr()), run_tasks);
  });
  return out;
}

}  // namespace
}  // namespace ecgan

STABLE_TORCH_LIBRARY_FRAGMENT(ecgan, m) {
  // values: [R, C]; rows: int32 [V, taps]. Returns [V, C].
  m.def("gather_sum(Tensor values, Tensor rows, int row_step, int tap_step) -> Tensor");
  // size: [R, 0]. As an int, R would be a constant in a compiled graph.
  m.def(
      "gather_sum_backward(Tensor grad, Tensor rows, Tensor size, int row_step, int tap_step) -> "
      "Tensor");
}

STABLE_TORCH_LIBRARY_IMPL(ecgan, CPU, m) {
  m.impl("gather_sum", TORCH_BOX(&ecgan::gather_sum));
  m.impl("gather_sum_backward", TORCH_BOX(&ecgan::gather_sum_backward));
}
