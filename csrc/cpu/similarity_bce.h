// CPU kernel of similarity_bce, on raw pointers: no torch header.
#pragma once

#include <cstdint>
#include <vector>

#include "pairwise.h"

namespace ecgan::cpu {

// With x_ij = p_ij = <s_i, s_j> where the classes of the V valid pixels i and j agree and 1 - p_ij
// elsewhere, of each image
//   loss   = -1/V^2 sum_ij log max(x_ij, eps)
//   grad_i = -2/V^2 sum_j (+ or - 1 where classes agree or differ) / max(x_ij, eps) s_j
// in one pass over the tiles of pairs on and above the diagonal.
class SimilarityBce {
 public:
  // Sorts the pixels. probs must outlive the object, labels need not.
  SimilarityBce(const void* probs,  // [batch, classes, pixels], strides in elements
                DType dtype,        //
                int64_t batch, int64_t classes, int64_t pixels, const int64_t (&strides)[3],
                const int64_t* labels,  // [batch, pixels], contiguous; valid ones in [0, classes)
                int64_t ignore_index,   //
                double eps, const Parallel& parallel);

  int64_t valid(int64_t image) const { return images_[image].size(); }

  // Bytes of the packed pixels and of the gradients in their order, 0 if those are not wanted.
  int64_t packed_bytes(bool need_grad) const;
  int64_t sums_bytes() const;

  // The pass. packed and sums are the caller's memory; sums, which the pass zeroes, is null where
  // no gradient is wanted.
  void run(void* packed, void* sums);

  // After run(): the loss of an image, NaN where a valid pixel holds an infinity or a NaN.
  double loss(int64_t image) const;
  // After run(), which leaves packed unused: grad [batch, classes, pixels], contiguous, in float
  // (double for f64), 0 at pixels that are not valid.
  void gradient(const void* sums, void* grad) const;

 private:
  int64_t element_size() const { return dtype_ == DType::f64 ? 8 : 4; }

  DType dtype_;
  int64_t classes_, pixels_;
  double eps_;
  const Parallel& parallel_;
  std::vector<SortedVectors> images_;
  std::vector<double> log_sums_;  // of each image
};

}  // namespace ecgan::cpu
