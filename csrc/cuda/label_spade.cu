// Memory bound: every pass reads x, and dy in the backward, once with 16-byte accesses; the table's
// columns come through the caches. Sums are formed in two phases, of chunks whose number depends on
// shapes alone and then over the chunks in order, without atomics: results repeat bit by bit.
#include "label_spade.h"
#include "launch.h"
#include "scalar.h"

namespace ecgan::cuda {
namespace {

constexpr const char* kOp = "label_spade";
constexpr int kWarps = kThreads / 32;
constexpr int64_t kPlaneChunk = 8192;  // pixels of a plane that a block sums: 32 KiB of float
constexpr int kSorted = 1024;          // sorted pixels that a block sums by patch
constexpr int kShort = 16;             // pixels of a patch that one thread adds up by itself

int64_t chunks_of(int64_t n, int64_t chunk) {
  return (n + chunk - 1) / chunk;
}

// Where a tensor's planes begin.
struct Strides {
  int64_t batch, channel;
  __device__ int64_t at(int64_t b, int64_t c) const { return b * batch + c * channel; }
};

// What a plane's pixels are normalised and modulated with.
struct Modulation {
  const int32_t* inverse;
  const float* gamma;
  const float* beta;
  float mean, rstd, slope;
};

struct Statistics {
  const double* mean;
  const double* var;
};

__device__ inline int64_t place(const LabelSpade& op, int64_t b, int64_t c) {
  return op.norm == SpadeNorm::instance ? b * op.channels + c : c;
}

__device__ inline Modulation modulation(const LabelSpade& op, const Statistics& s, int64_t b,
                                        int64_t c) {
  const int64_t i = place(op, b, c);
  return {op.inverse + b * op.pixels,
          op.table + c * op.patches,
          op.table + (op.channels + c) * op.patches,
          static_cast<float>(s.mean[i]),
          rsqrtf(static_cast<float>(s.var[i] + op.eps)),
          op.slope};
}

struct Gradient {
  float d;      // of scale * n + shift
  float n;      // (x - mean) rstd
  float scale;  // 1 + gamma
};

__device__ inline Gradient through(const Modulation& m, float grad, float x, int32_t patch) {
  const float scale = 1.0f + m.gamma[patch];
  const float n = (x - m.mean) * m.rstd;
  const float z = n * scale + m.beta[patch];
  return {z > 0.0f ? grad : m.slope * grad, n, scale};
}

// The sum over the block, at every thread.
__device__ inline float block_sum(float value, float* shared /* [kWarps] */) {
  for (int step = 16; step > 0; step /= 2) value += __shfl_xor_sync(~0u, value, step);
  __syncthreads();  // the last call's readers are done
  if (threadIdx.x % 32 == 0) shared[threadIdx.x / 32] = value;
  __syncthreads();
  float sum = 0.0f;
  for (int w = 0; w < kWarps; ++w) sum += shared[w];
  return sum;
}

// Mean and sum of squared deviations of each chunk of each plane.
template <typename T>
__global__ void __launch_bounds__(kThreads)
    chunk_moments(LabelSpade op, const T* __restrict__ values, Strides planes,
                  float* __restrict__ partial,  // [batch * channels, chunks, 2]
                  int64_t chunks) {
  ECGAN_SHARED(float, scratch, [kWarps]);
  const int64_t total = op.batch * op.channels * chunks;
  for (int64_t i = blockIdx.x; i < total; i += gridDim.x) {
    const int64_t plane = i / chunks, begin = i % chunks * kPlaneChunk;
    const T* __restrict__ x = values + planes.at(plane / op.channels, plane % op.channels);
    const int64_t end = begin + kPlaneChunk < op.pixels ? begin + kPlaneChunk : op.pixels;
    float sum = 0.0f;
    for (int64_t p = begin + threadIdx.x; p < end; p += kThreads) sum += to_float(x[p]);
    const float mean = block_sum(sum, scratch) / static_cast<float>(end - begin);
    float squares = 0.0f;
    for (int64_t p = begin + threadIdx.x; p < end; p += kThreads) {  // from the cache
      const float d = to_float(x[p]) - mean;
      squares += d * d;
    }
    squares = block_sum(squares, scratch);
    if (threadIdx.x == 0) {
      partial[2 * i] = mean;
      partial[2 * i + 1] = squares;
    }
  }
}

// The chunks that share a mean, joined in order; a thread per mean.
__global__ void __launch_bounds__(kThreads)
    join_moments(LabelSpade op, const float* __restrict__ partial, int64_t chunks,
                 double* __restrict__ mean_out,  // [1 or batch, channels]
                 double* __restrict__ var_out) {
  const bool instance = op.norm == SpadeNorm::instance;
  const int64_t means = instance ? op.batch * op.channels : op.channels;
  const int64_t stride = int64_t{gridDim.x} * blockDim.x;
  for (int64_t i = int64_t{blockIdx.x} * blockDim.x + threadIdx.x; i < means; i += stride) {
    const int64_t end = instance ? i + 1 : op.batch * op.channels;
    const double share = 1.0 / static_cast<double>(instance ? op.pixels : op.batch * op.pixels);
    const auto each = [&](auto add) {  // add(values, their mean, their sum of squared deviations)
      for (int64_t plane = i; plane < end; plane += op.channels) {
        for (int64_t k = 0; k < chunks; ++k) {
          const int64_t left = op.pixels - k * kPlaneChunk;
          const float* chunk = partial + 2 * (plane * chunks + k);
          add(static_cast<double>(left < kPlaneChunk ? left : kPlaneChunk), chunk[0], chunk[1]);
        }
      }
    };
    double mean = 0.0, squares = 0.0;
    each([&](double n, double m, double) { mean += n * m; });
    mean *= share;
    each([&](double n, double m, double s) { squares += s + n * (m - mean) * (m - mean); });
    mean_out[i] = mean;
    var_out[i] = squares * share;
  }
}

// y = lrelu(n (1 + gamma[u]) + beta[u])
template <typename T, bool kPacked>
__global__ void __launch_bounds__(kThreads)
    modulate(LabelSpade op,
             const T* __restrict__ x_data,  // by strides
             Strides in,
             T* __restrict__ y_data,  // [batch, channels, pixels]
             Statistics statistics) {
  constexpr int kSize = kPacked ? Pack<T>::kSize : 1;
  const int64_t packs = op.pixels / kSize;
  const int64_t total = op.batch * op.channels * packs;
  const int64_t stride = int64_t{gridDim.x} * blockDim.x;
  for (int64_t i = int64_t{blockIdx.x} * blockDim.x + threadIdx.x; i < total; i += stride) {
    const int64_t plane = i / packs, p = i % packs * kSize;
    const int64_t b = plane / op.channels, c = plane % op.channels;
    const Modulation m = modulation(op, statistics, b, c);
    const T* __restrict__ x = x_data + in.at(b, c) + p;
    T* __restrict__ y = y_data + plane * op.pixels + p;
    const auto value = [&](T v, int k) {
      const int32_t patch = m.inverse[p + k];
      const float z = (to_float(v) - m.mean) * m.rstd * (1.0f + m.gamma[patch]) + m.beta[patch];
      return from_float<T>(z > 0.0f ? z : m.slope * z);
    };
    if constexpr (kPacked) {
      Pack<T> pack = load_pack(x);
#pragma unroll
      for (int k = 0; k < kSize; ++k) pack.at[k] = value(pack.at[k], k);
      store_pack(y, pack);
    } else {
      *y = value(*x, 0);
    }
  }
}

// dx = rstd (d (1 + gamma) - sums[0] - n sums[1])
template <typename T, bool kPacked>
__global__ void __launch_bounds__(kThreads)
    input_gradient(LabelSpade op,
                   const T* __restrict__ grad_data,  // by strides
                   Strides grads,
                   const T* __restrict__ x_data,  // by strides
                   Strides in,
                   T* __restrict__ dx_data,  // [batch, channels, pixels]
                   Statistics statistics, const double* __restrict__ sums) {
  constexpr int kSize = kPacked ? Pack<T>::kSize : 1;
  const int64_t packs = op.pixels / kSize;
  const int64_t total = op.batch * op.channels * packs;
  const int64_t stride = int64_t{gridDim.x} * blockDim.x;
  for (int64_t i = int64_t{blockIdx.x} * blockDim.x + threadIdx.x; i < total; i += stride) {
    const int64_t plane = i / packs, p = i % packs * kSize;
    const int64_t b = plane / op.channels, c = plane % op.channels;
    const Modulation m = modulation(op, statistics, b, c);
    const int64_t j = place(op, b, c);
    const float mean_d = sums ? static_cast<float>(sums[2 * j]) : 0.0f;
    const float mean_dn = sums ? static_cast<float>(sums[2 * j + 1]) : 0.0f;
    const T* __restrict__ grad = grad_data + grads.at(b, c) + p;
    const T* __restrict__ x = x_data + in.at(b, c) + p;
    T* __restrict__ dx = dx_data + plane * op.pixels + p;
    const auto value = [&](T g, T v, int k) {
      const Gradient t = through(m, to_float(g), to_float(v), m.inverse[p + k]);
      return from_float<T>(m.rstd * (t.d * t.scale - mean_d - t.n * mean_dn));
    };
    if constexpr (kPacked) {
      const Pack<T> g = load_pack(grad), v = load_pack(x);
      Pack<T> pack;
#pragma unroll
      for (int k = 0; k < kSize; ++k) pack.at[k] = value(g.at[k], v.at[k], k);
      store_pack(dx, pack);
    } else {
      *dx = value(*grad, *x, 0);
    }
  }
}

// Sums of d (1 + gamma) and of d (1 + gamma) n over each chunk of each plane.
template <typename T>
__global__ void __launch_bounds__(kThreads)
    chunk_sums(LabelSpade op, const T* __restrict__ grad_data, Strides grads,
               const T* __restrict__ x_data, Strides in, Statistics statistics,
               float* __restrict__ partial,  // [batch * channels, chunks, 2]
               int64_t chunks) {
  ECGAN_SHARED(float, scratch, [kWarps]);
  const int64_t total = op.batch * op.channels * chunks;
  for (int64_t i = blockIdx.x; i < total; i += gridDim.x) {
    const int64_t plane = i / chunks, begin = i % chunks * kPlaneChunk;
    const int64_t b = plane / op.channels, c = plane % op.channels;
    const Modulation m = modulation(op, statistics, b, c);
    const T* __restrict__ grad = grad_data + grads.at(b, c);
    const T* __restrict__ x = x_data + in.at(b, c);
    const int64_t end = begin + kPlaneChunk < op.pixels ? begin + kPlaneChunk : op.pixels;
    float sum_d = 0.0f, sum_dn = 0.0f;
    for (int64_t p = begin + threadIdx.x; p < end; p += kThreads) {
      const Gradient t = through(m, to_float(grad[p]), to_float(x[p]), m.inverse[p]);
      sum_d += t.d * t.scale;
      sum_dn += t.d * t.scale * t.n;
    }
    sum_d = block_sum(sum_d, scratch);
    sum_dn = block_sum(sum_dn, scratch);
    if (threadIdx.x == 0) {
      partial[2 * i] = sum_d;
      partial[2 * i + 1] = sum_dn;
    }
  }
}

// The chunks' sums, in order, over what shares a mean; a thread per mean.
__global__ void __launch_bounds__(kThreads)
    join_sums(LabelSpade op, const float* __restrict__ partial, int64_t chunks,
              double* __restrict__ sums) {  // [1 or batch, channels, 2]
  const bool instance = op.norm == SpadeNorm::instance;
  const int64_t means = instance ? op.batch * op.channels : op.channels;
  const int64_t stride = int64_t{gridDim.x} * blockDim.x;
  const double values = op.norm == SpadeNorm::shared
                            ? 1.0
                            : static_cast<double>(instance ? op.pixels : op.batch * op.pixels);
  for (int64_t i = int64_t{blockIdx.x} * blockDim.x + threadIdx.x; i < means; i += stride) {
    double d = 0.0, dn = 0.0;
    for (int64_t plane = i; plane < op.batch * op.channels; plane += op.channels) {
      for (int64_t k = 0; k < chunks; ++k) {
        d += partial[2 * (plane * chunks + k)];
        dn += partial[2 * (plane * chunks + k) + 1];
      }
      if (instance) break;
    }
    sums[2 * i] = d / values;
    sums[2 * i + 1] = dn / values;
  }
}

// The first patch in [0, patches) whose pixels reach beyond the sorted position `at`.
__device__ inline int32_t patch_at(const int32_t* starts, int64_t patches, int64_t at) {
  int64_t low = 0, high = patches - 1;
  while (low < high) {
    const int64_t middle = (low + high) / 2;
    if (starts[middle + 1] > at) {
      high = middle;
    } else {
      low = middle + 1;
    }
  }
  return static_cast<int32_t>(low);
}

struct Pair {
  float d, dn;
};

// Sums by patch over chunks of sorted pixels. A patch whose pixels all lie in the chunk is done;
// the one that began earlier and the one that goes on leave their sums in `partial`.
template <typename T>
__global__ void __launch_bounds__(kThreads)
    chunk_table(LabelSpade op, const T* __restrict__ grad_data, Strides grads,
                const T* __restrict__ x_data, Strides in, Statistics statistics,
                float* __restrict__ grad_table,  // [2 channels, patches]
                Pair* __restrict__ partial,      // [channels, chunks, 2]: earlier, onwards
                int64_t chunks) {
  ECGAN_SHARED(Pair, values, [kSorted]);
  const int64_t all = op.batch * op.pixels, total = op.channels * chunks;
  const int warp = threadIdx.x / 32, lane = threadIdx.x % 32;
  for (int64_t i = blockIdx.x; i < total; i += gridDim.x) {
    const int64_t c = i / chunks, begin = i % chunks * kSorted;
    const int count = static_cast<int>(all - begin < kSorted ? all - begin : kSorted);
    __syncthreads();  // the last turn's readers are done
    for (int k = threadIdx.x; k < count; k += kThreads) {
      const int64_t pixel = op.order[begin + k], b = pixel / op.pixels, p = pixel % op.pixels;
      const Modulation m = modulation(op, statistics, b, c);
      const Gradient t = through(m, to_float(grad_data[grads.at(b, c) + p]),
                                 to_float(x_data[in.at(b, c) + p]), m.inverse[p]);
      values[k] = {t.d, t.d * t.n};
    }
    __syncthreads();
    const int32_t first = patch_at(op.starts, op.patches, begin);
    const int32_t last = patch_at(op.starts, op.patches, begin + count - 1);
    const auto finish = [&](int32_t patch, Pair sum) {
      if (op.starts[patch] < begin) {
        partial[2 * i] = sum;
      } else if (op.starts[patch + 1] > begin + count) {
        partial[2 * i + 1] = sum;
      } else {
        grad_table[c * op.patches + patch] = sum.dn;
        grad_table[(op.channels + c) * op.patches + patch] = sum.d;
      }
    };
    const auto range = [&](int32_t patch, int* from, int* to) {
      const int64_t a = op.starts[patch] - begin, z = op.starts[patch + 1] - begin;
      *from = static_cast<int>(a < 0 ? 0 : a);
      *to = static_cast<int>(z > count ? count : z);
      return *to - *from;
    };
    int from, to;
    for (int32_t patch = first + threadIdx.x; patch <= last; patch += kThreads) {
      if (range(patch, &from, &to) > kShort) continue;
      Pair sum = {0.0f, 0.0f};
      for (int k = from; k < to; ++k) {
        sum.d += values[k].d;
        sum.dn += values[k].dn;
      }
      finish(patch, sum);
    }
    for (int32_t patch = first + warp; patch <= last; patch += kWarps) {
      if (range(patch, &from, &to) <= kShort) continue;
      Pair sum = {0.0f, 0.0f};
      for (int k = from + lane; k < to; k += 32) {
        sum.d += values[k].d;
        sum.dn += values[k].dn;
      }
      for (int step = 16; step > 0; step /= 2) {
        sum.d += __shfl_xor_sync(~0u, sum.d, step);
        sum.dn += __shfl_xor_sync(~0u, sum.dn, step);
      }
      if (lane == 0) finish(patch, sum);
    }
  }
}

// The patches that more than one chunk holds: their parts in the order of the chunks.
__global__ void __launch_bounds__(kThreads)
    join_table(LabelSpade op, const Pair* __restrict__ partial, int64_t chunks,
               float* __restrict__ grad_table) {
  const int64_t total = op.channels * op.patches;
  const int64_t stride = int64_t{gridDim.x} * blockDim.x;
  for (int64_t i = int64_t{blockIdx.x} * blockDim.x + threadIdx.x; i < total; i += stride) {
    const int64_t c = i / op.patches, patch = i % op.patches;
    const int64_t start = op.starts[patch], end = op.starts[patch + 1];
    double d = 0.0, dn = 0.0;
    if (start < end) {
      const int64_t first = start / kSorted, last = (end - 1) / kSorted;
      if (first == last) continue;
      for (int64_t k = first; k <= last; ++k) {
        const Pair part = partial[2 * (c * chunks + k) + (k == first ? 1 : 0)];
        d += part.d;
        dn += part.dn;
      }
    }
    grad_table[i] = static_cast<float>(dn);
    grad_table[op.channels * op.patches + i] = static_cast<float>(d);
  }
}

unsigned blocks(int64_t items) {
  return static_cast<unsigned>(items < ECGAN_MAX_BLOCKS ? items : ECGAN_MAX_BLOCKS);
}

// Whether packs of 16 bytes fit every plane.
template <typename T>
bool packed(const LabelSpade& op, const void* data, const Strides& strides) {
  constexpr int kSize = Pack<T>::kSize;
  return op.pixels % kSize == 0 && strides.batch % kSize == 0 && strides.channel % kSize == 0 &&
         pack_aligned(data);
}

bool nothing(const LabelSpade& op) {
  return op.batch * op.channels * op.pixels == 0;
}

int64_t means(const LabelSpade& op) {
  return op.norm == SpadeNorm::instance ? op.batch * op.channels : op.channels;
}

}  // namespace

int64_t label_spade_workspace(const LabelSpade& op) {
  const int64_t plane = op.batch * op.channels * chunks_of(op.pixels, kPlaneChunk);
  const int64_t sorted = 2 * op.channels * chunks_of(op.batch * op.pixels, kSorted);
  return static_cast<int64_t>(sizeof(Pair)) * (plane > sorted ? plane : sorted);
}

void label_spade_statistics(const LabelSpade& op, const void* x, int64_t batch_stride,
                            int64_t channel_stride, double* mean, double* var, void* workspace,
                            void* stream) {
  if (nothing(op)) return;
  const int64_t chunks = chunks_of(op.pixels, kPlaneChunk);
  float* const partial = static_cast<float*>(workspace);
  dispatch_dtype(kOp, op.dtype, [&](auto scalar) {
    using T = decltype(scalar);
    launch(kOp, chunk_moments<T>, blocks(op.batch * op.channels * chunks), kThreads, 0, stream, op,
           static_cast<const T*>(x), Strides{batch_stride, channel_stride}, partial, chunks);
  });
  launch(kOp, join_moments, elementwise_blocks(means(op)), kThreads, 0, stream, op, partial, chunks,
         mean, var);
}

void label_spade(const LabelSpade& op, const void* x, int64_t batch_stride, int64_t channel_stride,
                 void* y, const double* mean, const double* var, void* stream) {
  if (nothing(op)) return;
  dispatch_dtype(kOp, op.dtype, [&](auto scalar) {
    using T = decltype(scalar);
    const Strides in{batch_stride, channel_stride};
    const bool pack = packed<T>(op, x, in) && pack_aligned(y);
    const int64_t items = op.batch * op.channels * op.pixels / (pack ? Pack<T>::kSize : 1);
    launch(kOp, pack ? modulate<T, true> : modulate<T, false>, elementwise_blocks(items), kThreads,
           0, stream, op, static_cast<const T*>(x), in, static_cast<T*>(y), Statistics{mean, var});
  });
}

void label_spade_sums(const LabelSpade& op, const void* grad, int64_t grad_batch_stride,
                      int64_t grad_channel_stride, const void* x, int64_t batch_stride,
                      int64_t channel_stride, const double* mean, const double* var, double* sums,
                      void* workspace, void* stream) {
  if (nothing(op)) return;
  const int64_t chunks = chunks_of(op.pixels, kPlaneChunk);
  float* const partial = static_cast<float*>(workspace);
  dispatch_dtype(kOp, op.dtype, [&](auto scalar) {
    using T = decltype(scalar);
    launch(kOp, chunk_sums<T>, blocks(op.batch * op.channels * chunks), kThreads, 0, stream, op,
           static_cast<const T*>(grad), Strides{grad_batch_stride, grad_channel_stride},
           static_cast<const T*>(x), Strides{batch_stride, channel_stride}, Statistics{mean, var},
           partial, chunks);
  });
  launch(kOp, join_sums, elementwise_blocks(means(op)), kThreads, 0, stream, op, partial, chunks,
         sums);
}

void label_spade_input(const LabelSpade& op, const void* grad, int64_t grad_batch_stride,
                       int64_t grad_channel_stride, const void* x, int64_t batch_stride,
                       int64_t channel_stride, const double* mean, const double* var,
                       const double* sums, void* grad_x, void* stream) {
  if (nothing(op)) return;
  dispatch_dtype(kOp, op.dtype, [&](auto scalar) {
    using T = decltype(scalar);
    const Strides grads{grad_batch_stride, grad_channel_stride}, in{batch_stride, channel_stride};
    const bool pack = packed<T>(op, grad, grads) && packed<T>(op, x, in) && pack_aligned(grad_x);
    const int64_t items = op.batch * op.channels * op.pixels / (pack ? Pack<T>::kSize : 1);
    launch(kOp, pack ? input_gradient<T, true> : input_gradient<T, false>,
           elementwise_blocks(items), kThreads, 0, stream, op, static_cast<const T*>(grad), grads,
           static_cast<const T*>(x), in, static_cast<T*>(grad_x), Statistics{mean, var}, sums);
  });
}

void label_spade_table(const LabelSpade& op, const void* grad, int64_t grad_batch_stride,
                       int64_t grad_channel_stride, const void* x, int64_t batch_stride,
                       int64_t channel_stride, const double* mean, const double* var,
                       float* grad_table, void* workspace, void* stream) {
  if (nothing(op)) return;
  const int64_t chunks = chunks_of(op.batch * op.pixels, kSorted);
  Pair* const partial = static_cast<Pair*>(workspace);
  dispatch_dtype(kOp, op.dtype, [&](auto scalar) {
    using T = decltype(scalar);
    launch(kOp, chunk_table<T>, blocks(op.channels * chunks), kThreads, 0, stream, op,
           static_cast<const T*>(grad), Strides{grad_batch_stride, grad_channel_stride},
           static_cast<const T*>(x), Strides{batch_stride, channel_stride}, Statistics{mean, var},
           grad_table, partial, chunks);
  });
  launch(kOp, join_table, elementwise_blocks(op.channels * op.patches), kThreads, 0, stream, op,
         partial, chunks, grad_table);
}

}  // namespace ecgan::cuda
