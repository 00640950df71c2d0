#include "label_conv2d_simd.h"

#include <utility>

#include "../common/simd.h"

namespace ecgan::ECGAN_ISA {
namespace {

using cpu::kLabelChannels;
using cpu::LabelChunk;
using cpu::LabelTile;

template <class V, class E>
ECGAN_SIMD V broadcast(E x) {
  return x - V{};
}

// ---------------------------------------------------------------------------------------------
// Runs
// ---------------------------------------------------------------------------------------------

// 0 where x and the element `step` before it are equal, else -1; a NaN equals nothing.
ECGAN_SIMD Int differs(const int32_t* x, int64_t step) {
  return load_bits<Int>(x) != load_bits<Int>(x - step);
}
ECGAN_SIMD Int differs(const float* x, int64_t step) {
  return load_bits<Float>(x) != load_bits<Float>(x - step);
}
template <class E>
ECGAN_SIMD int32_t differs_one(const E* x, int64_t step) {
  return x[0] != x[-step] ? -1 : 0;
}

// changed[x] |= whether column x of the windows' rows differs from the one a step to its left,
// for x in [step, reach).
template <class E>
void mark_changes(const E* row, int64_t step, int64_t reach, int32_t* changed) {
  int64_t x = step;
  if constexpr (sizeof(E) == 4) {
    for (; x + kLanes <= reach; x += kLanes) {
      store_bits(changed + x, load_bits<Int>(changed + x) | differs(row + x, step));
    }
  }
  for (; x < reach; ++x) changed[x] |= differs_one(row + x, step);
}

template <class E>
void find_runs(LabelChunk* chunk, int32_t* changed) {
  if (chunk->row_outputs == 1) {
    for (int64_t r = 0; r < chunk->rows; ++r) {
      chunk->rank[r] = static_cast<int32_t>(r);
      chunk->window[r] = static_cast<int32_t>(r * chunk->row_step);
    }
    chunk->runs = chunk->rows;
    return;
  }
  const int64_t reach = (chunk->row_outputs - 1) * chunk->step + chunk->kernel_width;
  int32_t run = -1;
  for (int64_t r = 0; r < chunk->rows; ++r) {
    const int64_t first = r * chunk->row_step;
    for (int64_t x = 0; x < reach; ++x) changed[x] = 0;
    for (int64_t i = 0; i < chunk->kernel_height; ++i) {
      const int64_t row = first + i * chunk->map_width;
      mark_changes(chunk->map + row, chunk->step, reach, changed);
      if (chunk->scale) {
        mark_changes(static_cast<const E*>(chunk->scale) + row, chunk->step, reach, changed);
      }
    }
    // In place: changed[x] becomes whether any column of the window from x on has changed.
    const int64_t windows = reach - chunk->kernel_width + 1;
    int64_t x = 0;
    for (; x + kLanes <= windows; x += kLanes) {
      Int any = load_bits<Int>(changed + x);
      for (int64_t j = 1; j < chunk->kernel_width; ++j) any |= load_bits<Int>(changed + x + j);
      store_bits(changed + x, any);
    }
    for (; x < windows; ++x) {
      for (int64_t j = 1; j < chunk->kernel_width; ++j) changed[x] |= changed[x + j];
    }
    changed[0] = -1;  // a row begins with a run: sums stay short, and rows apart
    int32_t* rank = chunk->rank + r * chunk->row_outputs;
    for (int64_t c = 0; c < chunk->row_outputs; ++c) {
      run -= changed[c * chunk->step];
      rank[c] = run;
      chunk->window[run] = static_cast<int32_t>(first + c * chunk->step);
    }
  }
  chunk->runs = run + 1;
}

// ---------------------------------------------------------------------------------------------
// Lanes
// ---------------------------------------------------------------------------------------------

// Lane l of the result is lane from[l] of x.
ECGAN_SIMD Float permute(Float x, Int from) {
#if defined(__AVX512F__)
  return bit_cast<Float>(
      _mm512_maskz_permutexvar_ps(0xffff, bit_cast<__m512i>(from), bit_cast<__m512>(x)));
#elif defined(__AVX2__)
  return bit_cast<Float>(_mm256_permutevar8x32_ps(bit_cast<__m256>(x), bit_cast<__m256i>(from)));
#else
  Float y = {};
  for (int l = 0; l < kLanes; ++l) y[l] = x[from[l]];
  return y;
#endif
}

// One step of a transpose: swaps the lanes of a whose number has bit kBit set with the lanes of b
// whose number has not, kBit to the left.
template <int kBit, int... kLane>
ECGAN_SIMD void exchange(Float& a, Float& b, std::integer_sequence<int, kLane...>) {
  const Float left =
      __builtin_shufflevector(a, b, (kLane & kBit ? kLanes + kLane - kBit : kLane)...);
  const Float right =
      __builtin_shufflevector(a, b, (kLane & kBit ? kLanes + kLane : kLane + kBit)...);
  a = left;
  b = right;
}

// Element l of rows[k] becomes element k of rows[l].
template <int kBit = kLanes / 2>
ECGAN_SIMD void transpose(Float (&rows)[kLanes]) {
  for (int i = 0; i < kLanes; ++i) {
    if (!(i & kBit)) {
      exchange<kBit>(rows[i], rows[i + kBit], std::make_integer_sequence<int, kLanes>{});
    }
  }
  if constexpr (kBit > 1) transpose<kBit / 2>(rows);
}
ECGAN_SIMD void transpose(double (&)[1]) {}

// The first n elements from p on, 0 in the other lanes.
template <class T>
ECGAN_SIMD auto load_some(const T* p, int64_t n) {
  return load(Tail<T>::of(p, n).data);
}
template <class T, class V>
ECGAN_SIMD void store_some(T* p, V v, int64_t n) {
  Tail<T> tail;
  store(tail.data, v);
  tail.copy_to(p, n);
}

// ---------------------------------------------------------------------------------------------
// Forward
// ---------------------------------------------------------------------------------------------

template <class E>
struct Block {
  using V = typename ComputeType<E>::type;
  static constexpr int kStep = ComputeType<E>::lanes;
  static constexpr int kVectors = kLabelChannels / kStep;
  V at[kVectors];
};

// values[k] = the table's bias + sum of its rows under run k's window.
template <class E, bool kScaled, int64_t kWidth>  // of the kernel, 0: any
void sum_windows(const LabelChunk& c, const E* table, E* values) {
  using B = Block<E>;
  const int64_t width = kWidth ? kWidth : c.kernel_width;
  const int64_t next_tap = c.codes * kLabelChannels;
  const E* bias = table + c.kernel_height * width * next_tap;
  for (int64_t k = 0; k < c.runs; ++k) {
    const int32_t* codes = c.map + c.window[k];
    const E* scale = kScaled ? static_cast<const E*>(c.scale) + c.window[k] : nullptr;
    const E* tap = table;
    B sum;
    for (int v = 0; v < B::kVectors; ++v) sum.at[v] = load(bias + v * B::kStep);
    for (int64_t i = 0; i < c.kernel_height; ++i, codes += c.map_width) {
      for (int64_t j = 0; j < width; ++j, tap += next_tap) {
        const E* row = tap + codes[j] * kLabelChannels;
        for (int v = 0; v < B::kVectors; ++v) {
          if constexpr (kScaled) {
            sum.at[v] += load(row + v * B::kStep) * scale[j];
          } else {
            sum.at[v] += load(row + v * B::kStep);
          }
        }
      }
      if constexpr (kScaled) scale += c.map_width;
    }
    for (int v = 0; v < B::kVectors; ++v) {
      store(values + k * kLabelChannels + v * B::kStep, sum.at[v]);
    }
  }
}

// y[p] = values of output p's run, for outputs one after another in memory.
template <class T, class E>
void copy_along_row(const LabelChunk& c, const LabelTile& t, const E* values) {
  using V = typename ComputeType<E>::type;
  constexpr int kStep = ComputeType<E>::lanes;
  const int64_t outputs = c.rows * c.row_outputs;
  // Values of a channel one after another, with room to read a vector beyond the last.
  const int64_t line = (c.runs + kStep - 1) / kStep * kStep + kStep;
  E* turned = static_cast<E*>(t.values) + (c.runs + kStep) * kLabelChannels;
  for (int64_t k = 0; k < c.runs; k += kStep) {
    for (int64_t o = 0; o < kLabelChannels; o += kStep) {
      V rows[kStep];
      for (int l = 0; l < kStep; ++l) rows[l] = load(values + (k + l) * kLabelChannels + o);
      transpose(rows);
      for (int l = 0; l < kStep; ++l) store(turned + (o + l) * line + k, rows[l]);
    }
  }
  for (int64_t o = 0; o < t.channels; ++o) {
    T* y = static_cast<T*>(t.data) + o * t.channel_stride;
    const E* from = turned + o * line;
    int64_t p = 0;
    if constexpr (kStep > 1) {
      // Runs rise by at most one from output to output: a vector of values has all that a vector
      // of outputs needs.
      for (; p + kStep <= outputs; p += kStep) {
        const int32_t first = c.rank[p];
        store(y + p, permute(load(from + first), load_bits<Int>(c.rank + p) - first));
      }
      if (p < outputs) {
        const int32_t first = c.rank[p];
        // Ranks beyond the last output are anything: bounded first, they cannot overflow.
        const Int bounded = load_bits<Int>(c.rank + p) & (kLanes - 1);
        const Int lane = (bounded - (first & (kLanes - 1))) & (kLanes - 1);
        store_some(y + p, permute(load(from + first), lane), outputs - p);
      }
    } else {
      for (; p < outputs; ++p) y[p] = from[c.rank[p]];
    }
  }
}

// The same for outputs whose channels are one after another.
template <class T, class E>
void copy_along_channels(const LabelChunk& c, const LabelTile& t, const E* values) {
  using B = Block<E>;
  for (int64_t p = 0; p < c.rows * c.row_outputs; ++p) {
    T* y = static_cast<T*>(t.data) + p * t.output_stride;
    const E* from = values + c.rank[p] * kLabelChannels;
    for (int v = 0; v < B::kVectors; ++v) {
      const int64_t left = t.channels - v * B::kStep;
      if (left >= B::kStep) {
        store(y + v * B::kStep, load(from + v * B::kStep));
      } else if (left > 0) {
        store_some(y + v * B::kStep, load(from + v * B::kStep), left);
      }
    }
  }
}

template <class T>
void forward(const LabelChunk& c, const LabelTile& t) {
  using E = typename ComputeType<T>::element;
  const E* table = static_cast<const E*>(t.table);
  E* values = static_cast<E*>(t.values);
  if (c.scale) {
    sum_windows<E, true, 0>(c, table, values);
  } else if (c.kernel_width == 3) {
    sum_windows<E, false, 3>(c, table, values);
  } else {
    sum_windows<E, false, 0>(c, table, values);
  }
  if (t.output_stride == 1) {
    copy_along_row<T, E>(c, t, values);
  } else {
    copy_along_channels<T, E>(c, t, values);
  }
}

// ---------------------------------------------------------------------------------------------
// Backward: values[k] = sum_p g(p) over the outputs p of run k, then dT_o,c,t += s values[k]
// for the codes c and counts s under the run's window
// ---------------------------------------------------------------------------------------------

template <class T, class E>
void sum_along_row(const LabelChunk& c, const LabelTile& t, E* values) {
  using V = typename ComputeType<E>::type;
  constexpr int kStep = ComputeType<E>::lanes;
  const int64_t outputs = c.rows * c.row_outputs;
  for (int64_t o = 0; o < kLabelChannels; o += kStep) {
    const T* grad = static_cast<const T*>(t.data) + o * t.channel_stride;
    const int64_t channels = t.channels - o < kStep ? t.channels - o : kStep;
    V sum = {};
    int32_t run = 0;
    for (int64_t p = 0; p < outputs; p += kStep) {
      V rows[kStep];  // of channels, then of outputs
      const int64_t left = outputs - p;
      if (channels == kStep && left >= kStep) {
        for (int l = 0; l < kStep; ++l) rows[l] = load(grad + l * t.channel_stride + p);
      } else {
        for (int l = 0; l < kStep; ++l) {
          rows[l] = l < channels ? load_some(grad + l * t.channel_stride + p,
                                             left < kStep ? left : int64_t{kStep})
                                 : V{};
        }
      }
      transpose(rows);
      const int64_t last = left < kStep ? left - 1 : kStep - 1;
      if (c.rank[p + last] == run) {  // outputs past the end count 0
        for (int n = kStep / 2; n > 0; n /= 2) {
          for (int l = 0; l < n; ++l) rows[l] += rows[l + n];
        }
        sum += rows[0];
        continue;
      }
      for (int l = 0; l <= last; ++l) {
        if (c.rank[p + l] != run) {
          store(values + run * kLabelChannels + o, sum);
          sum = V{};
          run = c.rank[p + l];
        }
        sum += rows[l];
      }
    }
    if (outputs > 0) store(values + run * kLabelChannels + o, sum);
  }
}

template <class T, class E>
void sum_along_channels(const LabelChunk& c, const LabelTile& t, E* values) {
  using B = Block<E>;
  for (int v = 0; v < B::kVectors; ++v) {
    const int64_t left = t.channels - v * B::kStep;
    typename B::V sum = {};
    int32_t run = 0;
    for (int64_t p = 0; p < c.rows * c.row_outputs; ++p) {
      if (c.rank[p] != run) {
        store(values + run * kLabelChannels + v * B::kStep, sum);
        sum = typename B::V{};
        run = c.rank[p];
      }
      const T* grad = static_cast<const T*>(t.data) + p * t.output_stride + v * B::kStep;
      if (left >= B::kStep) {
        sum += load(grad);
      } else if (left > 0) {
        sum += load_some(grad, left);
      }
    }
    store(values + run * kLabelChannels + v * B::kStep, sum);
  }
}

template <class E, bool kScaled, bool kWeight>
void scatter_windows(const LabelChunk& c, const E* values, E* table) {
  using B = Block<E>;
  const int64_t next_tap = c.codes * kLabelChannels;
  B all = {};
  for (int64_t k = 0; k < c.runs; ++k) {
    const int32_t* codes = c.map + c.window[k];
    const E* scale = kScaled ? static_cast<const E*>(c.scale) + c.window[k] : nullptr;
    E* tap = table;
    B sum;
    for (int v = 0; v < B::kVectors; ++v) {
      sum.at[v] = load(values + k * kLabelChannels + v * B::kStep);
      all.at[v] += sum.at[v];
    }
    for (int64_t i = 0; kWeight && i < c.kernel_height; ++i, codes += c.map_width) {
      for (int64_t j = 0; j < c.kernel_width; ++j, tap += next_tap) {
        E* row = tap + codes[j] * kLabelChannels;
        for (int v = 0; v < B::kVectors; ++v) {
          E* here = row + v * B::kStep;
          if constexpr (kScaled) {
            store(here, load(here) + sum.at[v] * scale[j]);
          } else {
            store(here, load(here) + sum.at[v]);
          }
        }
      }
      if constexpr (kScaled) scale += c.map_width;
    }
  }
  E* bias = table + c.kernel_height * c.kernel_width * next_tap;
  for (int v = 0; v < B::kVectors; ++v) {
    store(bias + v * B::kStep, load(bias + v * B::kStep) + all.at[v]);
  }
}

template <class T>
void backward(const LabelChunk& c, const LabelTile& t, bool need_weight) {
  using E = typename ComputeType<T>::element;
  E* values = static_cast<E*>(t.values);
  if (t.output_stride == 1) {
    sum_along_row<T, E>(c, t, values);
  } else {
    sum_along_channels<T, E>(c, t, values);
  }
  const auto scatter = !need_weight ? scatter_windows<E, false, false>
                       : c.scale    ? scatter_windows<E, true, true>
                                    : scatter_windows<E, false, true>;
  scatter(c, values, static_cast<E*>(t.table));
}

}  // namespace

void label_conv2d_runs(LabelChunk* chunk, int32_t* scratch, bool use_double) {
  use_double ? find_runs<double>(chunk, scratch) : find_runs<float>(chunk, scratch);
}

void label_conv2d_tile(const LabelChunk& chunk, const LabelTile& tile) {
  with_type(tile.dtype, [&](auto zero) { forward<decltype(zero)>(chunk, tile); });
}

void label_conv2d_backward_tile(const LabelChunk& chunk, const LabelTile& tile, bool need_weight) {
  with_type(tile.dtype, [&](auto zero) { backward<decltype(zero)>(chunk, tile, need_weight); });
}

}  // namespace ecgan::ECGAN_ISA
