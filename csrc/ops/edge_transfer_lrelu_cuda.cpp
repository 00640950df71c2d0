// edge_transfer_lrelu on CUDA. The schemas stand in edge_transfer_lrelu.cpp.
#include <torch/csrc/stable/accelerator.h>

#include "../cuda/edge_transfer_lrelu.h"
#include "cuda_stream.h"
#include "edge_transfer_lrelu.h"

namespace ecgan {
namespace {

std::tuple<Tensor, Tensor> edge_transfer_lrelu(const Tensor& image, const Tensor& edge,
                                               double negative_slope) {
  const int32_t device = image.get_device_index();
  const torch::stable::accelerator::DeviceGuard guard(device);
  EdgeTransferLreluCall call(image, edge, negative_slope);
  STD_TORCH_CHECK(call.dtype != DType::f64, "image: float64 has no CUDA kernel");
  if (call.layout.numel > 0) {
    cuda::edge_transfer_lrelu(image.const_data_ptr(), edge.const_data_ptr(),
                              call.image_out.mutable_data_ptr(), call.edge_out.mutable_data_ptr(),
                              call.layout, call.dtype, negative_slope, current_cuda_stream(device));
  }
  return {call.image_out, call.edge_out};
}

std::tuple<Tensor, Tensor> edge_transfer_lrelu_backward(std::optional<Tensor> grad_image_out,
                                                        std::optional<Tensor> grad_edge_out,
                                                        const Tensor& image_out,
                                                        const Tensor& edge_out,
                                                        double negative_slope, bool need_image,
                                                        bool need_edge) {
  const int32_t device = image_out.get_device_index();
  const torch::stable::accelerator::DeviceGuard guard(device);
  EdgeTransferLreluBackwardCall call(grad_image_out, grad_edge_out, image_out, edge_out,
                                     negative_slope, need_image, need_edge);
  STD_TORCH_CHECK(call.dtype != DType::f64, "image_out: float64 has no CUDA kernel");
  if (call.layout.numel > 0) {
    cuda::edge_transfer_lrelu_backward(
        data_or_null(grad_image_out), data_or_null(grad_edge_out), image_out.const_data_ptr(),
        edge_out.const_data_ptr(), need_image ? call.grad_image.mutable_data_ptr() : nullptr,
        need_edge ? call.grad_edge.mutable_data_ptr() : nullptr, call.layout, call.dtype,
        negative_slope, current_cuda_stream(device));
  }
  return {call.grad_image, call.grad_edge};
}

}  // namespace
}  // namespace ecgan

STABLE_TORCH_LIBRARY_IMPL(ecgan, CUDA, m) {
  m.impl("edge_transfer_lrelu", TORCH_BOX(&ecgan::edge_transfer_lrelu));
  m.impl("edge_transfer_lrelu_backward", TORCH_BOX(&ecgan::edge_transfer_lrelu_backward));
}
