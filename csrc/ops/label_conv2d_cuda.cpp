// label_conv2d on CUDA. The schemas stand in label_conv2d.cpp.
#include <torch/csrc/stable/accelerator.h>

#include "../cuda/label_conv2d.h"
#include "cuda_stream.h"
#include "label_conv2d.h"

namespace ecgan {
namespace {

cuda::LabelConv2d kernel_call(const LabelConv2dCall& call, const Tensor& weight,
                              int64_t stride_height, int64_t stride_width, int64_t padding_height,
                              int64_t padding_width, int64_t ignore_index) {
  STD_TORCH_CHECK(call.dtype != DType::f64, "weight: float64 has no CUDA kernel");
  const Tensor& labels = call.labels;
  return {labels.size(0), labels.size(1), labels.size(2),   weight.size(0),
          weight.size(1), weight.size(2), weight.size(3),   stride_height,
          stride_width,   padding_height, padding_width,    call.out_height,
          call.out_width, ignore_index,   call.label_bytes, call.dtype};
}

// A label out of range contributes nothing: to look at the values would synchronise.
Tensor label_conv2d(const Tensor& labels, const Tensor& weight, const std::optional<Tensor>& bias,
                    const std::optional<Tensor>& edges, const std::optional<Tensor>& scale,
                    int64_t stride_height, int64_t stride_width, int64_t padding_height,
                    int64_t padding_width, int64_t ignore_index, bool) {
  const int32_t device = weight.get_device_index();
  const torch::stable::accelerator::DeviceGuard guard(device);
  const LabelConv2dCall call(labels, weight, edges, scale, stride_height, stride_width,
                             padding_height, padding_width);
  check_bias(bias, weight);
  const cuda::LabelConv2d kernel = kernel_call(call, weight, stride_height, stride_width,
                                               padding_height, padding_width, ignore_index);
  Tensor out = torch::stable::new_empty(
      weight, {labels.size(0), weight.size(0), call.out_height, call.out_width});
  if (out.numel() == 0) return out;
  std::optional<Tensor> dense_bias;
  if (bias) dense_bias = torch::stable::contiguous(*bias);
  Tensor workspace = torch::stable::new_empty(
      weight, {cuda::label_conv2d_workspace(kernel, edges.has_value(), false)}, ScalarType::Byte);
  cuda::label_conv2d(kernel, call.labels.const_data_ptr(), call.edge_data(),
                     static_cast<const float*>(call.scale_data()), weight.const_data_ptr(),
                     {weight.stride(0), weight.stride(1), weight.stride(2), weight.stride(3)},
                     dense_bias ? dense_bias->const_data_ptr() : nullptr, out.mutable_data_ptr(),
                     workspace.mutable_data_ptr(), current_cuda_stream(device));
  return out;
}

std::tuple<Tensor, Tensor> label_conv2d_backward(
    const Tensor& grad, const Tensor& labels, const Tensor& weight,
    const std::optional<Tensor>& edges, const std::optional<Tensor>& scale, int64_t stride_height,
    int64_t stride_width, int64_t padding_height, int64_t padding_width, int64_t ignore_index,
    bool need_weight, bool need_bias) {
  const int32_t device = weight.get_device_index();
  const torch::stable::accelerator::DeviceGuard guard(device);
  const LabelConv2dCall call(labels, weight, edges, scale, stride_height, stride_width,
                             padding_height, padding_width);
  call.check_grad(grad, weight);
  const cuda::LabelConv2d kernel = kernel_call(call, weight, stride_height, stride_width,
                                               padding_height, padding_width, ignore_index);
  const int64_t none = 0;
  Tensor grad_weight = torch::stable::new_empty(
      weight,
      {need_weight ? weight.size(0) : none, weight.size(1), weight.size(2), weight.size(3)});
  Tensor grad_bias = torch::stable::new_empty(weight, {need_bias ? weight.size(0) : none});
  const FlatGrad flat(grad);
  Tensor workspace = torch::stable::new_empty(
      weight, {cuda::label_conv2d_workspace(kernel, edges.has_value(), true)}, ScalarType::Byte);
  cuda::label_conv2d_backward(kernel, flat.tensor.const_data_ptr(), flat.strides,
                              call.labels.const_data_ptr(), call.edge_data(),
                              static_cast<const float*>(call.scale_data()),
                              need_weight ? grad_weight.mutable_data_ptr() : nullptr,
                              need_bias ? grad_bias.mutable_data_ptr() : nullptr,
                              workspace.mutable_data_ptr(), current_cuda_stream(device));
  return {grad_weight, grad_bias};
}

}  // namespace
}  // namespace ecgan

STABLE_TORCH_LIBRARY_IMPL(ecgan, CUDA, m) {
  m.impl("label_conv2d", TORCH_BOX(&ecgan::label_conv2d));
  m.impl("label_conv2d_backward", TORCH_BOX(&ecgan::label_conv2d_backward));
}
