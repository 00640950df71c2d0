// edge_transfer: schemas and CPU. The formulas stand in cpu/edge_transfer.h.
#include "edge_transfer.h"

#include "../cpu/edge_transfer.h"
#include "fresh_data.h"

namespace ecgan {
namespace {

Tensor edge_transfer(const Tensor& image, const Tensor& edge, const std::string& activation) {
  EdgeTransferCall call(image, edge, activation);
  const void* image_data = image.const_data_ptr();
  const void* edge_data = edge.const_data_ptr();
  void* out_data = fresh_data(call.out);
  torch::stable::parallel_for(0, call.layout.numel, kGrain, [&](int64_t begin, int64_t end) {
    cpu::edge_transfer(image_data, edge_data, out_data, call.layout, call.dtype, call.activation,
                       begin, end);
  });
  return call.out;
}

std::tuple<Tensor, Tensor> edge_transfer_backward(const Tensor& grad, const Tensor& image,
                                                  const Tensor& edge, const std::string& activation,
                                                  bool need_image, bool need_edge) {
  EdgeTransferBackwardCall call(grad, image, edge, activation, need_image, need_edge);
  const void* grad_data = grad.const_data_ptr();
  const void* image_data = image.const_data_ptr();
  const void* edge_data = edge.const_data_ptr();
  void* grad_image_data = need_image ? fresh_data(call.grad_image) : nullptr;
  void* grad_edge_data = need_edge ? fresh_data(call.grad_edge) : nullptr;
  torch::stable::parallel_for(0, call.layout.numel, kGrain, [&](int64_t begin, int64_t end) {
    cpu::edge_transfer_backward(grad_data, image_data, edge_data, grad_image_data, grad_edge_data,
                                call.layout, call.dtype, call.activation, begin, end);
  });
  return {call.grad_image, call.grad_edge};
}

}  // namespace
}  // namespace ecgan

STABLE_TORCH_LIBRARY_FRAGMENT(ecgan, m) {
  // activation: "none" or "tanh"
  m.def("edge_transfer(Tensor image, Tensor edge, str activation) -> Tensor");
  // A gradient that is not needed comes back with size 0.
  m.def(
      "edge_transfer_backward(Tensor grad, Tensor image, Tensor edge, str activation, "
      "bool need_image, bool need_edge) -> (Tensor, Tensor)");
}

STABLE_TORCH_LIBRARY_IMPL(ecgan, CPU, m) {
  m.impl("edge_transfer", TORCH_BOX(&ecgan::edge_transfer));
  m.impl("edge_transfer_backward", TORCH_BOX(&ecgan::edge_transfer_backward));
}
