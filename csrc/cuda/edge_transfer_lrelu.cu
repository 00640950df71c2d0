// Memory bound: forward reads two tensors and writes two, backward reads four and writes two. So
// each is one pass with 16-byte accesses where all tensors are dense and alike, and one pass by
// strides where they are not.
#include "../common/device.h"
#include "edge_transfer_lrelu.h"
#include "launch.h"
#include "scalar.h"

namespace ecgan::cuda {
namespace {

struct Pair {
  float image, edge;
};

// The larger of x and a x is LeakyReLU, as a <= 1.
__device__ inline Pair transfer(float image, float edge, float slope) {
  const float y = image * gate(edge).gain;
  return {fmaxf(y, slope * y), fmaxf(edge, slope * edge)};
}

// grad_image = gx l(image_out) (1 + s),  grad_edge = gx image_out s (1 - s) / (1 + s)
// + ge l(edge_out), with l(y) = 1 where y > 0 and else a, s = sigmoid(edge_out / l(edge_out));
// gx, ge: the incoming gradients; inverse = 1 / a. Without gx its term is 0, even beside a NaN.
__device__ inline Pair transfer_gradients(bool from_image, float gx, float ge, float image_out,
                                          float edge_out, float slope, float inverse) {
  const Gate s = gate(edge_out * leaky_derivative(edge_out, inverse));
  const float through_image = from_image ? gx * image_out * s.rate : 0.0f;
  return {gx * leaky_derivative(image_out, slope) * s.gain,
          through_image + ge * leaky_derivative(edge_out, slope)};
}

template <typename T>
__global__ void __launch_bounds__(kThreads) forward_packed(const T* __restrict__ image,  // [numel]
                                                           const T* __restrict__ edge,   // [numel]
                                                           T* __restrict__ image_out,    // [numel]
                                                           T* __restrict__ edge_out,     // [numel]
                                                           int64_t numel, float slope) {
  constexpr int kSize = Pack<T>::kSize;
  const int64_t thread = int64_t{blockIdx.x} * blockDim.x + threadIdx.x;
  const int64_t stride = int64_t{gridDim.x} * blockDim.x;
  const int64_t packs = numel / kSize;
  for (int64_t i = thread; i < packs; i += stride) {
    const Pack<T> x = load_pack(image + i * kSize);
    const Pack<T> e = load_pack(edge + i * kSize);
    Pack<T> y, f;
#pragma unroll
    for (int k = 0; k < kSize; ++k) {
      const Pair out = transfer(to_float(x.at[k]), to_float(e.at[k]), slope);
      y.at[k] = from_float<T>(out.image);
      f.at[k] = from_float<T>(out.edge);
    }
    store_pack(image_out + i * kSize, y);
    store_pack(edge_out + i * kSize, f);
  }
  const int64_t last = packs * kSize + thread;  // the fewer than kSize elements of the tail
  if (last < numel) {
    const Pair out = transfer(to_float(image[last]), to_float(edge[last]), slope);
    image_out[last] = from_float<T>(out.image);
    edge_out[last] = from_float<T>(out.edge);
  }
}

template <typename T>
__global__ void __launch_bounds__(kThreads)
    forward_strided(const T* __restrict__ image,  // strides 0
                    const T* __restrict__ edge,   // strides 1
                    T* __restrict__ image_out,    // strides 2
                    T* __restrict__ edge_out,     // strides 3
                    Strided<4> layout, float slope) {
  const int64_t stride = int64_t{gridDim.x} * blockDim.x;
  for (int64_t i = int64_t{blockIdx.x} * blockDim.x + threadIdx.x; i < layout.numel; i += stride) {
    int64_t at[4];
    layout.offsets(i, at);
    const Pair out = transfer(to_float(image[at[0]]), to_float(edge[at[1]]), slope);
    image_out[at[2]] = from_float<T>(out.image);
    edge_out[at[3]] = from_float<T>(out.edge);
  }
}

// grad_image = gx l(image_out) (1 + s),  grad_edge = gx image_out s (1 - s) / (1 + s)
// + ge l(edge_out); see transfer_gradients.
template <typename T>
__global__ void __launch_bounds__(kThreads)
    backward_packed(const T* __restrict__ grad_image_out,  // [numel], or null: zero
                    const T* __restrict__ grad_edge_out,   // [numel], or null: zero
                    const T* __restrict__ image_out,       // [numel]
                    const T* __restrict__ edge_out,        // [numel]
                    T* __restrict__ grad_image,            // [numel] or null
                    T* __restrict__ grad_edge,             // [numel] or null
                    int64_t numel, float slope, float inverse) {
  constexpr int kSize = Pack<T>::kSize;
  const int64_t thread = int64_t{blockIdx.x} * blockDim.x + threadIdx.x;
  const int64_t stride = int64_t{gridDim.x} * blockDim.x;
  const int64_t packs = numel / kSize;
  Pack<T> zero;
#pragma unroll
  for (int k = 0; k < kSize; ++k) zero.at[k] = from_float<T>(0.0f);
  for (int64_t i = thread; i < packs; i += stride) {
    const Pack<T> gx = grad_image_out ? load_pack(grad_image_out + i * kSize) : zero;
    const Pack<T> y = grad_image_out ? load_pack(image_out + i * kSize) : zero;
    const Pack<T> ge = grad_edge_out ? load_pack(grad_edge_out + i * kSize) : zero;
    const Pack<T> f = load_pack(edge_out + i * kSize);
    Pack<T> dx, de;
#pragma unroll
    for (int k = 0; k < kSize; ++k) {
      const Pair d =
          transfer_gradients(grad_image_out != nullptr, to_float(gx.at[k]), to_float(ge.at[k]),
                             to_float(y.at[k]), to_float(f.at[k]), slope, inverse);
      dx.at[k] = from_float<T>(d.image);
      de.at[k] = from_float<T>(d.edge);
    }
    if (grad_image) store_pack(grad_image + i * kSize, dx);
    if (grad_edge) store_pack(grad_edge + i * kSize, de);
  }
  const int64_t last = packs * kSize + thread;  // the fewer than kSize elements of the tail
  if (last < numel) {
    const float gx = grad_image_out ? to_float(grad_image_out[last]) : 0.0f;
    const float y = grad_image_out ? to_float(image_out[last]) : 0.0f;
    const float ge = grad_edge_out ? to_float(grad_edge_out[last]) : 0.0f;
    const Pair d = transfer_gradients(grad_image_out != nullptr, gx, ge, y,
                                      to_float(edge_out[last]), slope, inverse);
    if (grad_image) grad_image[last] = from_float<T>(d.image);
    if (grad_edge) grad_edge[last] = from_float<T>(d.edge);
  }
}

// grad_image = gx l(image_out) (1 + s),  grad_edge = gx image_out s (1 - s) / (1 + s)
// + ge l(edge_out); see transfer_gradients.
template <typename T>
__global__ void __launch_bounds__(kThreads)
    backward_strided(const T* __restrict__ grad_image_out,  // strides 0, or null: zero
                     const T* __restrict__ grad_edge_out,   // strides 1, or null: zero
                     const T* __restrict__ image_out,       // strides 2
                     const T* __restrict__ edge_out,        // strides 3
                     T* __restrict__ grad_image,            // strides 4, or null
                     T* __restrict__ grad_edge,             // strides 5, or null
                     Strided<6> layout, float slope, float inverse) {
  const int64_t stride = int64_t{gridDim.x} * blockDim.x;
  for (int64_t i = int64_t{blockIdx.x} * blockDim.x + threadIdx.x; i < layout.numel; i += stride) {
    int64_t at[6];
    layout.offsets(i, at);
    const float gx = grad_image_out ? to_float(grad_image_out[at[0]]) : 0.0f;
    const float y = grad_image_out ? to_float(image_out[at[2]]) : 0.0f;
    const float ge = grad_edge_out ? to_float(grad_edge_out[at[1]]) : 0.0f;
    const Pair d = transfer_gradients(grad_image_out != nullptr, gx, ge, y,
                                      to_float(edge_out[at[3]]), slope, inverse);
    if (grad_image) grad_image[at[4]] = from_float<T>(d.image);
    if (grad_edge) grad_edge[at[5]] = from_float<T>(d.edge);
  }
}

}  // namespace

void edge_transfer_lrelu(const void* image, const void* edge, void* image_out, void* edge_out,
                         const Strided<4>& layout, DType dtype, double negative_slope,
                         void* stream) {
  constexpr const char* kOp = "edge_transfer_lrelu";
  if (layout.numel == 0) return;
  const auto slope = static_cast<float>(negative_slope);
  dispatch_dtype(kOp, dtype, [&](auto scalar) {
    using T = decltype(scalar);
    const auto *x = static_cast<const T*>(image), *e = static_cast<const T*>(edge);
    auto *y = static_cast<T*>(image_out), *f = static_cast<T*>(edge_out);
    if (layout.contiguous() && pack_aligned(x, e, y, f)) {
      const int64_t packs = (layout.numel + Pack<T>::kSize - 1) / Pack<T>::kSize;
      launch(kOp, forward_packed<T>, elementwise_blocks(packs), kThreads, 0, stream, x, e, y, f,
             layout.numel, slope);
    } else {
      launch(kOp, forward_strided<T>, elementwise_blocks(layout.numel), kThreads, 0, stream, x, e,
             y, f, layout, slope);
    }
  });
}

void edge_transfer_lrelu_backward(const void* grad_image_out, const void* grad_edge_out,
                                  const void* image_out, const void* edge_out, void* grad_image,
                                  void* grad_edge, const Strided<6>& layout, DType dtype,
                                  double negative_slope, void* stream) {
  constexpr const char* kOp = "edge_transfer_lrelu_backward";
  if (layout.numel == 0 || (!grad_image && !grad_edge)) return;
  const auto slope = static_cast<float>(negative_slope);
  // Of the slope as it was rounded for the forward pass. Below 1e-38 something finite, since 0
  // times infinity would be NaN.
  const float inverse = 1.0f / (slope < 1e-38f ? 1e-38f : slope);
  dispatch_dtype(kOp, dtype, [&](auto scalar) {
    using T = decltype(scalar);
    const auto* gx = static_cast<const T*>(grad_image_out);
    const auto* ge = static_cast<const T*>(grad_edge_out);
    const auto *y = static_cast<const T*>(image_out), *f = static_cast<const T*>(edge_out);
    auto *dx = static_cast<T*>(grad_image), *de = static_cast<T*>(grad_edge);
    if (layout.contiguous() && pack_aligned(gx, ge, y, f, dx, de)) {
      const int64_t packs = (layout.numel + Pack<T>::kSize - 1) / Pack<T>::kSize;
      launch(kOp, backward_packed<T>, elementwise_blocks(packs), kThreads, 0, stream, gx, ge, y, f,
             dx, de, layout.numel, slope, inverse);
    } else {
      launch(kOp, backward_strided<T>, elementwise_blocks(layout.numel), kThreads, 0, stream, gx,
             ge, y, f, dx, de, layout, slope, inverse);
    }
  });
}

}  // namespace ecgan::cuda
