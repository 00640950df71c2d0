// pixel_contrast on CUDA. The schemas stand in pixel_contrast.cpp.
#include <torch/csrc/stable/accelerator.h>

#include "../cuda/pixel_contrast.h"
#include "cuda_stream.h"
#include "pixel_contrast.h"

namespace ecgan {
namespace {

struct PixelContrastCudaCall : PixelContrastCall {
  cuda::PixelContrast kernel;

  PixelContrastCudaCall(const Tensor& embeddings, const Tensor& labels_, const Tensor& contrast,
                        const Tensor& contrast_labels_, bool same_set, double temperature,
                        int64_t ignore_index)
      : PixelContrastCall(embeddings, labels_, contrast, contrast_labels_, same_set, temperature) {
    STD_TORCH_CHECK(dtype != DType::f64, "embeddings: float64 has no CUDA kernel");
    kernel = {set(embeddings, labels),
              set(contrast, contrast_labels),
              depth,
              same_set,
              static_cast<float>(temperature),
              ignore_index};
  }

 private:
  cuda::EmbeddingSet set(const Tensor& z, const Tensor& y) const {
    return {z.const_data_ptr(),
            z.stride(0),
            z.stride(1),
            dtype,
            static_cast<const int64_t*>(y.const_data_ptr()),
            z.size(0)};
  }
};

float* float_data(const Tensor& tensor) {
  return static_cast<float*>(tensor.mutable_data_ptr());
}

Tensor bytes_like(const Tensor& like, int64_t bytes) {
  return torch::stable::new_empty(like, {bytes}, ScalarType::Byte);
}

// A statistic [P] that the forward pass returned, or the gradient [P] of the losses.
Tensor per_anchor(const Tensor& values, const char* name, int64_t count, ScalarType type) {
  STD_TORCH_CHECK(values.dim() == 1 && values.size(0) == count, name, ": expected shape [", count,
                  "]");
  return torch::stable::contiguous(torch::stable::to(values, type));
}

std::tuple<Tensor, Tensor, Tensor, Tensor> pixel_contrast(const Tensor& embeddings,
                                                          const Tensor& labels,
                                                          const Tensor& contrast,
                                                          const Tensor& contrast_labels,
                                                          bool same_set, double temperature,
                                                          int64_t ignore_index, bool need_grad) {
  const int32_t device = embeddings.get_device_index();
  const torch::stable::accelerator::DeviceGuard guard(device);
  const PixelContrastCudaCall call(embeddings, labels, contrast, contrast_labels, same_set,
                                   temperature, ignore_index);
  const Tensor loss = torch::stable::new_empty(embeddings, {call.anchors});
  const Tensor positives = torch::stable::new_empty(embeddings, {call.anchors}, ScalarType::Long);
  const Tensor negatives = torch::stable::new_empty(embeddings, {call.anchors});
  const Tensor pull = torch::stable::new_empty(embeddings, {need_grad ? call.anchors : 0});
  const Tensor workspace = bytes_like(embeddings, cuda::pixel_contrast_workspace(call.kernel));
  cuda::pixel_contrast(call.kernel, float_data(loss),
                       {static_cast<int64_t*>(positives.mutable_data_ptr()), float_data(negatives),
                        need_grad ? float_data(pull) : nullptr},
                       workspace.mutable_data_ptr(), current_cuda_stream(device));
  return {loss, positives, negatives, pull};
}

std::tuple<Tensor, Tensor> pixel_contrast_backward(const Tensor& grad, const Tensor& embeddings,
                                                   const Tensor& labels, const Tensor& contrast,
                                                   const Tensor& contrast_labels, bool same_set,
                                                   double temperature, int64_t ignore_index,
                                                   const Tensor& positives,
                                                   const Tensor& negative_lse, const Tensor& pull,
                                                   bool need_embeddings, bool need_contrast) {
  const int32_t device = embeddings.get_device_index();
  const torch::stable::accelerator::DeviceGuard guard(device);
  const PixelContrastCudaCall call(embeddings, labels, contrast, contrast_labels, same_set,
                                   temperature, ignore_index);
  need_contrast = need_contrast && !same_set;
  const Tensor grads = per_anchor(grad, "grad", call.anchors, ScalarType::Float);
  const Tensor counts = per_anchor(positives, "positives", call.anchors, ScalarType::Long);
  const Tensor sums = per_anchor(negative_lse, "negative_lse", call.anchors, ScalarType::Float);
  const Tensor pulls = per_anchor(pull, "pull", call.anchors, ScalarType::Float);
  const Tensor grad_embeddings = torch::stable::new_empty(
      embeddings, {need_embeddings ? call.anchors : 0, need_embeddings ? call.depth : 0});
  const Tensor grad_contrast = torch::stable::new_empty(
      contrast, {need_contrast ? call.others : 0, need_contrast ? call.depth : 0});
  const Tensor workspace =
      bytes_like(embeddings, cuda::pixel_contrast_backward_workspace(call.kernel));
  cuda::pixel_contrast_backward(
      call.kernel, static_cast<const float*>(grads.const_data_ptr()),
      {static_cast<int64_t*>(counts.mutable_data_ptr()), float_data(sums), float_data(pulls)},
      need_embeddings ? float_data(grad_embeddings) : nullptr,
      need_contrast ? float_data(grad_contrast) : nullptr, workspace.mutable_data_ptr(),
      current_cuda_stream(device));
  return {grad_embeddings, grad_contrast};
}

}  // namespace
}  // namespace ecgan

STABLE_TORCH_LIBRARY_IMPL(ecgan, CUDA, m) {
  m.impl("pixel_contrast", TORCH_BOX(&ecgan::pixel_contrast));
  m.impl("pixel_contrast_backward", TORCH_BOX(&ecgan::pixel_contrast_backward));
}
