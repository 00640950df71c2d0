#include "class_conv2d_simd.h"

#include "../common/simd.h"

namespace ecgan::ECGAN_ISA {
namespace {

using cpu::ConvImage;
using cpu::ConvProduct;
using cpu::ConvTile;
using cpu::ConvWeights;
using cpu::kConvColumns;
using cpu::kConvPitch;
using cpu::kConvRows;

constexpr int64_t kTaps = 9;

// 12 sums are held in registers (see pairwise_engine.h): so many rows of them, by so many vectors.
// 4 vectors of AVX-512 do not divide a tile's columns.
template <int kRows>
constexpr int kVectors = kRows == 4 || kLanes == 16 ? 3 : 4;

// Outputs, or channels, that a micro-kernel takes at a time: 4, but no single one left over by 4s.
ECGAN_SIMD int64_t group(int64_t left) {
  return left <= 4 ? left : left == 5 || left == 6 ? 3 : 4;
}

template <int N>
struct Count {};

// Calls f with the Count of the size, 1 to 4.
template <class F>
ECGAN_SIMD void with_group(int64_t size, F f) {
  if (size == 4) return f(Count<4>{});
  if (size == 3) return f(Count<3>{});
  if (size == 2) return f(Count<2>{});
  f(Count<1>{});
}

template <class V, class E>
ECGAN_SIMD V broadcast(E x) {
  return x - V{};
}

// x where the mask is all ones, 0 where it is 0: infinities and NaN do not get past it.
ECGAN_SIMD Float keep(Float x, const int32_t* mask) {
  return bit_cast<Float>(bit_cast<Int>(x) & load_bits<Int>(mask));
}
ECGAN_SIMD double keep(double x, const int32_t* mask) {
  return *mask ? x : 0;
}

// x, loaded once into a register: compilers would rather load it again in each instruction that
// takes it, and unaligned loads are what the micro-kernels wait for.
template <class V>
ECGAN_SIMD V held(V x) {
#if defined(__AVX512F__)
  if constexpr (sizeof(V) == kBytes) asm("" : "+v"(x));
#elif defined(__SSE2__)
  if constexpr (sizeof(V) == kBytes) asm("" : "+x"(x));
#endif
  return x;
}

ECGAN_SIMD Float positive(Float x, Float yes, Float no) {
  return select(x > 0, yes, no);
}
ECGAN_SIMD double positive(double x, double yes, double no) {
  return x > 0 ? yes : no;
}

// ---------------------------------------------------------------------------------------------
// Packing: a compact copy of the tile in float, activated. In place the rows of a channel lie
// 4 KiB or more apart, where they push each other out of the cache.
// ---------------------------------------------------------------------------------------------

// to[i] = a(from[i * stride]), i < n
template <class T, class E>
ECGAN_SIMD void pack_run(const T* from, int64_t stride, int64_t n, E slope, E* to) {
  using V = typename ComputeType<T>::type;
  constexpr int kStep = ComputeType<T>::lanes;
  const auto activate = [&](V x) { return positive(x, x, x * slope); };
  int64_t i = 0;
  if (stride == 1) {
    for (; i + kStep <= n; i += kStep) store(to + i, activate(load(from + i)));
  }
  while (i < n) {
    const int64_t rest = n - i < kStep ? n - i : kStep;
    T gathered[kStep] = {};
    for (int64_t k = 0; k < rest; ++k) gathered[k] = from[(i + k) * stride];
    const V x = activate(load(gathered));
    __builtin_memcpy(to + i, &x, rest * sizeof(E));
    i += rest;
  }
}

// Channels between the one that is packed and the one fetched from memory meanwhile: its rows are
// too short and too far apart for the processor to see them coming.
constexpr int64_t kAhead = 2;

// The tile and `halo` (0 or 1) pixels around it, zero outside the map: [channels, kConvRows +
// 2 halo, pitch].
template <class T, class E>
void pack(const ConvImage& image, const ConvTile& tile, int64_t halo, int64_t pitch, E slope,
          E* packed) {
  const int64_t first = tile.column - halo < 0 ? 1 : 0;
  int64_t end = tile.width - (tile.column - halo);
  if (end > kConvColumns + 2 * halo) end = kConvColumns + 2 * halo;
  const T* from =
      static_cast<const T*>(image.data) + (tile.column - halo + first) * image.column_stride;
  for (int64_t c = 0; c < image.channels; ++c, from += image.channel_stride) {
    for (int64_t r = tile.row - halo; r < tile.row + kConvRows + halo; ++r, packed += pitch) {
      const bool inside = 0 <= r && r < tile.height;
      if (inside && c + kAhead < image.channels && image.column_stride == 1) {
        const char* next = reinterpret_cast<const char*>(from + kAhead * image.channel_stride +
                                                         r * image.row_stride);
        for (int64_t b = 0; b < (end - first) * int64_t{sizeof(T)}; b += 64) {
          __builtin_prefetch(next + b);
        }
      }
      const int64_t last = inside ? end : 0, begin = inside ? first : 0;
      if (begin) packed[0] = 0;
      if (inside) {
        pack_run(from + r * image.row_stride, image.column_stride, end - first, slope,
                 packed + first);
      }
      __builtin_memset(packed + last, 0, (pitch - last) * sizeof(E));
    }
  }
}

template <class E>
void pack_image(const ConvImage& image, const ConvTile& tile, int64_t halo, int64_t pitch,
                double slope, E* packed) {
  with_type(image.dtype, [&](auto zero) {
    using T = decltype(zero);
    if constexpr (sizeof(typename ComputeType<T>::element) == sizeof(E)) {
      pack<T>(image, tile, halo, pitch, static_cast<E>(slope), packed);
    }
  });
}

// Which taps of which pixels count.
struct Masks {
  int32_t same[kConvRows][kTaps][kConvColumns];  // all ones or 0
  // Pixels up to a column (without it) that differ from one of their neighbours.
  int32_t mixed[kConvRows][kConvColumns + 1];
};

// The tile's labels and those around it as 32-bit numbers, equal where the labels are; a pixel
// outside the map, where x is 0, takes the label of the nearest inside and so makes no difference.
void number_labels(const ConvTile& tile, int32_t (*ids)[kConvPitch]) {
  int64_t near[kConvRows + 2][kConvPitch];
  const auto inside = [](int64_t i, int64_t size) { return i < 0 ? 0 : i < size ? i : size - 1; };
  bool wide = false;
  for (int64_t r = 0; r < kConvRows + 2; ++r) {
    const int64_t* from = tile.labels + inside(tile.row + r - 1, tile.height) * tile.width;
    for (int64_t j = 0; j < kConvPitch; ++j) {
      const int64_t label = from[inside(tile.column + j - 1, tile.width)];
      near[r][j] = label;
      ids[r][j] = static_cast<int32_t>(label);
      wide |= label != static_cast<int32_t>(label);
    }
  }
  if (!wide) return;
  // Labels beyond 32 bits are rare: the number of the first pixel with the same label.
  const int64_t* flat = near[0];
  int32_t* numbers = ids[0];
  for (int32_t i = 0; i < (kConvRows + 2) * kConvPitch; ++i) {
    int32_t first = 0;
    while (flat[first] != flat[i]) ++first;
    numbers[i] = first;
  }
}

void fill_masks(const ConvTile& tile, Masks* masks) {
  int32_t ids[kConvRows + 2][kConvPitch];
  number_labels(tile, ids);
  for (int64_t r = 0; r < kConvRows; ++r) {
    int32_t uniform[kConvColumns];
    for (int64_t j = 0; j < kConvColumns; j += kLanes) {
      const Int own = load_bits<Int>(ids[r + 1] + j + 1);
      Int all = Int{} - 1;
      for (int64_t t = 0; t < kTaps; ++t) {
        const Int same = load_bits<Int>(ids[r + t / 3] + j + t % 3) == own;
        store_bits(masks->same[r][t] + j, same);
        all &= same;
      }
      store_bits(uniform + j, all);
    }
    masks->mixed[r][0] = 0;
    for (int64_t j = 0; j < kConvColumns; ++j) {
      masks->mixed[r][j + 1] = masks->mixed[r][j] + 1 + uniform[j];
    }
  }
}

// ---------------------------------------------------------------------------------------------
// Products
// ---------------------------------------------------------------------------------------------

// Channels whose terms are summed up in registers before they meet the sums: rounding errors grow
// with the run, time with the number of runs.
constexpr int64_t kRun = 16;

// sums[r][j] += sum over channels and taps of weight[c][t][r] x[c][j + t], kRows outputs by
// kVectors vectors of pixels.
template <int kRows, bool kMasked, class E>
void multiply(const E* x,           // [channels, kConvRows + 2, kConvPitch], from the first tap on
              const int32_t* same,  // [kTaps, kConvColumns], from the first pixel on
              const E* weight,      // [channels, kTaps, kRows]
              int64_t channels,     //
              E* sums) {            // [kRows, kVectors vectors]
  using V = typename ComputeType<E>::type;
  constexpr int kStep = ComputeType<E>::lanes, kWide = kVectors<kRows>;
  V sum[kRows][kWide];
  for (int r = 0; r < kRows; ++r) {
    for (int v = 0; v < kWide; ++v) sum[r][v] = V{};
  }
  for (int64_t c = 0; c < channels; ++c, x += (kConvRows + 2) * kConvPitch) {
#pragma GCC unroll 9
    for (int t = 0; t < kTaps; ++t, weight += kRows) {
      const E* from = x + t / 3 * kConvPitch + t % 3;
      V y[kWide];
      for (int v = 0; v < kWide; ++v) {
        y[v] = held(load(from + v * kStep));
        if constexpr (kMasked) y[v] = keep(y[v], same + t * kConvColumns + v * kStep);
      }
      for (int r = 0; r < kRows; ++r) {
        const V w = broadcast<V>(weight[r]);
        for (int v = 0; v < kWide; ++v) sum[r][v] += w * y[v];
      }
    }
  }
  for (int r = 0; r < kRows; ++r) {
    for (int v = 0; v < kWide; ++v) {
      E* to = sums + (r * kWide + v) * kStep;
      store(to, load(to) + sum[r][v]);
    }
  }
}

// y[i] = (sums[i] + bias) * (gate[i * gate_stride] > 0 ? 1 : slope), i < n; null: no gate
template <class T, class E>
void finish(const E* sums, E bias, const T* gate, int64_t gate_stride, E slope, int64_t n, T* y) {
  using V = typename ComputeType<T>::type;
  constexpr int kStep = ComputeType<T>::lanes;
  for (int64_t i = 0; i < n; i += kStep) {
    const int64_t rest = n - i < kStep ? n - i : kStep;
    V value = load(sums + i) + bias;
    if (gate) {
      E x[kStep] = {};
      pack_run(gate + i * gate_stride, gate_stride, rest, E(1), x);
      value *= positive(load(x), V{} + 1, V{} + slope);
    }
    if (rest == kStep) {
      store(y + i, value);
    } else {
      Tail<T> tail;
      store(tail.data, value);
      tail.copy_to(y + i, rest);
    }
  }
}

// kRows outputs from the first on, over the tile.
template <int kRows, class T, class E>
void product_rows(const ConvTile& tile, const ConvProduct& p, int64_t first, const E* x,
                  const Masks& masks) {
  constexpr int64_t kStep = kVectors<kRows> * ComputeType<E>::lanes;
  static_assert(kConvColumns % kStep == 0);
  const int64_t channels = p.x.channels;
  const E* weight = static_cast<const E*>(p.weight) + first * channels * kTaps;
  const int64_t columns = tile.width - tile.column;
  for (int64_t r = 0; r < kConvRows && tile.row + r < tile.height; ++r) {
    for (int64_t j = 0; j < kConvColumns && j < columns; j += kStep) {
      const int64_t n = columns - j < kStep ? columns - j : kStep;
      const bool masked = masks.mixed[r][j + kStep] != masks.mixed[r][j];
      E sums[kRows * kStep] = {};
      const auto run = masked ? multiply<kRows, true, E> : multiply<kRows, false, E>;
      for (int64_t c = 0; c < channels; c += kRun) {
        run(x + (c * (kConvRows + 2) + r) * kConvPitch + j, masks.same[r][0] + j,
            weight + c * kTaps * kRows, channels - c < kRun ? channels - c : kRun, sums);
      }
      for (int o = 0; o < kRows; ++o) {
        const int64_t at = (tile.row + r) * tile.width + tile.column + j;
        const T* gate = nullptr;
        if (p.gate.data) {
          gate = static_cast<const T*>(p.gate.data) + (first + o) * p.gate.channel_stride +
                 (tile.row + r) * p.gate.row_stride + (tile.column + j) * p.gate.column_stride;
        }
        const E bias = p.bias ? static_cast<const E*>(p.bias)[first + o] : E(0);
        finish(sums + o * kStep, bias, gate, p.gate.column_stride, static_cast<E>(p.gate_slope), n,
               static_cast<T*>(p.y) + (first + o) * tile.height * tile.width + at);
      }
    }
  }
}

// sums[r][s][t] += sum_p grad[r](p - t) x[s](p) [labels(p) == labels(p - t)]: the weights' gradient
// with p for p + t, so that the gradient, which has fewer channels as a rule, is what needs a halo.
template <int kRows, int kChannels, class E>
void correlate(Count<kRows>, Count<kChannels>,
               const E* grad,       // [kRows, kConvRows + 2, kConvPitch]
               const E* x,          // [kChannels, kConvRows, kConvColumns]
               const Masks& masks,  //
               int64_t rows, int64_t columns,
               E* sums,  // [kRows, channels, kTaps], from the first of the kChannels on
               int64_t channels) {
  using V = typename ComputeType<E>::type;
  constexpr int kStep = ComputeType<E>::lanes;
  constexpr int64_t kGradSize = (kConvRows + 2) * kConvPitch, kSize = kConvRows * kConvColumns;
  if constexpr (kRows * kChannels > 12) return;  // more than registers hold: never asked for
  for (int t = 0; t < kTaps; ++t) {
    const int opposite = kTaps - 1 - t;
    V sum[kRows][kChannels] = {};
    for (int64_t r = 0; r < rows; ++r) {
      const E* from = grad + (r + opposite / 3) * kConvPitch + opposite % 3;
      const E* to = x + r * kConvColumns;
      const int32_t* same = masks.same[r][opposite];
      for (int64_t j = 0; j < columns; j += kStep) {
        V y[kChannels];
        for (int s = 0; s < kChannels; ++s) y[s] = keep(load(to + s * kSize + j), same + j);
        for (int o = 0; o < kRows; ++o) {
          const V g = held(load(from + o * kGradSize + j));
          for (int s = 0; s < kChannels; ++s) sum[o][s] += g * y[s];
        }
      }
    }
    for (int o = 0; o < kRows; ++o) {
      for (int s = 0; s < kChannels; ++s) {
        sums[(o * channels + s) * kTaps + t] += ECGAN_ISA::sum(sum[o][s]);
      }
    }
  }
}

template <int kRows, class E>
void product_group(Count<kRows>, const ConvTile& tile, const ConvProduct& p, int64_t first,
                   const E* x, const Masks& masks) {
  with_type(p.x.dtype, [&](auto zero) {
    using T = decltype(zero);
    if constexpr (sizeof(typename ComputeType<T>::element) == sizeof(E)) {
      product_rows<kRows, T>(tile, p, first, x, masks);
    }
  });
}

int64_t align(int64_t bytes) {
  return (bytes + 63) / 64 * 64;
}

template <class E>
void product(const ConvTile& tile, const ConvProduct& p, void* scratch) {
  Masks& masks = *static_cast<Masks*>(scratch);
  E* x = reinterpret_cast<E*>(static_cast<char*>(scratch) + align(sizeof(Masks)));
  fill_masks(tile, &masks);
  pack_image(p.x, tile, 1, kConvPitch, p.slope, x);
  for (int64_t o = 0, n; o < p.outputs; o += n) {
    n = group(p.outputs - o);
    with_group(n, [&](auto rows) { product_group(rows, tile, p, o, x, masks); });
  }
}

template <class E>
void weights(const ConvTile& tile, const ConvWeights& w, void* scratch) {
  constexpr int64_t kGradSize = (kConvRows + 2) * kConvPitch;
  Masks& masks = *static_cast<Masks*>(scratch);
  E* grad = reinterpret_cast<E*>(static_cast<char*>(scratch) + align(sizeof(Masks)));
  E* x = grad + w.grad.channels * kGradSize;
  const auto smaller = [](int64_t a, int64_t b) { return a < b ? a : b; };
  const int64_t rows = smaller(kConvRows, tile.height - tile.row);
  const int64_t columns = smaller(kConvColumns, tile.width - tile.column);
  pack_image(w.grad, tile, 1, kConvPitch, 1.0, grad);
  if (w.bias_sums) {
    for (int64_t o = 0; o < w.grad.channels; ++o) {
      typename ComputeType<E>::type total = {};
      for (int64_t r = 0; r < rows; ++r) {
        const E* from = grad + o * kGradSize + (r + 1) * kConvPitch + 1;
        int64_t j = 0;
        for (; j + ComputeType<E>::lanes <= columns; j += ComputeType<E>::lanes) {
          total += load(from + j);
        }
        Tail<E> tail = Tail<E>::of(from + j, columns - j);
        total += load(tail.data);
      }
      static_cast<E*>(w.bias_sums)[o] += sum(total);
    }
  }
  if (!w.weight_sums) return;
  fill_masks(tile, &masks);
  pack_image(w.x, tile, 0, kConvColumns, w.slope, x);
  const int64_t channels = w.x.channels;
  for (int64_t o = 0, n; o < w.grad.channels; o += n) {
    n = group(w.grad.channels - o);
    const int64_t most = n == 4 ? 3 : 4;  // 4 x 3 sums or 3 x 4
    for (int64_t c = 0, m; c < channels; c += m) {
      const int64_t left = channels - c;
      m = left <= most ? left : left == most + 1 ? 2 : most;  // no single one left over
      E* to = static_cast<E*>(w.weight_sums) + (o * channels + c) * kTaps;
      with_group(n, [&](auto outputs) {
        with_group(m, [&](auto inputs) {
          correlate(outputs, inputs, grad + o * kGradSize, x + c * kConvRows * kConvColumns, masks,
                    rows, columns, to, channels);
        });
      });
    }
  }
}

template <class E>
void pack_weights(const E* weight, int64_t outputs, int64_t channels, bool turned, E* packed) {
  for (int64_t o = 0, n; o < outputs; o += n) {
    n = group(outputs - o);
    for (int64_t c = 0; c < channels; ++c) {
      for (int64_t t = 0; t < kTaps; ++t) {
        for (int64_t r = 0; r < n; ++r) {
          *packed++ = turned ? weight[(c * outputs + o + r) * kTaps + kTaps - 1 - t]
                             : weight[((o + r) * channels + c) * kTaps + t];
        }
      }
    }
  }
}

}  // namespace

void class_conv2d_pack(const void* weight, int64_t outputs, int64_t channels, bool turned,
                       bool use_double, void* packed) {
  if (use_double) {
    pack_weights(static_cast<const double*>(weight), outputs, channels, turned,
                 static_cast<double*>(packed));
  } else {
    pack_weights(static_cast<const float*>(weight), outputs, channels, turned,
                 static_cast<float*>(packed));
  }
}

int64_t class_conv2d_scratch(int64_t channels, bool use_double) {
  const int64_t pixels = (kConvRows + 2) * kConvPitch;
  return align(sizeof(Masks)) + channels * pixels * (use_double ? 8 : 4);
}

void class_conv2d_product(const ConvTile& tile, const ConvProduct& p, void* scratch) {
  p.x.dtype == DType::f64 ? product<double>(tile, p, scratch) : product<float>(tile, p, scratch);
}

void class_conv2d_weights(const ConvTile& tile, const ConvWeights& w, void* scratch) {
  w.x.dtype == DType::f64 ? weights<double>(tile, w, scratch) : weights<float>(tile, w, scratch);
}

}  // namespace ecgan::ECGAN_ISA
