// edge_transfer_lrelu: schemas and CPU. The formulas stand in cpu/edge_transfer_lrelu.h.
#include "edge_transfer_lrelu.h"

#include "../cpu/edge_transfer_lrelu.h"
#include "fresh_data.h"

namespace ecgan {
namespace {

std::tuple<Tensor, Tensor> edge_transfer_lrelu(const Tensor& image, const Tensor& edge,
                                               double negative_slope) {
  EdgeTransferLreluCall call(image, edge, negative_slope);
  const void* image_data = image.const_data_ptr();
  const void* edge_data = edge.const_data_ptr();
  void* image_out_data = fresh_data(call.image_out);
  void* edge_out_data = fresh_data(call.edge_out);
  torch::stable::parallel_for(0, call.layout.numel, kGrain, [&](int64_t begin, int64_t end) {
    cpu::edge_transfer_lrelu(image_data, edge_data, image_out_data, edge_out_data, call.layout,
                             call.dtype, negative_slope, begin, end);
  });
  return {call.image_out, call.edge_out};
}

std::tuple<Tensor, Tensor> edge_transfer_lrelu_backward(std::optional<Tensor> grad_image_out,
                                                        std::optional<Tensor> grad_edge_out,
                                                        const Tensor& image_out,
                                                        const Tensor& edge_out,
                                                        double negative_slope, bool need_image,
                                                        bool need_edge) {
  EdgeTransferLreluBackwardCall call(grad_image_out, grad_edge_out, image_out, edge_out,
                                     negative_slope, need_image, need_edge);
  const void* grad_image_out_data = data_or_null(grad_image_out);
  const void* grad_edge_out_data = data_or_null(grad_edge_out);
  const void* image_out_data = image_out.const_data_ptr();
  const void* edge_out_data = edge_out.const_data_ptr();
  void* grad_image_data = need_image ? fresh_data(call.grad_image) : nullptr;
  void* grad_edge_data = need_edge ? fresh_data(call.grad_edge) : nullptr;
  torch::stable::parallel_for(0, call.layout.numel, kGrain, [&](int64_t begin, int64_t end) {
    cpu::edge_transfer_lrelu_backward(grad_image_out_data, grad_edge_out_data, image_out_data,
                                      edge_out_data, grad_image_data, grad_edge_data, call.layout,
                                      call.dtype, negative_slope, begin, end);
  });
  return {call.grad_image, call.grad_edge};
}

}  // namespace
}  // namespace ecgan

STABLE_TORCH_LIBRARY_FRAGMENT(ecgan, m) {
  // Returns image_out, edge_out.
  m.def("edge_transfer_lrelu(Tensor image, Tensor edge, float negative_slope) -> (Tensor, Tensor)");
  // An incoming gradient of None is zero. A gradient that is not needed comes back with size 0.
  m.def(
      "edge_transfer_lrelu_backward(Tensor? grad_image_out, Tensor? grad_edge_out, "
      "Tensor image_out, Tensor edge_out, float negative_slope, bool need_image, bool need_edge) "
      "-> (Tensor, Tensor)");
}

STABLE_TORCH_LIBRARY_IMPL(ecgan, CPU, m) {
  m.impl("edge_transfer_lrelu", TORCH_BOX(&ecgan::edge_transfer_lrelu));
  m.impl("edge_transfer_lrelu_backward", TORCH_BOX(&ecgan::edge_transfer_lrelu_backward));
}
