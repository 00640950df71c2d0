// similarity_bce: schema and CPU. The formulas stand in cpu/similarity_bce.h.
#include "../cpu/similarity_bce.h"

#include "parallel.h"
#include "similarity_bce.h"

namespace ecgan {
namespace {

// probs as [B, N, M]: a view where the pixels lie evenly spaced in memory, else a copy.
Tensor with_flat_pixels(const Tensor& probs, int64_t pixels) {
  return torch::stable::reshape(probs, {probs.size(0), probs.size(1), pixels});
}

std::tuple<Tensor, Tensor, Tensor> similarity_bce(const Tensor& probs, const Tensor& labels,
                                                  int64_t ignore_index, double eps,
                                                  const std::string& precision, bool need_grad) {
  const SimilarityBceCall call(probs, labels, eps, precision);
  const Tensor flat = with_flat_pixels(probs, call.pixels);
  Tensor loss = torch::stable::new_empty(probs, {call.batch}, call.result);
  Tensor valid = torch::stable::new_empty(probs, {call.batch}, ScalarType::Long);
  const cpu::Parallel parallel = run_tasks;
  cpu::SimilarityBce kernel(flat.const_data_ptr(), call.dtype, call.batch, call.classes,
                            call.pixels, {step(flat, 0), step(flat, 1), step(flat, 2)},
                            static_cast<const int64_t*>(call.labels.const_data_ptr()), ignore_index,
                            eps, parallel);
  const auto buffer = [&](int64_t bytes) {
    return torch::stable::new_empty(probs, {bytes}, ScalarType::Byte);
  };
  Tensor packed = buffer(kernel.packed_bytes(need_grad));
  const Tensor sums = buffer(need_grad ? kernel.sums_bytes() : 0);
  kernel.run(packed.mutable_data_ptr(), need_grad ? sums.mutable_data_ptr() : nullptr);
  packed = Tensor();  // before the gradient is allocated

  for (int64_t b = 0; b < call.batch; ++b) {
    if (call.dtype == DType::f64) {
      static_cast<double*>(loss.mutable_data_ptr())[b] = kernel.loss(b);
    } else {
      static_cast<float*>(loss.mutable_data_ptr())[b] = static_cast<float>(kernel.loss(b));
    }
    static_cast<int64_t*>(valid.mutable_data_ptr())[b] = kernel.valid(b);
  }
  if (!need_grad) return {loss, valid, torch::stable::new_empty(probs, {0}, call.result)};
  std::vector<int64_t> shape;
  for (int64_t d = 0; d < probs.dim(); ++d) shape.push_back(probs.size(d));
  Tensor grad = torch::stable::new_empty(probs, shape, call.result);
  kernel.gradient(sums.const_data_ptr(), grad.mutable_data_ptr());
  return {loss, valid, grad};
}

}  // namespace
}  // namespace ecgan

STABLE_TORCH_LIBRARY_FRAGMENT(ecgan, m) {
  // precision: "exact" or "fast". Returns each image's loss [B], its number of valid pixels [B]
  // and, if needed, the gradient of each image's loss [B, N, *S], contiguous (else of size 0).
  m.def(
      "similarity_bce(Tensor probs, Tensor labels, int ignore_index, float eps, str precision, "
      "bool need_grad) -> (Tensor, Tensor, Tensor)");
}

STABLE_TORCH_LIBRARY_IMPL(ecgan, CPU, m) {
  m.impl("similarity_bce", TORCH_BOX(&ecgan::similarity_bce));
}
