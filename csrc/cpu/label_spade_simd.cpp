#include "label_spade_simd.h"

#include "../common/simd.h"

#define ECGAN_INLINE __attribute__((always_inline))

namespace ecgan::ECGAN_ISA {
namespace {

// Scale and shift of `lanes` pixels: of one patch each in a mixture, of one patch in a run.
template <class V>
struct Modulation {
  V scale, shift;
};

template <class E>
struct Table {
  const E* gamma;
  const E* beta;

  template <class V>
  inline __attribute__((always_inline)) Modulation<V> run(int32_t patch) const {
    return {V{} + (1 + gamma[patch]), V{} + beta[patch]};
  }
  template <class V, int kStep>
  inline __attribute__((always_inline)) Modulation<V> mixture(const int32_t* patches) const {
    if constexpr (kStep == 1) {
      return run<V>(*patches);
    } else {
      E g[kStep], b[kStep];
      for (int i = 0; i < kStep; ++i) {
        g[i] = gamma[patches[i]];
        b[i] = beta[patches[i]];
      }
      return {1 + load(g), load(b)};
    }
  }
};

template <class V>
struct Gradient {
  V d;  // of scale * n + shift
  V n;
};

template <class V, class E>
ECGAN_SIMD V leaky(V z, E slope) {
  return select(z > 0, z, slope * z);
}

// What reaches scale * n + shift through the LeakyReLU; at 0 it takes the slope, as torch's does.
template <class V, class E>
ECGAN_SIMD Gradient<V> through(V grad, V x, const Modulation<V>& m, E mean, E rstd, E slope) {
  const V n = (x - mean) * rstd;
  return {select(n * m.scale + m.shift > 0, grad, slope * grad), n};
}

template <bool kMixed>
struct Kind {
  static constexpr bool mixed = kMixed;
};

template <class T>
struct Walk {
  using V = typename ComputeType<T>::type;
  using E = typename ComputeType<T>::element;
  static constexpr int kStep = ComputeType<T>::lanes;

  const SpadePlane& plane;
  const Table<E> table{static_cast<const E*>(plane.gamma), static_cast<const E*>(plane.beta)};
  const E mean = static_cast<E>(plane.mean), rstd = static_cast<E>(plane.rstd);
  const E slope = static_cast<E>(plane.slope);

  // Calls step(i, n, modulation, kind) on n <= kStep pixels from i on, less than kStep only where a
  // segment ends, and run_end(patch) after each run's.
  template <class Step, class RunEnd>
  inline __attribute__((always_inline)) void segments(Step step, RunEnd run_end) const {
    for (int64_t s = 0; s < plane.count; ++s) {
      int64_t i = plane.segments[2 * s];
      const int64_t length = plane.segments[2 * s + 1];
      const int64_t stop = i + (length < 0 ? -length : length);
      if (length > 0) {
        const int32_t patch = plane.inverse[i];
        const auto m = table.template run<V>(patch);
        for (; i + kStep <= stop; i += kStep) step(i, int64_t{kStep}, m, Kind<false>{});
        if (i < stop) step(i, stop - i, m, Kind<false>{});
        run_end(patch);
      } else {
        for (; i + kStep <= stop; i += kStep) {
          step(i, int64_t{kStep}, table.template mixture<V, kStep>(plane.inverse + i),
               Kind<true>{});
        }
        if (i < stop) {
          int32_t patches[kStep] = {};
          for (int64_t j = 0; j < stop - i; ++j) patches[j] = plane.inverse[i + j];
          step(i, stop - i, table.template mixture<V, kStep>(patches), Kind<true>{});
        }
      }
    }
  }
};

// The lanes beyond n are 0; where n is the constant number of lanes, no branch is left.
template <class T>
ECGAN_SIMD typename ComputeType<T>::type read(const T* p, int64_t n) {
  return n == ComputeType<T>::lanes ? load(p) : load(Tail<T>::of(p, n).data);
}
template <class T>
ECGAN_SIMD void write(T* p, int64_t n, typename ComputeType<T>::type value) {
  if (n == ComputeType<T>::lanes) {
    store(p, value);
  } else {
    Tail<T> tail;
    store(tail.data, value);
    tail.copy_to(p, n);
  }
}

constexpr int64_t kChunk = 1024;  // values of a plane whose deviations are summed from the cache

template <class T>
void moments(const T* x, int64_t pixels, double* count, double* mean, double* squares) {
  using V = typename ComputeType<T>::type;
  using E = typename ComputeType<T>::element;
  constexpr int kStep = ComputeType<T>::lanes;
  for (int64_t begin = 0; begin < pixels; begin += kChunk) {
    const int64_t n = pixels - begin < kChunk ? pixels - begin : kChunk;
    const int64_t whole = n / kStep * kStep;
    const auto tail = Tail<T>::of(x + begin + whole, n - whole);
    V a{}, b{};
    int64_t i = 0;
    for (; i + 2 * kStep <= whole; i += 2 * kStep) {
      a += load(x + begin + i);
      b += load(x + begin + i + kStep);
    }
    if (i < whole) a += load(x + begin + i);
    if (whole < n) b += load(tail.data);
    const double m = static_cast<double>(sum(a + b)) / n;
    const E center = static_cast<E>(m);
    V c{}, d{};
    for (i = 0; i + 2 * kStep <= whole; i += 2 * kStep) {
      const V u = load(x + begin + i) - center, v = load(x + begin + i + kStep) - center;
      c += u * u;
      d += v * v;
    }
    if (i < whole) {
      const V u = load(x + begin + i) - center;
      c += u * u;
    }
    double square = static_cast<double>(sum(c + d));
    for (i = 0; i < n - whole; ++i) {
      E lane[kStep] = {};
      const V u = load(tail.data) - center;
      __builtin_memcpy(lane, &u, sizeof(u));
      square += static_cast<double>(lane[i]) * lane[i];
    }
    square -= n * (m - center) * (m - center);
    // Chan's formula joins two sets of values.
    const double total = *count + n, shift = m - *mean;
    *squares += square + shift * shift * (*count / total * n);
    *mean += shift * (n / total);
    *count = total;
  }
}

template <class T>
void modulate(const SpadePlane& plane, const T* x, T* y) {
  using V = typename ComputeType<T>::type;
  const Walk<T> walk{plane};
  walk.segments(
      [&](int64_t i, int64_t n, const Modulation<V>& m, auto) ECGAN_INLINE {
        const V value = (read(x + i, n) - walk.mean) * walk.rstd * m.scale + m.shift;
        write(y + i, n, leaky(value, walk.slope));
      },
      [](int32_t) {});
}

// With d = dy * (1 or slope): dbeta[u] += sum d, dgamma[u] += sum d n over the pixels of patch u;
// the gradient of n is d (1 + gamma).
template <class T>
void sums_of(const SpadePlane& plane, const T* grad, const T* x, double* sums, double* grad_gamma,
             double* grad_beta) {
  using V = typename ComputeType<T>::type;
  using E = typename ComputeType<T>::element;
  const Walk<T> walk{plane};
  V run_d{}, run_dn{};
  double total_d = 0, total_dn = 0;
  const auto add = [&](int32_t patch, double d, double dn) ECGAN_INLINE {
    const double scale = 1 + static_cast<double>(walk.table.gamma[patch]);
    grad_beta[patch] += d;
    grad_gamma[patch] += dn;
    total_d += scale * d;
    total_dn += scale * dn;
  };
  walk.segments(
      [&](int64_t i, int64_t n, const Modulation<V>& m, auto kind) ECGAN_INLINE {
        // A zero gradient in the lanes beyond a tail adds nothing.
        const auto t =
            through(read(grad + i, n), read(x + i, n), m, walk.mean, walk.rstd, walk.slope);
        if constexpr (decltype(kind)::mixed) {
          E d[Walk<T>::kStep], dn[Walk<T>::kStep];
          store(d, t.d);
          store(dn, t.d * t.n);
          for (int64_t j = 0; j < n; ++j) add(plane.inverse[i + j], d[j], dn[j]);
        } else {
          run_d += t.d;
          run_dn += t.d * t.n;
        }
      },
      [&](int32_t patch) ECGAN_INLINE {
        add(patch, static_cast<double>(sum(run_d)), static_cast<double>(sum(run_dn)));
        run_d = run_dn = V{};
      });
  sums[0] += total_d;
  sums[1] += total_dn;
}

// dx = rstd (d (1 + gamma) - sums[0] - n sums[1])
template <class T>
void input(const SpadePlane& plane, const T* grad, const T* x, const double* sums, T* grad_x) {
  using V = typename ComputeType<T>::type;
  using E = typename ComputeType<T>::element;
  const Walk<T> walk{plane};
  const E sum_d = static_cast<E>(sums[0]), sum_dn = static_cast<E>(sums[1]);
  walk.segments(
      [&](int64_t i, int64_t n, const Modulation<V>& m, auto) ECGAN_INLINE {
        const auto t =
            through(read(grad + i, n), read(x + i, n), m, walk.mean, walk.rstd, walk.slope);
        write(grad_x + i, n, walk.rstd * (t.d * m.scale - sum_d - t.n * sum_dn));
      },
      [](int32_t) {});
}

}  // namespace

void spade_moments(const void* x, int64_t pixels, DType dtype, double* count, double* mean,
                   double* squares) {
  with_type(dtype, [&](auto zero) {
    using T = decltype(zero);
    moments(static_cast<const T*>(x), pixels, count, mean, squares);
  });
}

void spade_plane(const SpadePlane& plane, const void* x, void* y) {
  with_type(plane.dtype, [&](auto zero) {
    using T = decltype(zero);
    modulate(plane, static_cast<const T*>(x), static_cast<T*>(y));
  });
}

void spade_sums(const SpadePlane& plane, const void* grad, const void* x, double* sums,
                double* grad_gamma, double* grad_beta) {
  with_type(plane.dtype, [&](auto zero) {
    using T = decltype(zero);
    sums_of(plane, static_cast<const T*>(grad), static_cast<const T*>(x), sums, grad_gamma,
            grad_beta);
  });
}

void spade_input(const SpadePlane& plane, const void* grad, const void* x, const double* sums,
                 void* grad_x) {
  with_type(plane.dtype, [&](auto zero) {
    using T = decltype(zero);
    input(plane, static_cast<const T*>(grad), static_cast<const T*>(x), sums,
          static_cast<T*>(grad_x));
  });
}

}  // namespace ecgan::ECGAN_ISA
