// Checks, allocation and layout of edge_transfer_lrelu, the same for every device.
#pragma once

#include <optional>

#include "tensors.h"

namespace ecgan {

inline void check_negative_slope(double negative_slope) {
  STD_TORCH_CHECK(0 < negative_slope && negative_slope <= 1,
                  "negative_slope: expected more than 0 and at most 1, got ", negative_slope);
}

struct EdgeTransferLreluCall {
  DType dtype;
  Tensor image_out;  // like image
  Tensor edge_out;   // like edge
  Strided<4> layout;

  EdgeTransferLreluCall(const Tensor& image, const Tensor& edge, double negative_slope)
      : dtype(dtype_of(image, "image")) {
    check_memory(image, "image");
    check_like(edge, "edge", image, "image");
    check_negative_slope(negative_slope);
    image_out = torch::stable::empty_like(image);
    edge_out = torch::stable::empty_like(edge);
    layout = strided<4>({image, edge, image_out, edge_out});
  }
};

struct EdgeTransferLreluBackwardCall {
  DType dtype;
  Tensor grad_image;  // like image_out, or of size 0 where it is not wanted
  Tensor grad_edge;   // like edge_out, or of size 0
  Strided<6> layout;

  EdgeTransferLreluBackwardCall(const std::optional<Tensor>& grad_image_out,
                                const std::optional<Tensor>& grad_edge_out, const Tensor& image_out,
                                const Tensor& edge_out, double negative_slope, bool need_image,
                                bool need_edge)
      : dtype(dtype_of(image_out, "image_out")) {
    check_memory(image_out, "image_out");
    check_like(edge_out, "edge_out", image_out, "image_out");
    check_negative_slope(negative_slope);
    if (grad_image_out) check_like(*grad_image_out, "grad_image_out", image_out, "image_out");
    if (grad_edge_out) check_like(*grad_edge_out, "grad_edge_out", image_out, "image_out");
    STD_TORCH_CHECK(need_image || need_edge, "need_image, need_edge: expected at least one");
    STD_TORCH_CHECK(grad_image_out || (!need_image && grad_edge_out),
                    "grad_image_out: expected, as all that is needed depends on it");
    if (need_image) grad_image = torch::stable::empty_like(image_out);
    if (need_edge) grad_edge = torch::stable::empty_like(edge_out);
    // What is not there or not wanted stands in the layout with another's strides.
    layout = strided<6>({grad_image_out ? *grad_image_out : image_out,
                         grad_edge_out ? *grad_edge_out : edge_out, image_out, edge_out,
                         need_image ? grad_image : grad_edge, need_edge ? grad_edge : grad_image});
    if (!need_image) grad_image = torch::stable::new_empty(image_out, {0});
    if (!need_edge) grad_edge = torch::stable::new_empty(edge_out, {0});
  }
};

inline const void* data_or_null(const std::optional<Tensor>& tensor) {
  return tensor ? tensor->const_data_ptr() : nullptr;
}

}  // namespace ecgan
