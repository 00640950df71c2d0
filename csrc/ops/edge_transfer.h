// Checks, allocation and layout of edge_transfer, the same for every device.
#pragma once

#include "tensors.h"

namespace ecgan {

struct EdgeTransferCall {
  DType dtype;
  Activation activation;
  Tensor out;  // like image
  Strided<3> layout;

  EdgeTransferCall(const Tensor& image, const Tensor& edge, const std::string& name)
      : dtype(dtype_of(image, "image")), activation(parse(name)) {
    check_memory(image, "image");
    check_like(edge, "edge", image, "image");
    out = torch::stable::empty_like(image);
    layout = strided<3>({image, edge, out});
  }

  static Activation parse(const std::string& name) {
    if (name == "tanh") return Activation::tanh;
    STD_TORCH_CHECK(name == "none", "activation: expected 'none' or 'tanh', got '", name, "'");
    return Activation::none;
  }
};

struct EdgeTransferBackwardCall {
  DType dtype;
  Activation activation;
  Tensor grad_image;  // like image, or of size 0 where it is not wanted
  Tensor grad_edge;   // like edge, or of size 0
  Strided<5> layout;

  EdgeTransferBackwardCall(const Tensor& grad, const Tensor& image, const Tensor& edge,
                           const std::string& name, bool need_image, bool need_edge)
      : dtype(dtype_of(image, "image")), activation(EdgeTransferCall::parse(name)) {
    check_memory(image, "image");
    check_like(edge, "edge", image, "image");
    check_like(grad, "grad", image, "image");
    STD_TORCH_CHECK(need_image || need_edge, "need_image, need_edge: expected at least one");
    if (need_image) grad_image = torch::stable::empty_like(image);
    if (need_edge) grad_edge = torch::stable::empty_like(edge);
    // An output that is not wanted stands in the layout with the other's strides.
    layout = strided<5>({grad, image, edge, need_image ? grad_image : grad_edge,
                         need_edge ? grad_edge : grad_image});
    if (!need_image) grad_image = torch::stable::new_empty(image, {0});
    if (!need_edge) grad_edge = torch::stable::new_empty(edge, {0});
  }
};

}  // namespace ecgan
