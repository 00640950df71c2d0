// label_spade: schemas and CPU. The formulas stand in cpu/label_spade.h.
#include "label_spade.h"

#include <cstdlib>
#include <optional>

#include "../cpu/label_spade.h"
#include "fresh_data.h"
#include "parallel.h"

namespace ecgan {
namespace {

// The kernels look up what inverse and walk say without a further look.
void check_places(const int32_t* inverse, const int32_t* walk, const int64_t* bounds, int64_t batch,
                  int64_t pixels, int64_t patches, int64_t segments) {
  bool inside = true;
  for (int64_t i = 0; i < batch * pixels; ++i) inside &= inverse[i] >= 0 && inverse[i] < patches;
  STD_TORCH_CHECK(inside, "inverse: expected values in [0, U) for table [2 C, U]");
  bool whole = bounds[0] == 0 && bounds[batch] == segments;
  for (int64_t b = 0; b < batch && whole; ++b) {
    whole = bounds[b] <= bounds[b + 1] && bounds[b + 1] <= segments;
    const int32_t* places = inverse + b * pixels;
    int64_t at = 0;  // where the next segment has to begin
    for (int64_t s = bounds[b]; whole && s < bounds[b + 1]; ++s) {
      const int64_t length = walk[2 * s + 1], first = at;
      whole = walk[2 * s] == at;
      at += std::abs(length);
      whole = whole && at <= pixels;
      for (int64_t i = first + 1; whole && i < first + length; ++i) {
        whole = places[i] == places[first];
      }
    }
    whole = whole && at == pixels;
  }
  STD_TORCH_CHECK(
      whole,
      "walk: expected the segments of inverse, which cover every pixel of each image in turn");
}

cpu::LabelSpade kernel_of(const LabelSpadeCall& call, const Tensor& inverse, const Tensor& walk,
                          const Tensor& bounds, double eps, double slope) {
  STD_TORCH_CHECK(walk.scalar_type() == ScalarType::Int && walk.is_contiguous() &&
                      walk.dim() == 2 && walk.size(1) == 2 && walk.device() == inverse.device(),
                  "walk: expected contiguous int32 [S, 2] on the device of x");
  check_memory(walk, "walk");
  STD_TORCH_CHECK(bounds.scalar_type() == ScalarType::Long && bounds.is_contiguous() &&
                      bounds.dim() == 1 && bounds.size(0) == call.batch + 1 &&
                      bounds.device() == inverse.device(),
                  "bounds: expected contiguous int64 [B + 1] on the device of x");
  check_memory(bounds, "bounds");
  check_places(static_cast<const int32_t*>(inverse.const_data_ptr()),
               static_cast<const int32_t*>(walk.const_data_ptr()),
               static_cast<const int64_t*>(bounds.const_data_ptr()), call.batch, call.pixels,
               call.patches, walk.size(0));
  return {call.batch,
          call.channels,
          call.pixels,
          call.patches,
          static_cast<const int32_t*>(inverse.const_data_ptr()),
          static_cast<const int32_t*>(walk.const_data_ptr()),
          static_cast<const int64_t*>(bounds.const_data_ptr()),
          call.table.const_data_ptr(),
          call.dtype,
          call.norm,
          eps,
          slope};
}

double* doubles(const Tensor& tensor) {
  return static_cast<double*>(tensor.mutable_data_ptr());
}

std::tuple<Tensor, Tensor, Tensor> label_spade(const Tensor& x, const Tensor& table,
                                               const Tensor& inverse, const Tensor& walk,
                                               const Tensor& bounds, std::optional<Tensor> mean_,
                                               std::optional<Tensor> var_, const std::string& norm,
                                               double eps, double slope) {
  const LabelSpadeCall call(x, table, inverse, norm);
  const auto kernel = kernel_of(call, inverse, walk, bounds, eps, slope);
  const auto statistics = [&](const std::optional<Tensor>& given, const char* name) {
    Tensor out =
        torch::stable::new_empty(call.x, {call.groups(), call.channels}, ScalarType::Double);
    if (!call.computes_statistics()) {
      STD_TORCH_CHECK(given.has_value(), name, ": expected a tensor with norm='fixed'");
      torch::stable::copy_(out, call.statistics(*given, name));
    }
    return out;
  };
  Tensor mean = statistics(mean_, "mean"), var = statistics(var_, "var");
  Tensor y = torch::stable::new_empty(call.x, {x.size(0), x.size(1), x.size(2), x.size(3)});
  cpu::label_spade(kernel, call.x.const_data_ptr(), step(call.x, 0), step(call.x, 1), fresh_data(y),
                   doubles(mean), doubles(var), run_tasks);
  return {y, mean, var};
}

std::tuple<Tensor, Tensor> label_spade_statistics(const Tensor& x_) {
  STD_TORCH_CHECK(x_.dim() == 4, "x: expected shape [B, C, H, W]");
  check_memory(x_, "x");
  const Tensor x = LabelSpadeCall::with_planes(x_);
  cpu::LabelSpade kernel{};
  kernel.batch = x.size(0);
  kernel.channels = x.size(1);
  kernel.pixels = x.size(2) * x.size(3);
  kernel.dtype = dtype_of(x, "x");
  kernel.norm = SpadeNorm::batch;
  Tensor mean = torch::stable::new_empty(x, {1, x.size(1)}, ScalarType::Double);
  Tensor var = torch::stable::new_empty(x, {1, x.size(1)}, ScalarType::Double);
  cpu::label_spade_statistics(kernel, x.const_data_ptr(), step(x, 0), step(x, 1), doubles(mean),
                              doubles(var), run_tasks);
  return {mean, var};
}

std::tuple<Tensor, Tensor, Tensor> label_spade_backward(
    const Tensor& grad_, const Tensor& x, const Tensor& table, const Tensor& inverse,
    const Tensor& walk, const Tensor& bounds, const Tensor& mean_, const Tensor& var_,
    std::optional<Tensor> shared_, const std::string& norm, double eps, double slope, bool need_x,
    bool need_table) {
  const LabelSpadeCall call(x, table, inverse, norm);
  const auto kernel = kernel_of(call, inverse, walk, bounds, eps, slope);
  const Tensor grad = call.grad_like_x(grad_);
  const Tensor mean = call.statistics(mean_, "mean"), var = call.statistics(var_, "var");
  const bool is_shared = call.norm == SpadeNorm::shared;
  Tensor shared =
      torch::stable::new_empty(call.x, {is_shared ? call.channels : 0, 2}, ScalarType::Double);
  if (is_shared && need_x) torch::stable::copy_(shared, call.means(shared_));
  Tensor grad_x =
      need_x ? torch::stable::new_empty(call.x, {x.size(0), x.size(1), x.size(2), x.size(3)})
             : torch::stable::new_empty(call.x, {0});
  Tensor grad_table = need_table ? torch::stable::empty_like(call.table)
                                 : torch::stable::new_empty(call.table, {0});
  cpu::label_spade_backward(
      kernel, grad.const_data_ptr(), step(grad, 0), step(grad, 1), call.x.const_data_ptr(),
      step(call.x, 0), step(call.x, 1), static_cast<const double*>(mean.const_data_ptr()),
      static_cast<const double*>(var.const_data_ptr()), need_x ? fresh_data(grad_x) : nullptr,
      need_table ? grad_table.mutable_data_ptr() : nullptr, doubles(shared), run_tasks);
  return {grad_x, grad_table, shared};
}

}  // namespace
}  // namespace ecgan

STABLE_TORCH_LIBRARY_FRAGMENT(ecgan, m) {
  // table: [2 C, U], gamma's rows before beta's. walk, bounds: label_segments of inverse on the
  // CPU, its sorted pixels and their bounds on CUDA. norm: "instance" and "batch" compute mean and
  // var (biased, float64 [B or 1, C]), "fixed" and "shared" are given them. slope 1: no LeakyReLU.
  // Returns y and the statistics used.
  m.def(
      "label_spade(Tensor x, Tensor table, Tensor inverse, Tensor walk, Tensor bounds, "
      "Tensor? mean, Tensor? var, str norm, float eps, float slope) -> (Tensor, Tensor, Tensor)");
  m.def("label_spade_statistics(Tensor x) -> (Tensor, Tensor)");
  // A gradient that is not needed comes back with size 0. norm="shared" wants two calls: one
  // without need_x, which returns the sums [C, 2] of this process, one with their means.
  m.def(
      "label_spade_backward(Tensor grad, Tensor x, Tensor table, Tensor inverse, Tensor walk, "
      "Tensor bounds, Tensor mean, Tensor var, Tensor? shared, str norm, float eps, float slope, "
      "bool need_x, bool need_table) -> (Tensor, Tensor, Tensor)");
}

STABLE_TORCH_LIBRARY_IMPL(ecgan, CPU, m) {
  m.impl("label_spade", TORCH_BOX(&ecgan::label_spade));
  m.impl("label_spade_statistics", TORCH_BOX(&ecgan::label_spade_statistics));
  m.impl("label_spade_backward", TORCH_BOX(&ecgan::label_spade_backward));
}
