// Three passes over the tiles of pairwise.h: each anchor's sum over its negatives, its loss over
// its positives, and, backward, the gradients. Each forms the products anew; nothing of P x Q is
// kept.
#include "pairwise.h"
#include "pixel_contrast.h"

namespace ecgan::cuda {
namespace {

using pairwise::Columns;
using pairwise::kPairs;
using pairwise::Packed;
using pairwise::Plan;

constexpr const char* kOp = "pixel_contrast";
using Label = int64_t;  // any label but ignore_index, which stands for "none"

// Which of a lane's pairs are positives and which negatives, a bit each.
struct Masks {
  unsigned positive, negative;
};

struct Pairs {
  float inverse_temperature;
  Label none;
  bool same_set;

  __device__ Masks look(Label mine, int64_t row, const Columns<Label>& columns) const {
    Masks masks{0, 0};
    if (mine == none) return masks;
#pragma unroll 4  // not all: that many labels would fill the registers
    for (int i = 0; i < kPairs; ++i) {
      const Label other = columns.label(i);
      const bool self = same_set && columns.number(i) == row;
      masks.positive |= unsigned{other == mine && !self} << i;
      masks.negative |= unsigned{other != mine && other != none} << i;
    }
    return masks;
  }
};

// sum_n e^{s_in} = e^largest * sum
struct Sum {
  float largest, sum;
};

// Both relative to the larger of two exponents; -inf and 0 for nothing.
__device__ inline Sum merge(const Sum& a, const Sum& b) {
  const float largest = fmaxf(a.largest, b.largest);
  if (largest == -INFINITY) return {largest, a.sum + b.sum};
  return {largest, a.sum * expf(a.largest - largest) + b.sum * expf(b.largest - largest)};
}

struct NegativeSum {
  using Label = ecgan::cuda::Label;
  static constexpr int kValues = 0;

  Pairs pairs;
  int64_t padded;
  unsigned splits;
  Sum* partial;  // [splits, padded]

  struct Row {
    Label label;
    int64_t number;
    Sum sum;
  };

  __device__ Row begin(int64_t, int64_t row, Label label) const {
    return {label, row, {-INFINITY, 0.0f}};
  }
  __device__ float column_value(int, int64_t, int64_t) const { return 0.0f; }

  __device__ void tile(Row& row, float (&p)[kPairs], const Columns<Label>& columns) const {
    const unsigned negative = pairs.look(row.label, row.number, columns).negative;
    if (!negative) return;
    float largest = -INFINITY;
#pragma unroll
    for (int i = 0; i < kPairs; ++i) {
      p[i] = negative >> i & 1 ? p[i] * pairs.inverse_temperature : -INFINITY;
      largest = fmaxf(largest, p[i]);
    }
    if (largest == -INFINITY) largest = 0.0f;  // NaN and -inf alone
    largest = fmaxf(largest, row.sum.largest);
    float sum = row.sum.sum * expf(row.sum.largest - largest);
#pragma unroll
    for (int i = 0; i < kPairs; ++i) sum += expf(p[i] - largest);
    row.sum = {largest, sum};
  }

  __device__ void end(Row& row, int64_t, int64_t number, int64_t) const {
    const Sum other{__shfl_xor_sync(~0u, row.sum.largest, 1), __shfl_xor_sync(~0u, row.sum.sum, 1)};
    const Sum both = threadIdx.x % 2 ? merge(other, row.sum) : merge(row.sum, other);
    if (threadIdx.x % 2 == 0) partial[blockIdx.y * padded + number] = both;
  }
};

// What an anchor sums up over its positives.
struct Positives {
  double loss;  // of softplus(negatives - s_ip)
  float pull;   // of q_ip
  int count;
};

struct PositiveSum {
  using Label = ecgan::cuda::Label;
  static constexpr int kValues = 0;

  Pairs pairs;
  int64_t padded;
  const float* negatives;  // [padded]
  Positives* partial;      // [splits, padded]

  struct Row {
    Label label;
    int64_t number;
    float negatives;
    Positives sum;
  };

  __device__ Row begin(int64_t, int64_t row, Label label) const {
    return {label, row, negatives[row], {0.0, 0.0f, 0}};
  }
  __device__ float column_value(int, int64_t, int64_t) const { return 0.0f; }

  __device__ void tile(Row& row, float (&p)[kPairs], const Columns<Label>& columns) const {
    const unsigned positive = pairs.look(row.label, row.number, columns).positive;
    if (!positive) return;
    float loss = 0.0f, pull = 0.0f;
#pragma unroll
    for (int i = 0; i < kPairs; ++i) {
      if (!(positive >> i & 1)) continue;
      const float d = row.negatives - p[i] * pairs.inverse_temperature;
      const float e = expf(-fabsf(d));
      loss += fmaxf(d, 0.0f) + log1pf(e);
      pull += (d < 0.0f ? e : 1.0f) / (1.0f + e);
    }
    row.sum.loss += loss;
    row.sum.pull += pull;
    row.sum.count += __popc(positive);
  }

  __device__ void end(Row& row, int64_t, int64_t number, int64_t) const {
    Positives& sum = row.sum;
    sum.loss += __shfl_xor_sync(~0u, sum.loss, 1);
    sum.pull += __shfl_xor_sync(~0u, sum.pull, 1);
    sum.count += __shfl_xor_sync(~0u, sum.count, 1);
    if (threadIdx.x % 2 == 0) partial[blockIdx.y * padded + number] = sum;
  }
};

// What the gradient needs of an anchor; of what is none: what makes all its terms 0.
struct Anchors {
  float* negatives;  // [padded], inf
  float* positive;   // [padded]: a_i, 0
  float* negative;   // [padded]: b_i, 0
};

struct ContrastGradient {
  using Label = ecgan::cuda::Label;
  static constexpr int kValues = 3;

  Pairs pairs;
  Anchors anchors;
  bool rows_are_anchors, columns_are_anchors;

  struct Row {
    Label label;
    int64_t number;
    float negatives, positive, negative;
  };

  __device__ Row begin(int64_t, int64_t row, Label label) const {
    if (!rows_are_anchors) return {label, row, 0.0f, 0.0f, 0.0f};
    return {label, row, anchors.negatives[row], anchors.positive[row], anchors.negative[row]};
  }
  __device__ float column_value(int n, int64_t, int64_t column) const {
    if (!columns_are_anchors) return 0.0f;
    return (n == 0 ? anchors.negatives : n == 1 ? anchors.positive : anchors.negative)[column];
  }

  // One anchor's part of g: d = negatives - s
  __device__ static float weight(bool same, float d, float positive, float negative) {
    const float e = expf(same ? -fabsf(d) : -d);
    return same ? -positive * ((d < 0.0f ? e : 1.0f) / (1.0f + e)) : negative * e;
  }

  __device__ void tile(Row& row, float (&p)[kPairs], const Columns<Label>& columns) const {
    const Masks masks = pairs.look(row.label, row.number, columns);
#pragma unroll
    for (int i = 0; i < kPairs; ++i) {
      const float s = p[i] * pairs.inverse_temperature;
      const bool same = masks.positive >> i & 1;
      float g = 0.0f;
      if ((masks.positive | masks.negative) >> i & 1) {
        if (rows_are_anchors) g += weight(same, row.negatives - s, row.positive, row.negative);
        if (columns_are_anchors) {
          g += weight(same, columns.value(0, i) - s, columns.value(1, i), columns.value(2, i));
        }
      }
      p[i] = g;
    }
  }

  __device__ void end(Row&, int64_t, int64_t, int64_t) const {}
};

// negatives_i = log sum_n e^{s_in}, from the splits in a fixed order.
__global__ void __launch_bounds__(kThreads)
    finish_negatives(const Sum* __restrict__ partial,  // [splits, padded]
                     unsigned splits, int64_t padded, int64_t count,
                     float* __restrict__ negatives,  // [padded]
                     float* __restrict__ out) {      // [count]
  const int64_t i = int64_t{blockIdx.x} * kThreads + threadIdx.x;
  if (i >= padded) return;
  Sum sum = partial[i];
  for (unsigned s = 1; s < splits; ++s) sum = merge(sum, partial[s * padded + i]);
  const float value = sum.largest == -INFINITY ? -INFINITY : sum.largest + logf(sum.sum);
  negatives[i] = value;
  if (i < count) out[i] = value;
}

__global__ void __launch_bounds__(kThreads)
    finish_loss(const Positives* __restrict__ partial,  // [splits, padded]
                unsigned splits, int64_t padded, int64_t count,
                float* __restrict__ loss,         // [count]
                int64_t* __restrict__ positives,  // [count]
                float* __restrict__ pull) {       // [count] or null
  const int64_t i = int64_t{blockIdx.x} * kThreads + threadIdx.x;
  if (i >= count) return;
  Positives sum{0.0, 0.0f, 0};
  for (unsigned s = 0; s < splits; ++s) {
    const Positives part = partial[s * padded + i];
    sum.loss += part.loss;
    sum.pull += part.pull;
    sum.count += part.count;
  }
  loss[i] = sum.count ? static_cast<float>(sum.loss / sum.count) : 0.0f;
  if (pull) pull[i] = sum.count ? sum.pull / static_cast<float>(sum.count) : 0.0f;
  positives[i] = sum.count;
}

__global__ void __launch_bounds__(kThreads)
    prepare_anchors(const float* __restrict__ grad,         // [count]
                    const int64_t* __restrict__ positives,  // [count]
                    const float* __restrict__ negatives,    // [count]
                    const float* __restrict__ pull,         // [count]
                    int64_t count, int64_t padded, Anchors anchors) {
  const int64_t i = int64_t{blockIdx.x} * kThreads + threadIdx.x;
  if (i >= padded) return;
  const bool counts = i < count && positives[i] > 0;
  anchors.negatives[i] = counts ? negatives[i] : INFINITY;
  anchors.positive[i] = counts ? grad[i] / static_cast<float>(positives[i]) : 0.0f;
  anchors.negative[i] = counts ? grad[i] * pull[i] : 0.0f;
}

unsigned blocks_for(int64_t items) {
  return static_cast<unsigned>((items + kThreads - 1) / kThreads);
}

// Both sets, packed.
struct Sets {
  Packed<Label> anchors, contrast;

  Sets(const PixelContrast& call, pairwise::Arena& arena) {
    anchors = arena.take_packed<Label>(1, call.anchors.count, call.dim, true, call.ignore_index);
    contrast = call.same_set ? anchors
                             : arena.take_packed<Label>(1, call.contrast.count, call.dim, true,
                                                        call.ignore_index);
  }

  void fill(const PixelContrast& call, void* stream) const {
    fill(call, call.anchors, anchors, stream);
    if (!call.same_set) fill(call, call.contrast, contrast, stream);
  }

 private:
  static void fill(const PixelContrast& call, const EmbeddingSet& set, const Packed<Label>& packed,
                   void* stream) {
    if (set.count == 0) return;
    dispatch_dtype(kOp, set.dtype, [&](auto scalar) {
      using T = decltype(scalar);
      launch(kOp, pairwise::pack<T, Label>, static_cast<unsigned>(packed.padded / 32), kThreads, 0,
             stream, static_cast<const T*>(set.data),
             pairwise::Strides{0, set.row_stride, set.column_stride}, static_cast<int>(call.dim),
             set.labels, call.ignore_index, int64_t{0}, packed);
    });
  }
};

struct Forward {
  pairwise::Arena arena;
  Sets sets;
  Plan<Label> plan;
  Sum* sums;
  Positives* positives;
  float* negatives;

  Forward(const PixelContrast& call, void* memory)
      : arena(memory),
        sets(call, arena),
        plan(pairwise::make_plan(1, sets.anchors, sets.contrast, false, false)) {
    const int64_t padded = sets.anchors.padded;
    sums = arena.take<Sum>(plan.splits * padded);
    positives = arena.take<Positives>(plan.splits * padded);
    negatives = arena.take<float>(padded);
  }
};

struct Backward {
  pairwise::Arena arena;
  Sets sets;
  Anchors anchors;
  Plan<Label> by_anchors, by_contrast;

  Backward(const PixelContrast& call, void* memory)
      : arena(memory),
        sets(call, arena),
        by_anchors(pairwise::make_plan(1, sets.anchors, sets.contrast, true, false)),
        by_contrast(pairwise::make_plan(1, sets.contrast, sets.anchors, true, false)) {
    const int64_t padded = sets.anchors.padded;
    anchors = {arena.take<float>(padded), arena.take<float>(padded), arena.take<float>(padded)};
    // One after the other, in the same memory.
    const int64_t size =
        sums(by_anchors) > sums(by_contrast) ? sums(by_anchors) : sums(by_contrast);
    by_anchors.gradient = by_contrast.gradient = arena.take<float>(size);
  }

  static int64_t sums(const Plan<Label>& plan) {
    return plan.splits * plan.rows.padded * plan.rows.width;
  }
};

Pairs pairs_of(const PixelContrast& call) {
  return {1.0f / call.temperature, call.ignore_index, call.same_set};
}

void gradient(const PixelContrast& call, const ContrastGradient& op, const Plan<Label>& plan,
              float* out, void* stream) {
  const auto kernel = plan.rows.width <= pairwise::kSlice
                          ? pairwise::pair_tiles<ContrastGradient, true, true, 4>
                          : pairwise::pair_tiles<ContrastGradient, true, true, 8>;
  pairwise::launch_tiles(kOp, kernel, true, op, plan, stream);
  const dim3 grid(static_cast<unsigned>(plan.rows.padded / 32),
                  static_cast<unsigned>((call.dim + 31) / 32));
  launch(kOp, pairwise::sum_splits<Label>, grid, kThreads, 0, stream,
         static_cast<const float*>(plan.gradient), static_cast<int>(plan.splits), int64_t{1},
         plan.rows, 1.0f / call.temperature, static_cast<const int64_t*>(nullptr), out,
         pairwise::Strides{0, call.dim, 1}, static_cast<int>(call.dim));
}

}  // namespace

int64_t pixel_contrast_workspace(const PixelContrast& call) {
  return Forward(call, nullptr).arena.used();
}

int64_t pixel_contrast_backward_workspace(const PixelContrast& call) {
  return Backward(call, nullptr).arena.used();
}

void pixel_contrast(const PixelContrast& call, float* loss, const ContrastStatistics& statistics,
                    void* workspace, void* stream) {
  const int64_t count = call.anchors.count;
  if (count == 0) return;
  const Forward work(call, workspace);
  work.sets.fill(call, stream);
  const int64_t padded = work.sets.anchors.padded;
  const unsigned splits = work.plan.splits;
  const NegativeSum first{pairs_of(call), padded, splits, work.sums};
  pairwise::launch_tiles(kOp, pairwise::pair_tiles<NegativeSum, true, false, 0>, true, first,
                         work.plan, stream);
  launch(kOp, finish_negatives, blocks_for(padded), kThreads, 0, stream,
         static_cast<const Sum*>(work.sums), splits, padded, count, work.negatives,
         statistics.negatives);
  const PositiveSum second{pairs_of(call), padded, work.negatives, work.positives};
  pairwise::launch_tiles(kOp, pairwise::pair_tiles<PositiveSum, true, false, 0>, true, second,
                         work.plan, stream);
  launch(kOp, finish_loss, blocks_for(count), kThreads, 0, stream,
         static_cast<const Positives*>(work.positives), splits, padded, count, loss,
         statistics.positives, statistics.pull);
}

void pixel_contrast_backward(const PixelContrast& call, const float* grad,
                             const ContrastStatistics& statistics, float* grad_anchors,
                             float* grad_contrast, void* workspace, void* stream) {
  const int64_t count = call.anchors.count;
  const Backward work(call, workspace);
  work.sets.fill(call, stream);
  const int64_t padded = work.sets.anchors.padded;
  if (padded > 0) {
    launch(kOp, prepare_anchors, blocks_for(padded), kThreads, 0, stream, grad,
           static_cast<const int64_t*>(statistics.positives),
           static_cast<const float*>(statistics.negatives),
           static_cast<const float*>(statistics.pull), count, padded, work.anchors);
  }
  if (grad_anchors && count > 0) {
    gradient(call, {pairs_of(call), work.anchors, true, call.same_set}, work.by_anchors,
             grad_anchors, stream);
  }
  if (grad_contrast && !call.same_set && call.contrast.count > 0) {
    gradient(call, {pairs_of(call), work.anchors, false, true}, work.by_contrast, grad_contrast,
             stream);
  }
}

}  // namespace ecgan::cuda
