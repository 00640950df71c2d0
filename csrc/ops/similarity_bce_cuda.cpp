// similarity_bce on CUDA. The schema stands in similarity_bce.cpp.
#include <torch/csrc/stable/accelerator.h>

#include "../cuda/similarity_bce.h"
#include "cuda_stream.h"
#include "similarity_bce.h"

namespace ecgan {
namespace {

std::tuple<Tensor, Tensor, Tensor> similarity_bce(const Tensor& probs, const Tensor& labels,
                                                  int64_t ignore_index, double eps,
                                                  const std::string& precision, bool need_grad) {
  const int32_t device = probs.get_device_index();
  const torch::stable::accelerator::DeviceGuard guard(device);
  const SimilarityBceCall call(probs, labels, eps, precision);
  STD_TORCH_CHECK(call.dtype != DType::f64, "probs: float64 has no CUDA kernel");
  // A view where the pixels lie evenly spaced in memory, else a copy.
  const Tensor flat = torch::stable::reshape(probs, {call.batch, call.classes, call.pixels});
  const Tensor loss = torch::stable::new_empty(probs, {call.batch}, ScalarType::Float);
  const Tensor valid = torch::stable::new_empty(probs, {call.batch}, ScalarType::Long);
  std::vector<int64_t> shape{0};
  if (need_grad) {
    shape.clear();
    for (int64_t d = 0; d < probs.dim(); ++d) shape.push_back(probs.size(d));
  }
  const Tensor grad = torch::stable::new_empty(probs, shape, ScalarType::Float);
  const cuda::SimilarityBce kernel{call.batch,     call.classes,   call.pixels,
                                   flat.stride(0), flat.stride(1), flat.stride(2),
                                   call.dtype,     ignore_index,   static_cast<float>(eps),
                                   call.exact,     need_grad};
  const Tensor workspace =
      torch::stable::new_empty(probs, {cuda::similarity_bce_workspace(kernel)}, ScalarType::Byte);
  cuda::similarity_bce(
      kernel, flat.const_data_ptr(), static_cast<const int64_t*>(call.labels.const_data_ptr()),
      static_cast<float*>(loss.mutable_data_ptr()), static_cast<int64_t*>(valid.mutable_data_ptr()),
      need_grad ? static_cast<float*>(grad.mutable_data_ptr()) : nullptr,
      workspace.mutable_data_ptr(), current_cuda_stream(device));
  return {loss, valid, grad};
}

}  // namespace
}  // namespace ecgan

STABLE_TORCH_LIBRARY_IMPL(ecgan, CUDA, m) {
  m.impl("similarity_bce", TORCH_BOX(&ecgan::similarity_bce));
}
