// CPU kernel of pixel_contrast, on raw pointers: no torch header.
#pragma once

#include <cstdint>
#include <vector>

#include "pairwise.h"
#include "pixel_contrast_simd.h"

namespace ecgan::cpu {

// With s_ij = <z_i, z_j> / temperature, n_i the log-sum-exp of s_ij over i's negatives and
// q_ip = 1 / (1 + e^(s_ip - n_i)),
//   loss_i = (1/|P_i|) sum_p log(1 + e^(n_i - s_ip)),  pull_i = (1/|P_i|) sum_p q_ip
//   d loss_i / d s_ip = -q_ip / |P_i|,                 d loss_i / d s_in = pull_i e^(s_in - n_i)
// Tiles of pairs are computed for n, again for the losses (those with positives alone) and again
// for the gradients. Of one set, the first and the last pass use each tile for rows and columns.
class PixelContrast {
 public:
  // Sorts the sets. The embeddings must outlive the object, the labels need not.
  PixelContrast(const Vectors& anchors,          // float or double
                const int64_t* labels,           // [anchors.count]
                const Vectors& contrast,         // of the same type; not looked at for same_set
                const int64_t* contrast_labels,  // [contrast.count]
                bool same_set,                   // the contrast set is the anchors
                double temperature,              //
                int64_t ignore_index,            // label of the vectors that take no part
                const Parallel& parallel);

  // Bytes that set_packed() needs.
  int64_t packed_bytes(bool need_grad) const;
  // Packs the vectors into the caller's memory, for forward() or, with need_grad, for backward().
  void pack(void* memory, bool need_grad);

  // Per anchor: loss, 0 without positives; number of positives; n, -inf without negatives; pull,
  // not wanted if null. In double whatever the type of the embeddings.
  void forward(double* loss, int64_t* positives, double* lse, double* pull) const;

  // Bytes of the gradients in the order of the classes, of the anchors and of the contrast set.
  int64_t anchor_sums_bytes() const { return anchors_.sums_bytes(); }
  int64_t contrast_sums_bytes() const { return columns().sums_bytes(); }
  // grad, lse, pull: per anchor. The sums are the caller's memory or, where not wanted, null.
  void backward(const double* grad, const double* lse, const double* pull, void* anchor_sums,
                void* contrast_sums) const;
  // grad_anchors, grad_contrast: contiguous, of the embeddings' type, 0 where they take no part.
  void scatter_anchors(const void* sums, void* grad) const { scatter(anchors_, sums, grad); }
  void scatter_contrast(const void* sums, void* grad) const { scatter(columns(), sums, grad); }

 private:
  struct ClassIds {  // dense ids of the labels of both sets, -1 for ignore_index
    std::vector<int32_t> anchors, contrast;
    int64_t classes = 0;
  };
  static ClassIds class_ids(const int64_t* labels, int64_t count, const int64_t* contrast_labels,
                            int64_t contrast_count, int64_t ignore_index);
  PixelContrast(const Vectors& anchors, const Vectors& contrast, bool same_set, double temperature,
                const Parallel& parallel, const ClassIds& ids);

  const SortedVectors& columns() const { return same_set_ ? anchors_ : contrast_[0]; }
  // Calls visit(row tile, column tile) for all pairs of tiles in the rounds of a schedule.
  void for_each_pair(const std::function<void(int64_t, int64_t)>& visit) const;
  ContrastTile tile(int64_t i, int64_t j) const;
  void zero(const SortedVectors& set, void* sums) const;
  void scatter(const SortedVectors& set, const void* sums, void* grad) const;
  template <class E>
  void forward_as(double* loss, int64_t* positives, double* lse, double* pull) const;
  template <class E>
  void backward_as(const double* grad, const double* lse, const double* pull, char* anchor_sums,
                   char* contrast_sums) const;

  bool same_set_, use_double_;
  double temperature_;
  const Parallel& parallel_;
  SortedVectors anchors_;
  std::vector<SortedVectors> contrast_;  // one, or none for same_set
  std::vector<int64_t> class_sizes_;     // of the contrast set
};

}  // namespace ecgan::cpu
