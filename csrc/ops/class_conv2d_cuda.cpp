// class_conv2d on CUDA. The schemas stand in class_conv2d.cpp.
#include <torch/csrc/stable/accelerator.h>

#include "../cuda/class_conv2d.h"
#include "class_conv2d.h"
#include "cuda_stream.h"

namespace ecgan {
namespace {

cuda::ConvImages images(const Tensor& x) {
  return {x.const_data_ptr(), {x.stride(0), x.stride(1), x.stride(2), x.stride(3)}};
}

cuda::ClassConv2d cuda_call(const ClassConv2dCall& call, double negative_slope) {
  STD_TORCH_CHECK(call.dtype != DType::f64, "x: float64 has no CUDA kernel");
  return {call.batch, call.channels, call.outputs,      call.height,
          call.width, call.dtype,    call.label_data(), static_cast<float>(negative_slope)};
}

Tensor bytes_like(const Tensor& like, int64_t bytes) {
  return torch::stable::new_empty(like, {bytes}, ScalarType::Byte);
}

const float* floats(const Tensor& tensor) {
  return static_cast<const float*>(tensor.const_data_ptr());
}

Tensor class_conv2d(const Tensor& x, const Tensor& labels, const Tensor& weight,
                    std::optional<Tensor> bias, double negative_slope) {
  const int32_t device = x.get_device_index();
  const torch::stable::accelerator::DeviceGuard guard(device);
  const ClassConv2dCall call(x, labels, weight);
  bias = call.checked_bias(bias);
  const cuda::ClassConv2d kernel = cuda_call(call, negative_slope);
  const Tensor y = torch::stable::new_empty(x, {call.batch, call.outputs, call.height, call.width});
  const Tensor workspace = bytes_like(x, cuda::class_conv2d_workspace(kernel));
  cuda::class_conv2d(kernel, images(x), floats(call.weight), bias ? floats(*bias) : nullptr,
                     y.mutable_data_ptr(), workspace.mutable_data_ptr(),
                     current_cuda_stream(device));
  return y;
}

std::tuple<Tensor, Tensor, Tensor> class_conv2d_backward(const Tensor& grad, const Tensor& x,
                                                         const Tensor& labels, const Tensor& weight,
                                                         double negative_slope, bool need_x,
                                                         bool need_weight, bool need_bias) {
  const int32_t device = x.get_device_index();
  const torch::stable::accelerator::DeviceGuard guard(device);
  const ClassConv2dCall call(x, labels, weight);
  call.check_grad(grad, x);
  const cuda::ClassConv2d kernel = cuda_call(call, negative_slope);
  void* const stream = current_cuda_stream(device);
  Tensor grad_x = torch::stable::new_empty(x, {0});
  if (need_x) {
    grad_x = torch::stable::new_empty(x, {call.batch, call.channels, call.height, call.width});
    const Tensor workspace = bytes_like(x, cuda::class_conv2d_workspace(kernel));
    cuda::class_conv2d_backward_x(kernel, images(grad), images(x), floats(call.weight),
                                  grad_x.mutable_data_ptr(), workspace.mutable_data_ptr(), stream);
  }
  Tensor grad_weight = torch::stable::new_empty(weight, {0});
  Tensor grad_bias = torch::stable::new_empty(weight, {0});
  if (need_weight || need_bias) {  // one pass gives both
    const Tensor workspace = bytes_like(x, cuda::class_conv2d_weight_workspace(kernel));
    const Tensor weights =
        torch::stable::new_empty(weight, {call.outputs, call.channels, 3, 3}, ScalarType::Float);
    const Tensor biases = torch::stable::new_empty(weight, {call.outputs}, ScalarType::Float);
    cuda::class_conv2d_backward_weight(
        kernel, images(grad), images(x), static_cast<float*>(weights.mutable_data_ptr()),
        static_cast<float*>(biases.mutable_data_ptr()), workspace.mutable_data_ptr(), stream);
    if (need_weight) grad_weight = torch::stable::to(weights, weight.scalar_type());
    if (need_bias) grad_bias = torch::stable::to(biases, weight.scalar_type());
  }
  return {grad_x, grad_weight, grad_bias};
}

}  // namespace
}  // namespace ecgan

STABLE_TORCH_LIBRARY_IMPL(ecgan, CUDA, m) {
  m.impl("class_conv2d", TORCH_BOX(&ecgan::class_conv2d));
  m.impl("class_conv2d_backward", TORCH_BOX(&ecgan::class_conv2d_backward));
}
