// label_spade on CUDA. The schemas stand in label_spade.cpp.
#include <torch/csrc/stable/accelerator.h>

#include <optional>

#include "../cuda/label_spade.h"
#include "cuda_stream.h"
#include "label_spade.h"

namespace ecgan {
namespace {

cuda::LabelSpade kernel_of(const LabelSpadeCall& call, const Tensor& inverse, const Tensor& walk,
                           const Tensor& bounds, double eps, double slope) {
  STD_TORCH_CHECK(call.dtype != DType::f64, "x: float64 has no CUDA kernel");
  STD_TORCH_CHECK(walk.scalar_type() == ScalarType::Int && walk.is_contiguous() &&
                      walk.dim() == 1 && walk.size(0) == inverse.numel() &&
                      walk.device() == inverse.device(),
                  "walk: expected contiguous int32 [B * H * W] on the device of x");
  STD_TORCH_CHECK(bounds.scalar_type() == ScalarType::Int && bounds.is_contiguous() &&
                      bounds.dim() == 1 && bounds.size(0) == call.patches + 1 &&
                      bounds.device() == inverse.device(),
                  "bounds: expected contiguous int32 [patches + 1] on the device of x");
  return {call.batch,
          call.channels,
          call.pixels,
          call.patches,
          static_cast<const int32_t*>(inverse.const_data_ptr()),
          static_cast<const int32_t*>(walk.const_data_ptr()),
          static_cast<const int32_t*>(bounds.const_data_ptr()),
          static_cast<const float*>(call.table.const_data_ptr()),
          call.dtype,
          call.norm,
          eps,
          static_cast<float>(slope)};
}

Tensor workspace_of(const cuda::LabelSpade& kernel, const Tensor& like) {
  return torch::stable::new_empty(like, {cuda::label_spade_workspace(kernel)}, ScalarType::Byte);
}

double* doubles(const Tensor& tensor) {
  return static_cast<double*>(tensor.mutable_data_ptr());
}

std::tuple<Tensor, Tensor, Tensor> label_spade(const Tensor& x, const Tensor& table,
                                               const Tensor& inverse, const Tensor& walk,
                                               const Tensor& bounds, std::optional<Tensor> mean_,
                                               std::optional<Tensor> var_, const std::string& norm,
                                               double eps, double slope) {
  const int32_t device = x.get_device_index();
  const torch::stable::accelerator::DeviceGuard guard(device);
  const LabelSpadeCall call(x, table, inverse, norm);
  const auto kernel = kernel_of(call, inverse, walk, bounds, eps, slope);
  void* const stream = current_cuda_stream(device);
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
  const void* data = call.x.const_data_ptr();
  const int64_t batch_stride = call.x.stride(0), channel_stride = call.x.stride(1);
  if (call.computes_statistics()) {
    const Tensor workspace = workspace_of(kernel, call.x);
    cuda::label_spade_statistics(kernel, data, batch_stride, channel_stride, doubles(mean),
                                 doubles(var), workspace.mutable_data_ptr(), stream);
  }
  Tensor y = torch::stable::new_empty(call.x, {x.size(0), x.size(1), x.size(2), x.size(3)});
  cuda::label_spade(kernel, data, batch_stride, channel_stride, y.mutable_data_ptr(), doubles(mean),
                    doubles(var), stream);
  return {y, mean, var};
}

std::tuple<Tensor, Tensor> label_spade_statistics(const Tensor& x_) {
  STD_TORCH_CHECK(x_.dim() == 4, "x: expected shape [B, C, H, W]");
  const int32_t device = x_.get_device_index();
  const torch::stable::accelerator::DeviceGuard guard(device);
  check_memory(x_, "x");
  const Tensor x = LabelSpadeCall::with_planes(x_);
  cuda::LabelSpade kernel{};
  kernel.batch = x.size(0);
  kernel.channels = x.size(1);
  kernel.pixels = x.size(2) * x.size(3);
  kernel.dtype = dtype_of(x, "x");
  kernel.norm = SpadeNorm::batch;
  STD_TORCH_CHECK(kernel.dtype != DType::f64, "x: float64 has no CUDA kernel");
  Tensor mean = torch::stable::new_empty(x, {1, x.size(1)}, ScalarType::Double);
  Tensor var = torch::stable::new_empty(x, {1, x.size(1)}, ScalarType::Double);
  const Tensor workspace = workspace_of(kernel, x);
  cuda::label_spade_statistics(kernel, x.const_data_ptr(), x.stride(0), x.stride(1), doubles(mean),
                               doubles(var), workspace.mutable_data_ptr(),
                               current_cuda_stream(device));
  return {mean, var};
}

std::tuple<Tensor, Tensor, Tensor> label_spade_backward(
    const Tensor& grad_, const Tensor& x, const Tensor& table, const Tensor& inverse,
    const Tensor& walk, const Tensor& bounds, const Tensor& mean_, const Tensor& var_,
    std::optional<Tensor> shared_, const std::string& norm, double eps, double slope, bool need_x,
    bool need_table) {
  const int32_t device = x.get_device_index();
  const torch::stable::accelerator::DeviceGuard guard(device);
  const LabelSpadeCall call(x, table, inverse, norm);
  const auto kernel = kernel_of(call, inverse, walk, bounds, eps, slope);
  const Tensor grad = call.grad_like_x(grad_);
  const Tensor mean = call.statistics(mean_, "mean"), var = call.statistics(var_, "var");
  const bool is_shared = call.norm == SpadeNorm::shared;
  void* const stream = current_cuda_stream(device);
  const Tensor workspace = workspace_of(kernel, call.x);
  const void* dy = grad.const_data_ptr();
  const void* data = call.x.const_data_ptr();
  const int64_t strides[] = {grad.stride(0), grad.stride(1), call.x.stride(0), call.x.stride(1)};

  Tensor sums =
      torch::stable::new_empty(call.x, {call.groups() * call.channels, 2}, ScalarType::Double);
  const bool reduces = need_x ? call.computes_statistics() : is_shared;
  if (is_shared && need_x) torch::stable::copy_(sums, call.means(shared_));
  if (reduces) {
    cuda::label_spade_sums(kernel, dy, strides[0], strides[1], data, strides[2], strides[3],
                           doubles(mean), doubles(var), doubles(sums), workspace.mutable_data_ptr(),
                           stream);
  }
  Tensor grad_x = torch::stable::new_empty(call.x, {0});
  if (need_x) {
    grad_x = torch::stable::new_empty(call.x, {x.size(0), x.size(1), x.size(2), x.size(3)});
    cuda::label_spade_input(kernel, dy, strides[0], strides[1], data, strides[2], strides[3],
                            doubles(mean), doubles(var),
                            reduces || is_shared ? doubles(sums) : nullptr,
                            grad_x.mutable_data_ptr(), stream);
  }
  Tensor grad_table = torch::stable::new_empty(call.table, {0});
  if (need_table) {
    grad_table = torch::stable::empty_like(call.table);
    cuda::label_spade_table(kernel, dy, strides[0], strides[1], data, strides[2], strides[3],
                            doubles(mean), doubles(var),
                            static_cast<float*>(grad_table.mutable_data_ptr()),
                            workspace.mutable_data_ptr(), stream);
  }
  if (!is_shared) sums = torch::stable::new_empty(call.x, {0, 2}, ScalarType::Double);
  return {grad_x, grad_table, sums};
}

}  // namespace
}  // namespace ecgan

STABLE_TORCH_LIBRARY_IMPL(ecgan, CUDA, m) {
  m.impl("label_spade", TORCH_BOX(&ecgan::label_spade));
  m.impl("label_spade_statistics", TORCH_BOX(&ecgan::label_spade_statistics));
  m.impl("label_spade_backward", TORCH_BOX(&ecgan::label_spade_backward));
}
