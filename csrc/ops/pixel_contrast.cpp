// pixel_contrast: schemas and CPU. The formulas stand in cpu/pixel_contrast.h.
#include "../cpu/pixel_contrast.h"

#include "parallel.h"
#include "pixel_contrast.h"

namespace ecgan {
namespace {

cpu::Vectors vectors(const Tensor& tensor, DType dtype) {
  return {tensor.const_data_ptr(), dtype,           tensor.size(0),
          tensor.size(1),          step(tensor, 0), step(tensor, 1)};
}

const int64_t* label_data(const Tensor& labels) {
  return static_cast<const int64_t*>(labels.const_data_ptr());
}

Tensor bytes_like(const Tensor& like, int64_t bytes) {
  return torch::stable::new_empty(like, {bytes}, ScalarType::Byte);
}

// Doubles as a tensor [P] of the embeddings' dtype, and back.
Tensor narrowed(const std::vector<double>& values, const Tensor& embeddings) {
  Tensor out = torch::stable::new_empty(embeddings, {static_cast<int64_t>(values.size())});
  if (embeddings.scalar_type() == ScalarType::Double) {
    std::copy(values.begin(), values.end(), static_cast<double*>(out.mutable_data_ptr()));
  } else {
    std::copy(values.begin(), values.end(), static_cast<float*>(out.mutable_data_ptr()));
  }
  return out;
}
Tensor widened(const Tensor& values, const char* name, int64_t count) {
  STD_TORCH_CHECK(values.dim() == 1 && values.size(0) == count, name, ": expected shape [", count,
                  "]");
  dtype_of(values, name);
  check_memory(values, name);
  return torch::stable::contiguous(torch::stable::to(values, ScalarType::Double));
}

std::tuple<Tensor, Tensor, Tensor, Tensor> pixel_contrast(const Tensor& embeddings,
                                                          const Tensor& labels,
                                                          const Tensor& contrast,
                                                          const Tensor& contrast_labels,
                                                          bool same_set, double temperature,
                                                          int64_t ignore_index, bool need_grad) {
  const PixelContrastCall call(embeddings, labels, contrast, contrast_labels, same_set,
                               temperature);
  const cpu::Parallel parallel = run_tasks;
  cpu::PixelContrast kernel(vectors(embeddings, call.dtype), label_data(call.labels),
                            vectors(contrast, call.dtype), label_data(call.contrast_labels),
                            same_set, temperature, ignore_index, parallel);
  const Tensor packed = bytes_like(embeddings, kernel.packed_bytes(false));
  kernel.pack(packed.mutable_data_ptr(), false);
  std::vector<double> loss(call.anchors), lse(call.anchors), pull(need_grad ? call.anchors : 0);
  Tensor positives = torch::stable::new_empty(embeddings, {call.anchors}, ScalarType::Long);
  kernel.forward(loss.data(), static_cast<int64_t*>(positives.mutable_data_ptr()), lse.data(),
                 need_grad ? pull.data() : nullptr);
  return {narrowed(loss, embeddings), positives, narrowed(lse, embeddings),
          narrowed(pull, embeddings)};
}

std::tuple<Tensor, Tensor> pixel_contrast_backward(const Tensor& grad, const Tensor& embeddings,
                                                   const Tensor& labels, const Tensor& contrast,
                                                   const Tensor& contrast_labels, bool same_set,
                                                   double temperature, int64_t ignore_index,
                                                   const Tensor& /*positives*/,
                                                   const Tensor& negative_lse, const Tensor& pull,
                                                   bool need_embeddings, bool need_contrast) {
  const PixelContrastCall call(embeddings, labels, contrast, contrast_labels, same_set,
                               temperature);
  STD_TORCH_CHECK(need_embeddings || (need_contrast && !same_set),
                  "need_embeddings, need_contrast: expected at least one, need_embeddings for one "
                  "set");
  need_contrast = need_contrast && !same_set;
  const Tensor grads = widened(grad, "grad", call.anchors);
  const Tensor lses = widened(negative_lse, "negative_lse", call.anchors);
  const Tensor pulls = widened(pull, "pull", call.anchors);
  const cpu::Parallel parallel = run_tasks;
  cpu::PixelContrast kernel(vectors(embeddings, call.dtype), label_data(call.labels),
                            vectors(contrast, call.dtype), label_data(call.contrast_labels),
                            same_set, temperature, ignore_index, parallel);
  Tensor packed = bytes_like(embeddings, kernel.packed_bytes(true));
  kernel.pack(packed.mutable_data_ptr(), true);
  const Tensor anchor_sums =
      bytes_like(embeddings, need_embeddings ? kernel.anchor_sums_bytes() : 0);
  const Tensor contrast_sums =
      bytes_like(embeddings, need_contrast ? kernel.contrast_sums_bytes() : 0);
  const auto data = [](const Tensor& t) { return static_cast<const double*>(t.const_data_ptr()); };
  kernel.backward(data(grads), data(lses), data(pulls),
                  need_embeddings ? anchor_sums.mutable_data_ptr() : nullptr,
                  need_contrast ? contrast_sums.mutable_data_ptr() : nullptr);
  packed = Tensor();  // before the gradients are allocated

  Tensor grad_embeddings = torch::stable::new_empty(
      embeddings, {need_embeddings ? call.anchors : 0, need_embeddings ? call.depth : 0});
  Tensor grad_contrast = torch::stable::new_empty(
      contrast, {need_contrast ? call.others : 0, need_contrast ? call.depth : 0});
  if (need_embeddings) {
    kernel.scatter_anchors(anchor_sums.const_data_ptr(), grad_embeddings.mutable_data_ptr());
  }
  if (need_contrast) {
    kernel.scatter_contrast(contrast_sums.const_data_ptr(), grad_contrast.mutable_data_ptr());
  }
  return {grad_embeddings, grad_contrast};
}

}  // namespace
}  // namespace ecgan

STABLE_TORCH_LIBRARY_FRAGMENT(ecgan, m) {
  // With same_set, contrast and contrast_labels repeat embeddings and labels. Returns per anchor
  // the loss, the number of positives (int64), and, for the backward, the log-sum-exp of the
  // negatives and the mean over the positives of what they yield to them (of size 0 if not needed).
  m.def(
      "pixel_contrast(Tensor embeddings, Tensor labels, Tensor contrast, Tensor contrast_labels, "
      "bool same_set, float temperature, int ignore_index, bool need_grad) "
      "-> (Tensor, Tensor, Tensor, Tensor)");
  // A gradient that is not needed comes back as [0, 0]. With same_set the first is of both roles.
  m.def(
      "pixel_contrast_backward(Tensor grad, Tensor embeddings, Tensor labels, Tensor contrast, "
      "Tensor contrast_labels, bool same_set, float temperature, int ignore_index, "
      "Tensor positives, Tensor negative_lse, Tensor pull, bool need_embeddings, "
      "bool need_contrast) -> (Tensor, Tensor)");
}

STABLE_TORCH_LIBRARY_IMPL(ecgan, CPU, m) {
  m.impl("pixel_contrast", TORCH_BOX(&ecgan::pixel_contrast));
  m.impl("pixel_contrast_backward", TORCH_BOX(&ecgan::pixel_contrast_backward));
}
