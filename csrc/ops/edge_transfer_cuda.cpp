// edge_transfer on CUDA. The schemas stand in edge_transfer.cpp.
#include <torch/csrc/stable/accelerator.h>

#include "../cuda/edge_transfer.h"
#include "cuda_stream.h"
#include "edge_transfer.h"

namespace ecgan {
namespace {

Tensor edge_transfer(const Tensor& image, const Tensor& edge, const std::string& activation) {
  const int32_t device = image.get_device_index();
  const torch::stable::accelerator::DeviceGuard guard(device);
  EdgeTransferCall call(image, edge, activation);
  STD_TORCH_CHECK(call.dtype != DType::f64, "image: float64 has no CUDA kernel");
  if (call.layout.numel > 0) {
    cuda::edge_transfer(image.const_data_ptr(), edge.const_data_ptr(), call.out.mutable_data_ptr(),
                        call.layout, call.dtype, call.activation, current_cuda_stream(device));
  }
  return call.out;
}

std::tuple<Tensor, Tensor> edge_transfer_backward(const Tensor& grad, const Tensor& image,
                                                  const Tensor& edge, const std::string& activation,
                                                  bool need_image, bool need_edge) {
  const int32_t device = image.get_device_index();
  const torch::stable::accelerator::DeviceGuard guard(device);
  EdgeTransferBackwardCall call(grad, image, edge, activation, need_image, need_edge);
  STD_TORCH_CHECK(call.dtype != DType::f64, "image: float64 has no CUDA kernel");
  if (call.layout.numel > 0) {
    cuda::edge_transfer_backward(
        grad.const_data_ptr(), image.const_data_ptr(), edge.const_data_ptr(),
        need_image ? call.grad_image.mutable_data_ptr() : nullptr,
        need_edge ? call.grad_edge.mutable_data_ptr() : nullptr, call.layout, call.dtype,
        call.activation, current_cuda_stream(device));
  }
  return {call.grad_image, call.grad_edge};
}

}  // namespace
}  // namespace ecgan

STABLE_TORCH_LIBRARY_IMPL(ecgan, CUDA, m) {
  m.impl("edge_transfer", TORCH_BOX(&ecgan::edge_transfer));
  m.impl("edge_transfer_backward", TORCH_BOX(&ecgan::edge_transfer_backward));
}
