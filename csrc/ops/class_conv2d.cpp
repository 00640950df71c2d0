// class_conv2d: schemas and CPU. The formulas stand in cpu/class_conv2d.h.
#include "class_conv2d.h"

#include "../cpu/class_conv2d.h"
#include "fresh_data.h"
#include "parallel.h"

namespace ecgan {
namespace {

cpu::ConvImages images(const Tensor& x) {
  return {x.const_data_ptr(),
          {step(x, 0), step(x, 1), step(x, 2), x.size(3) > 1 ? x.stride(3) : 1}};
}

cpu::ClassConv2d cpu_call(const ClassConv2dCall& call, double negative_slope) {
  return {call.batch, call.channels, call.outputs,      call.height,
          call.width, call.dtype,    call.label_data(), negative_slope};
}

Tensor class_conv2d(const Tensor& x, const Tensor& labels, const Tensor& weight,
                    std::optional<Tensor> bias, double negative_slope) {
  const ClassConv2dCall call(x, labels, weight);
  bias = call.checked_bias(bias);
  const Tensor y = torch::stable::new_empty(x, {call.batch, call.outputs, call.height, call.width});
  const cpu::Parallel parallel = run_tasks;
  cpu::class_conv2d(cpu_call(call, negative_slope), images(x), call.weight.const_data_ptr(),
                    bias ? bias->const_data_ptr() : nullptr, fresh_data(y), parallel);
  return y;
}

std::tuple<Tensor, Tensor, Tensor> class_conv2d_backward(const Tensor& grad, const Tensor& x,
                                                         const Tensor& labels, const Tensor& weight,
                                                         double negative_slope, bool need_x,
                                                         bool need_weight, bool need_bias) {
  const ClassConv2dCall call(x, labels, weight);
  call.check_grad(grad, x);
  const cpu::ClassConv2d kernel = cpu_call(call, negative_slope);
  const cpu::Parallel parallel = run_tasks;
  Tensor grad_x = torch::stable::new_empty(x, {0});
  if (need_x) {
    grad_x = torch::stable::new_empty(x, {call.batch, call.channels, call.height, call.width});
    cpu::class_conv2d_backward_x(kernel, images(grad), images(x), call.weight.const_data_ptr(),
                                 fresh_data(grad_x), parallel);
  }
  Tensor grad_weight = torch::stable::new_empty(weight, {0});
  Tensor grad_bias = torch::stable::new_empty(weight, {0});
  if (need_weight || need_bias) {
    const Tensor partials =
        torch::stable::new_empty(x, {cpu::class_conv2d_partials_bytes(kernel)}, ScalarType::Byte);
    if (need_weight) {
      grad_weight =
          torch::stable::new_empty(weight, {call.outputs, call.channels, 3, 3}, call.compute);
    }
    if (need_bias) grad_bias = torch::stable::new_empty(weight, {call.outputs}, call.compute);
    cpu::class_conv2d_backward_weight(kernel, images(grad), images(x), partials.mutable_data_ptr(),
                                      need_weight ? grad_weight.mutable_data_ptr() : nullptr,
                                      need_bias ? grad_bias.mutable_data_ptr() : nullptr, parallel);
    grad_weight = torch::stable::to(grad_weight, weight.scalar_type());
    grad_bias = torch::stable::to(grad_bias, weight.scalar_type());
  }
  return {grad_x, grad_weight, grad_bias};
}

}  // namespace
}  // namespace ecgan

STABLE_TORCH_LIBRARY_FRAGMENT(ecgan, m) {
  // LeakyReLU of this slope is applied to x first; 1: none. Weight and bias may be of another
  // floating dtype than x. Returns [B, O, H, W] in the dtype of x, contiguous.
  m.def(
      "class_conv2d(Tensor x, Tensor labels, Tensor weight, Tensor? bias, float negative_slope) "
      "-> Tensor");
  // A gradient that is not needed comes back with size 0; those of weight and bias are in the dtype
  // of weight.
  m.def(
      "class_conv2d_backward(Tensor grad, Tensor x, Tensor labels, Tensor weight, "
      "float negative_slope, bool need_x, bool need_weight, bool need_bias) "
      "-> (Tensor, Tensor, Tensor)");
}

STABLE_TORCH_LIBRARY_IMPL(ecgan, CPU, m) {
  m.impl("class_conv2d", TORCH_BOX(&ecgan::class_conv2d));
  m.impl("class_conv2d_backward", TORCH_BOX(&ecgan::class_conv2d_backward));
}
