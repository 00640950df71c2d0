// label_conv2d: schemas and CPU. The formulas stand in cpu/label_conv2d.h.
#include "label_conv2d.h"

#include "../cpu/label_conv2d.h"
#include "fresh_data.h"
#include "parallel.h"

namespace ecgan {
namespace {

cpu::LabelConv2dShape shape_of(const Tensor& labels, const Tensor& weight, bool edges,
                               int64_t stride_height, int64_t stride_width, int64_t padding_height,
                               int64_t padding_width) {
  return {labels.size(0), labels.size(1), labels.size(2), weight.size(0),
          weight.size(1), weight.size(2), weight.size(3), stride_height,
          stride_width,   padding_height, padding_width,  edges};
}

const void* data_or_null(const std::optional<Tensor>& tensor) {
  return tensor ? tensor->const_data_ptr() : nullptr;
}

Tensor label_conv2d(const Tensor& labels, const Tensor& weight, const std::optional<Tensor>& bias,
                    const std::optional<Tensor>& edges, const std::optional<Tensor>& scale,
                    int64_t stride_height, int64_t stride_width, int64_t padding_height,
                    int64_t padding_width, int64_t ignore_index, bool check_range) {
  const LabelConv2dCall call(labels, weight, edges, scale, stride_height, stride_width,
                             padding_height, padding_width);
  check_bias(bias, weight);
  const cpu::Parallel parallel = run_tasks;
  cpu::LabelConv2d kernel(shape_of(labels, weight, edges.has_value(), stride_height, stride_width,
                                   padding_height, padding_width),
                          call.dtype, scale.has_value(), parallel);
  Tensor out = torch::stable::new_empty(
      weight, {labels.size(0), weight.size(0), call.out_height, call.out_width});
  Tensor workspace =
      torch::stable::new_empty(weight, {kernel.workspace_bytes(false)}, ScalarType::Byte);
  const bool in_range =
      kernel.prepare(workspace.mutable_data_ptr(), call.labels.const_data_ptr(), call.label_bytes,
                     ignore_index, call.edge_data(), call.scale_data());
  STD_TORCH_CHECK(in_range || !check_range, "labels: expected labels in range or ignore_index");
  if (out.numel() == 0) return out;
  const Tensor wide = torch::stable::to(weight, call.compute);
  std::optional<Tensor> wide_bias;
  if (bias) wide_bias = torch::stable::contiguous(torch::stable::to(*bias, call.compute));
  kernel.forward(wide.const_data_ptr(),
                 {step(wide, 0), step(wide, 1), step(wide, 2), step(wide, 3)},
                 data_or_null(wide_bias), fresh_data(out));
  return out;
}

std::tuple<Tensor, Tensor> label_conv2d_backward(
    const Tensor& grad, const Tensor& labels, const Tensor& weight,
    const std::optional<Tensor>& edges, const std::optional<Tensor>& scale, int64_t stride_height,
    int64_t stride_width, int64_t padding_height, int64_t padding_width, int64_t ignore_index,
    bool need_weight, bool need_bias) {
  const LabelConv2dCall call(labels, weight, edges, scale, stride_height, stride_width,
                             padding_height, padding_width);
  call.check_grad(grad, weight);
  const int64_t none = 0;
  Tensor grad_weight = torch::stable::new_empty(
      weight, {need_weight ? weight.size(0) : none, weight.size(1), weight.size(2), weight.size(3)},
      call.compute);
  Tensor grad_bias =
      torch::stable::new_empty(weight, {need_bias ? weight.size(0) : none}, call.compute);
  if (weight.size(0) > 0) {
    const cpu::Parallel parallel = run_tasks;
    cpu::LabelConv2d kernel(shape_of(labels, weight, edges.has_value(), stride_height, stride_width,
                                     padding_height, padding_width),
                            call.dtype, scale.has_value(), parallel);
    Tensor workspace =
        torch::stable::new_empty(weight, {kernel.workspace_bytes(true)}, ScalarType::Byte);
    kernel.prepare(workspace.mutable_data_ptr(), call.labels.const_data_ptr(), call.label_bytes,
                   ignore_index, call.edge_data(), call.scale_data());
    const FlatGrad flat(grad);
    kernel.backward(flat.tensor.const_data_ptr(), flat.strides,
                    need_weight ? grad_weight.mutable_data_ptr() : nullptr,
                    need_bias ? grad_bias.mutable_data_ptr() : nullptr);
  }
  const ScalarType dtype = weight.scalar_type();
  return {torch::stable::to(grad_weight, dtype), torch::stable::to(grad_bias, dtype)};
}

}  // namespace
}  // namespace ecgan

STABLE_TORCH_LIBRARY_FRAGMENT(ecgan, m) {
  // edges is bool [B, 1, H, W], scale floating [B, H, W]. check_range: whether a label out of range
  // is an error, where that costs no synchronisation.
  m.def(
      "label_conv2d(Tensor labels, Tensor weight, Tensor? bias, Tensor? edges, Tensor? scale, "
      "int stride_height, int stride_width, int padding_height, int padding_width, "
      "int ignore_index, bool check_range) -> Tensor");
  // A gradient that is not needed comes back with size 0 in its first dimension.
  m.def(
      "label_conv2d_backward(Tensor grad, Tensor labels, Tensor weight, Tensor? edges, "
      "Tensor? scale, int stride_height, int stride_width, int padding_height, "
      "int padding_width, int ignore_index, bool need_weight, bool need_bias) "
      "-> (Tensor, Tensor)");
}

STABLE_TORCH_LIBRARY_IMPL(ecgan, CPU, m) {
  m.impl("label_conv2d", TORCH_BOX(&ecgan::label_conv2d));
  m.impl("label_conv2d_backward", TORCH_BOX(&ecgan::label_conv2d_backward));
}
