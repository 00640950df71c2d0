#include "edge_transfer_simd.h"

#include "../common/simd.h"

namespace ecgan::ECGAN_ISA {
namespace {

template <Activation A, class V>
ECGAN_SIMD ValueAndDerivative<V> activate(V x) {
  if constexpr (A == Activation::tanh) return tanh_with_derivative(x);
  return {x, V{} + 1};
}

template <class T, Activation A>
void forward(const T* image, const T* edge, T* out, int64_t n) {
  using V = typename ComputeType<T>::type;
  constexpr int kStep = ComputeType<T>::lanes;
  int64_t i = 0;
  for (; i + kStep <= n; i += kStep) {
    const V x = activate<A>(load(image + i)).value;
    const V e = activate<A>(load(edge + i)).value;
    const Gate<V> s = gate(e);
    // Not x + x * s: inf must not meet s = 0.
    store(out + i, x * (s.numerator / s.denominator));
  }
  if (i < n) {
    const int64_t rest = n - i;
    const auto x = Tail<T>::of(image + i, rest), e = Tail<T>::of(edge + i, rest);
    Tail<T> y;
    forward<T, A>(x.data, e.data, y.data, kStep);
    y.copy_to(out + i, rest);
  }
}

template <class T, Activation A, bool kImage, bool kEdge>
void backward(const T* grad, const T* image, const T* edge, T* grad_image, T* grad_edge,
              int64_t n) {
  using V = typename ComputeType<T>::type;
  constexpr int kStep = ComputeType<T>::lanes;
  int64_t i = 0;
  for (; i + kStep <= n; i += kStep) {
    const V g = load(grad + i);
    const auto x = activate<A>(load(image + i));
    const auto e = activate<A>(load(edge + i));
    const Gate<V> s = gate(e.value);
    const V r = 1 / s.denominator;
    if constexpr (kImage) store(grad_image + i, g * (s.numerator * r) * x.derivative);
    if constexpr (kEdge) store(grad_edge + i, g * x.value * (s.small * r * r) * e.derivative);
  }
  if (i < n) {
    const int64_t rest = n - i;
    const auto g = Tail<T>::of(grad + i, rest);
    const auto x = Tail<T>::of(image + i, rest), e = Tail<T>::of(edge + i, rest);
    Tail<T> dx, de;
    backward<T, A, kImage, kEdge>(g.data, x.data, e.data, dx.data, de.data, kStep);
    if constexpr (kImage) dx.copy_to(grad_image + i, rest);
    if constexpr (kEdge) de.copy_to(grad_edge + i, rest);
  }
}

}  // namespace

void edge_transfer_run(const void* image, const void* edge, void* out, int64_t n, DType dtype,
                       Activation activation) {
  with_type(dtype, [&](auto zero) {
    using T = decltype(zero);
    const auto f = activation == Activation::tanh ? forward<T, Activation::tanh>
                                                  : forward<T, Activation::none>;
    f(static_cast<const T*>(image), static_cast<const T*>(edge), static_cast<T*>(out), n);
  });
}

void edge_transfer_backward_run(const void* grad, const void* image, const void* edge,
                                void* grad_image, void* grad_edge, int64_t n, DType dtype,
                                Activation activation) {
  with_type(dtype, [&](auto zero) {
    using T = decltype(zero);
    constexpr auto kTanh = Activation::tanh, kNone = Activation::none;
    const bool tanh = activation == kTanh;
    const auto f =
        !grad_edge    ? (tanh ? backward<T, kTanh, true, false> : backward<T, kNone, true, false>)
        : !grad_image ? (tanh ? backward<T, kTanh, false, true> : backward<T, kNone, false, true>)
                      : (tanh ? backward<T, kTanh, true, true> : backward<T, kNone, true, true>);
    f(static_cast<const T*>(grad), static_cast<const T*>(image), static_cast<const T*>(edge),
      static_cast<T*>(grad_image), static_cast<T*>(grad_edge), n);
  });
}

}  // namespace ecgan::ECGAN_ISA
