// Loss and gradient in one pass over the tiles of pairwise.h: the pair matrix is formed once.
#include <cfloat>

#include "pairwise.h"
#include "similarity_bce.h"

namespace ecgan::cuda {
namespace {

using pairwise::Columns;
using pairwise::kPairs;
using pairwise::kWarps;
using pairwise::Packed;
using pairwise::Plan;

constexpr const char* kOp = "similarity_bce";
constexpr int kNone = -1;

// p becomes x = p or 1 - p, then g = dlog x / dp up to sign. A pair costs no logarithm: exponents
// are added, mantissas multiplied, one logarithm serves the kPairs of a lane.
struct Similarity {
  using Label = int;
  static constexpr int kValues = 0;

  float eps;
  bool weights;     // whether g is wanted
  double* partial;  // [images, row blocks, splits, kWarps]: sums of log2 x

  struct Row {
    int label;
    double sum;
  };

  __device__ Row begin(int64_t, int64_t, int label) const { return {label, 0.0}; }
  __device__ float column_value(int, int64_t, int64_t) const { return 0.0f; }

  __device__ void tile(Row& row, float (&p)[kPairs], const Columns<int>& columns) const {
    unsigned exponents = 0, largest = 0;
    float mantissas = 1.0f;  // each below 2: far from overflow
#pragma unroll
    for (int i = 0; i < kPairs; ++i) {
      const int label = columns.label(i);
      const bool same = label == row.label;
      float x = same ? p[i] : 1.0f - p[i];
      if (x < eps) x = eps;  // keeps a NaN
      const bool counts = label != kNone && row.label != kNone;
      if (!counts) x = 1.0f;
      const unsigned bits = pairwise::bits_of(x);
      exponents += bits >> 23;
      largest = bits > largest ? bits : largest;
      mantissas *= pairwise::float_of((bits & 0x007fffffu) | 0x3f800000u);
      if (weights) {
        const float slope = counts ? __fdividef(1.0f, x) : 0.0f;
        p[i] = same ? -slope : slope;
      }
    }
    float sum = static_cast<float>(static_cast<int>(exponents) - 127 * kPairs) + log2f(mantissas);
    if (largest >= 0x7f800000u) sum = NAN;  // one was infinite or NaN
    // Without g the tiles below the diagonal are left out, for those above.
    row.sum += !weights && columns.above ? 2.0f * sum : sum;
  }

  __device__ void end(Row& row, int64_t, int64_t, int64_t block) const {
    double sum = row.sum;
    for (int bits = 16; bits; bits /= 2) sum += __shfl_xor_sync(~0u, sum, bits);
    if (threadIdx.x % 32 == 0) partial[block * kWarps + threadIdx.x / 32] = sum;
  }
};

// One block an image: V, and the loss from the partial sums, in a fixed order.
__global__ void __launch_bounds__(kThreads)
    finish_loss(const double* __restrict__ partial,  // [images, partials]
                int64_t partials,
                const int* __restrict__ labels,  // [images, padded]
                int64_t padded,
                float* __restrict__ loss,       // [images]
                int64_t* __restrict__ valid) {  // [images]
  ECGAN_SHARED(double, sums, [kThreads]);
  ECGAN_SHARED(int64_t, counts, [kThreads]);
  const int64_t image = blockIdx.x;
  const int thread = threadIdx.x;
  double sum = 0.0;
  int64_t count = 0;
  for (int64_t i = thread; i < partials; i += kThreads) sum += partial[image * partials + i];
  for (int64_t i = thread; i < padded; i += kThreads) count += labels[image * padded + i] != kNone;
  sums[thread] = sum;
  counts[thread] = count;
  for (int half = kThreads / 2; half; half /= 2) {
    __syncthreads();
    if (thread < half) {
      sums[thread] += sums[thread + half];
      counts[thread] += counts[thread + half];
    }
  }
  if (thread == 0) {
    constexpr double kLn2 = 0.693147180559945309;
    const double v = static_cast<double>(counts[0]);
    loss[image] = v > 0.0 ? static_cast<float>(-kLn2 * sums[0] / v / v) : 0.0f;
    valid[image] = counts[0];
  }
}

struct Workspace {
  Packed<int> pixels;
  Plan<int> plan;
  bool split;  // half inputs are exact without low halves
  int64_t partials;
  double* partial;
  int64_t bytes;

  Workspace(const SimilarityBce& call, void* memory) {
    pairwise::Arena arena(memory);
    split = call.exact && call.dtype == DType::f32;
    pixels = arena.take_packed<int>(call.images, call.pixels, call.classes, split, kNone);
    plan = pairwise::make_plan(call.images, pixels, pixels, call.need_grad, !call.need_grad);
    partials = int64_t{plan.row_blocks} * plan.splits * kWarps;
    partial = arena.take<double>(call.images * partials);
    if (call.need_grad) {
      plan.gradient = arena.take<float>(plan.splits * call.images * pixels.padded * pixels.width);
    }
    bytes = arena.used();
  }
};

using Kernel = void (*)(Similarity, Plan<int>);

template <int kFragments>
Kernel pick(bool split, bool exact) {
  if (split) return pairwise::pair_tiles<Similarity, true, (kFragments > 0), kFragments>;
  if (exact && kFragments > 0) {
    return pairwise::pair_tiles<Similarity, false, (kFragments > 0), kFragments>;
  }
  return pairwise::pair_tiles<Similarity, false, false, kFragments>;
}

}  // namespace

int64_t similarity_bce_workspace(const SimilarityBce& call) {
  return Workspace(call, nullptr).bytes;
}

void similarity_bce(const SimilarityBce& call, const void* probs, const int64_t* labels,
                    float* loss, int64_t* valid, float* grad, void* workspace, void* stream) {
  if (call.images == 0) return;
  const Workspace work(call, workspace);
  const unsigned images = static_cast<unsigned>(call.images);
  const unsigned packs = static_cast<unsigned>(call.images * work.pixels.padded / 32);
  const int classes = static_cast<int>(call.classes);
  if (packs > 0) {
    const pairwise::Strides strides{call.image_stride, call.pixel_stride, call.class_stride};
    dispatch_dtype(kOp, call.dtype, [&](auto scalar) {
      using T = decltype(scalar);
      launch(kOp, pairwise::pack<T, int>, packs, kThreads, 0, stream, static_cast<const T*>(probs),
             strides, classes, labels, call.ignore_index, call.classes, work.pixels);
    });
    const float eps = call.eps < FLT_MIN ? FLT_MIN : call.eps;
    const Similarity op{eps, call.need_grad, work.partial};
    const Kernel kernel = !call.need_grad ? pick<0>(work.split, call.exact)
                          : work.plan.chunks == 1 && work.pixels.width <= pairwise::kSlice
                              ? pick<4>(work.split, call.exact)
                              : pick<8>(work.split, call.exact);
    pairwise::launch_tiles(kOp, kernel, work.split, op, work.plan, stream);
  }
  launch(kOp, finish_loss, images, kThreads, 0, stream, static_cast<const double*>(work.partial),
         work.partials, static_cast<const int*>(work.pixels.label), work.pixels.padded, loss,
         valid);
  if (call.need_grad && packs > 0) {
    // d loss / d s_i = 2 sum_j G_ij s_j, G = g / V^2 being symmetric
    const pairwise::Strides dense{call.classes * call.pixels, 1, call.pixels};
    launch(kOp, pairwise::sum_splits<int>, dim3(packs, (classes + 31) / 32), kThreads, 0, stream,
           static_cast<const float*>(work.plan.gradient), static_cast<int>(work.plan.splits),
           call.images, work.pixels, 2.0f, static_cast<const int64_t*>(valid), grad, dense,
           classes);
  }
}

}  // namespace ecgan::cuda
