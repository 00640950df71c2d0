#include "edge_transfer_lrelu_simd.h"

#include "../common/simd.h"

namespace ecgan::ECGAN_ISA {
namespace {

template <class T>
using Element = typename ComputeType<T>::element;

template <class T>
void forward(const T* image, const T* edge, T* image_out, T* edge_out, int64_t n,
             Element<T> slope) {
  using V = typename ComputeType<T>::type;
  constexpr int kStep = ComputeType<T>::lanes;
  int64_t i = 0;
  for (; i + kStep <= n; i += kStep) {
    const V x = load(image + i), e = load(edge + i);
    const Gate<V> s = gate(e);
    const V y = x * (s.numerator / s.denominator);
    store(image_out + i, maximum(y, slope * y));  // the larger of the two, as slope <= 1
    store(edge_out + i, maximum(e, slope * e));
  }
  if (i < n) {
    const int64_t rest = n - i;
    const auto x = Tail<T>::of(image + i, rest), e = Tail<T>::of(edge + i, rest);
    Tail<T> y, f;
    forward<T>(x.data, e.data, y.data, f.data, kStep, slope);
    y.copy_to(image_out + i, rest);
    f.copy_to(edge_out + i, rest);
  }
}

// grad_image = gx l(image_out) (1 + s),  grad_edge = gx image_out s (1 - s) / (1 + s)
// + ge l(edge_out), with l(y) = 1 where y > 0 and else a; gx, ge: the incoming gradients.
template <class T, bool kImage, bool kEdge, bool kFromImage, bool kFromEdge>
void backward(const T* grad_image_out, const T* grad_edge_out, const T* image_out,
              const T* edge_out, T* grad_image, T* grad_edge, int64_t n, Element<T> slope,
              Element<T> inverse) {
  using V = typename ComputeType<T>::type;
  constexpr int kStep = ComputeType<T>::lanes;
  int64_t i = 0;
  for (; i + kStep <= n; i += kStep) {
    const V f = load(edge_out + i);
    // y > 0 and not y < 0: F.leaky_relu has the slope a at 0, where a small y may have ended too.
    V de = {};
    if constexpr (kFromEdge) de = load(grad_edge_out + i) * select(f > 0, V{} + 1, V{} + slope);
    if constexpr (kFromImage) {
      const V g = load(grad_image_out + i), y = load(image_out + i);
      const Gate<V> s = gate(f * select(f > 0, V{} + 1, V{} + inverse));
      const V r = 1 / (s.numerator * s.denominator);
      if constexpr (kImage) {
        const V gain = s.numerator * s.numerator * r;  // 1 + s
        store(grad_image + i, g * select(y > 0, V{} + 1, V{} + slope) * gain);
      }
      if constexpr (kEdge) de = kFromEdge ? g * y * (s.small * r) + de : g * y * (s.small * r);
    }
    if constexpr (kEdge) store(grad_edge + i, de);
  }
  if (i < n) {
    const int64_t rest = n - i;
    Tail<T> gx, ge, y;
    if constexpr (kFromImage) {
      gx = Tail<T>::of(grad_image_out + i, rest);
      y = Tail<T>::of(image_out + i, rest);
    }
    if constexpr (kFromEdge) ge = Tail<T>::of(grad_edge_out + i, rest);
    const auto f = Tail<T>::of(edge_out + i, rest);
    Tail<T> dx, de;
    backward<T, kImage, kEdge, kFromImage, kFromEdge>(gx.data, ge.data, y.data, f.data, dx.data,
                                                      de.data, kStep, slope, inverse);
    if constexpr (kImage) dx.copy_to(grad_image + i, rest);
    if constexpr (kEdge) de.copy_to(grad_edge + i, rest);
  }
}

}  // namespace

void edge_transfer_lrelu_run(const void* image, const void* edge, void* image_out, void* edge_out,
                             int64_t n, DType dtype, double negative_slope) {
  with_type(dtype, [&](auto zero) {
    using T = decltype(zero);
    forward<T>(static_cast<const T*>(image), static_cast<const T*>(edge),
               static_cast<T*>(image_out), static_cast<T*>(edge_out), n,
               static_cast<Element<T>>(negative_slope));
  });
}

void edge_transfer_lrelu_backward_run(const void* grad_image_out, const void* grad_edge_out,
                                      const void* image_out, const void* edge_out, void* grad_image,
                                      void* grad_edge, int64_t n, DType dtype,
                                      double negative_slope) {
  with_type(dtype, [&](auto zero) {
    using T = decltype(zero);
    // Of the slope as it was rounded for the forward pass. Below 1e-38 something finite, since 0
    // times infinity would be NaN.
    const auto slope = static_cast<Element<T>>(negative_slope);
    const auto inverse = 1 / (slope < Element<T>{1e-38f} ? Element<T>{1e-38f} : slope);
    const auto f = !grad_image_out  ? backward<T, false, true, false, true>
                   : !grad_edge     ? backward<T, true, false, true, false>
                   : !grad_edge_out ? (grad_image ? backward<T, true, true, true, false>
                                                  : backward<T, false, true, true, false>)
                                    : (grad_image ? backward<T, true, true, true, true>
                                                  : backward<T, false, true, true, true>);
    f(static_cast<const T*>(grad_image_out), static_cast<const T*>(grad_edge_out),
      static_cast<const T*>(image_out), static_cast<const T*>(edge_out),
      static_cast<T*>(grad_image), static_cast<T*>(grad_edge), n, slope, inverse);
  });
}

}  // namespace ecgan::ECGAN_ISA
