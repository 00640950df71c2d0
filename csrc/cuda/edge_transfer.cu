// Memory bound: forward reads two tensors and writes one, backward reads three and writes two. So
// each operator is one pass with 16-byte accesses where all tensors are dense and alike, and one
// pass by strides where they are not.
#include "../common/device.h"
#include "edge_transfer.h"
#include "launch.h"
#include "scalar.h"

namespace ecgan::cuda {
namespace {

template <Activation A>
__device__ inline float transfer(float image, float edge) {
  if constexpr (A == Activation::tanh) {
    image = tanhf(image);
    edge = tanhf(edge);
  }
  return image * (1.0f + sigmoid(edge).value);
}

struct Gradients {
  float image, edge;
};

// grad_image = grad (1 + s) a'(image),  grad_edge = grad a(image) s (1 - s) a'(edge),
// with a = identity or tanh, s = sigmoid(a(edge)), tanh' = 1 - tanh^2.
template <Activation A>
__device__ inline Gradients transfer_gradients(float grad, float image, float edge) {
  float image_slope = 1.0f;
  float edge_slope = 1.0f;
  if constexpr (A == Activation::tanh) {
    image = tanhf(image);
    edge = tanhf(edge);
    image_slope = 1.0f - image * image;
    edge_slope = 1.0f - edge * edge;
  }
  const Sigmoid s = sigmoid(edge);
  return {grad * (1.0f + s.value) * image_slope, grad * image * s.slope * edge_slope};
}

template <typename T, Activation A>
__global__ void __launch_bounds__(kThreads) forward_packed(const T* __restrict__ image,  // [numel]
                                                           const T* __restrict__ edge,   // [numel]
                                                           T* __restrict__ out,          // [numel]
                                                           int64_t numel) {
  constexpr int kSize = Pack<T>::kSize;
  const int64_t thread = int64_t{blockIdx.x} * blockDim.x + threadIdx.x;
  const int64_t stride = int64_t{gridDim.x} * blockDim.x;
  const int64_t packs = numel / kSize;
  for (int64_t i = thread; i < packs; i += stride) {
    const Pack<T> x = load_pack(image + i * kSize);
    const Pack<T> e = load_pack(edge + i * kSize);
    Pack<T> y;
#pragma unroll
    for (int k = 0; k < kSize; ++k) {
      y.at[k] = from_float<T>(transfer<A>(to_float(x.at[k]), to_float(e.at[k])));
    }
    store_pack(out + i * kSize, y);
  }
  const int64_t last = packs * kSize + thread;  // the fewer than kSize elements of the tail
  if (last < numel)
    out[last] = from_float<T>(transfer<A>(to_float(image[last]), to_float(edge[last])));
}

template <typename T, Activation A>
__global__ void __launch_bounds__(kThreads)
    forward_strided(const T* __restrict__ image,  // strides 0
                    const T* __restrict__ edge,   // strides 1
                    T* __restrict__ out,          // strides 2
                    Strided<3> layout) {
  const int64_t stride = int64_t{gridDim.x} * blockDim.x;
  for (int64_t i = int64_t{blockIdx.x} * blockDim.x + threadIdx.x; i < layout.numel; i += stride) {
    int64_t at[3];
    layout.offsets(i, at);
    out[at[2]] = from_float<T>(transfer<A>(to_float(image[at[0]]), to_float(edge[at[1]])));
  }
}

// grad_image = grad (1 + s) a'(image),  grad_edge = grad a(image) s (1 - s) a'(edge)
template <typename T, Activation A>
__global__ void __launch_bounds__(kThreads)
    backward_packed(const T* __restrict__ grad,   // [numel]
                    const T* __restrict__ image,  // [numel]
                    const T* __restrict__ edge,   // [numel]
                    T* __restrict__ grad_image,   // [numel] or null
                    T* __restrict__ grad_edge,    // [numel] or null
                    int64_t numel) {
  constexpr int kSize = Pack<T>::kSize;
  const bool reads_image = A == Activation::tanh || grad_edge != nullptr;
  const int64_t thread = int64_t{blockIdx.x} * blockDim.x + threadIdx.x;
  const int64_t stride = int64_t{gridDim.x} * blockDim.x;
  const int64_t packs = numel / kSize;
  for (int64_t i = thread; i < packs; i += stride) {
    const Pack<T> g = load_pack(grad + i * kSize);
    const Pack<T> e = load_pack(edge + i * kSize);
    const Pack<T> x = reads_image ? load_pack(image + i * kSize) : e;
    Pack<T> dx, de;
#pragma unroll
    for (int k = 0; k < kSize; ++k) {
      const Gradients d =
          transfer_gradients<A>(to_float(g.at[k]), to_float(x.at[k]), to_float(e.at[k]));
      dx.at[k] = from_float<T>(d.image);
      de.at[k] = from_float<T>(d.edge);
    }
    if (grad_image) store_pack(grad_image + i * kSize, dx);
    if (grad_edge) store_pack(grad_edge + i * kSize, de);
  }
  const int64_t last = packs * kSize + thread;  // the fewer than kSize elements of the tail
  if (last < numel) {
    const Gradients d =
        transfer_gradients<A>(to_float(grad[last]), to_float(image[last]), to_float(edge[last]));
    if (grad_image) grad_image[last] = from_float<T>(d.image);
    if (grad_edge) grad_edge[last] = from_float<T>(d.edge);
  }
}

// grad_image = grad (1 + s) a'(image),  grad_edge = grad a(image) s (1 - s) a'(edge)
template <typename T, Activation A>
__global__ void __launch_bounds__(kThreads)
    backward_strided(const T* __restrict__ grad,   // strides 0
                     const T* __restrict__ image,  // strides 1
                     const T* __restrict__ edge,   // strides 2
                     T* __restrict__ grad_image,   // strides 3, or null
                     T* __restrict__ grad_edge,    // strides 4, or null
                     Strided<5> layout) {
  const int64_t stride = int64_t{gridDim.x} * blockDim.x;
  for (int64_t i = int64_t{blockIdx.x} * blockDim.x + threadIdx.x; i < layout.numel; i += stride) {
    int64_t at[5];
    layout.offsets(i, at);
    const Gradients d =
        transfer_gradients<A>(to_float(grad[at[0]]), to_float(image[at[1]]), to_float(edge[at[2]]));
    if (grad_image) grad_image[at[3]] = from_float<T>(d.image);
    if (grad_edge) grad_edge[at[4]] = from_float<T>(d.edge);
  }
}

template <typename T, Activation A>
void forward(const T* image, const T* edge, T* out, const Strided<3>& layout, void* stream) {
  constexpr const char* kOp = "edge_transfer";
  if (layout.contiguous() && pack_aligned(image, edge, out)) {
    const int64_t packs = (layout.numel + Pack<T>::kSize - 1) / Pack<T>::kSize;
    launch(kOp, forward_packed<T, A>, elementwise_blocks(packs), kThreads, 0, stream, image, edge,
           out, layout.numel);
  } else {
    launch(kOp, forward_strided<T, A>, elementwise_blocks(layout.numel), kThreads, 0, stream, image,
           edge, out, layout);
  }
}

template <typename T, Activation A>
void backward(const T* grad, const T* image, const T* edge, T* grad_image, T* grad_edge,
              const Strided<5>& layout, void* stream) {
  constexpr const char* kOp = "edge_transfer_backward";
  if (layout.contiguous() && pack_aligned(grad, image, edge, grad_image, grad_edge)) {
    const int64_t packs = (layout.numel + Pack<T>::kSize - 1) / Pack<T>::kSize;
    launch(kOp, backward_packed<T, A>, elementwise_blocks(packs), kThreads, 0, stream, grad, image,
           edge, grad_image, grad_edge, layout.numel);
  } else {
    launch(kOp, backward_strided<T, A>, elementwise_blocks(layout.numel), kThreads, 0, stream, grad,
           image, edge, grad_image, grad_edge, layout);
  }
}

}  // namespace

void edge_transfer(const void* image, const void* edge, void* out, const Strided<3>& layout,
                   DType dtype, Activation activation, void* stream) {
  if (layout.numel == 0) return;
  dispatch_dtype("edge_transfer", dtype, [&](auto scalar) {
    using T = decltype(scalar);
    const auto run = activation == Activation::tanh ? forward<T, Activation::tanh>
                                                    : forward<T, Activation::none>;
    run(static_cast<const T*>(image), static_cast<const T*>(edge), static_cast<T*>(out), layout,
        stream);
  });
}

void edge_transfer_backward(const void* grad, const void* image, const void* edge, void* grad_image,
                            void* grad_edge, const Strided<5>& layout, DType dtype,
                            Activation activation, void* stream) {
  if (layout.numel == 0 || (!grad_image && !grad_edge)) return;
  dispatch_dtype("edge_transfer_backward", dtype, [&](auto scalar) {
    using T = decltype(scalar);
    const auto run = activation == Activation::tanh ? backward<T, Activation::tanh>
                                                    : backward<T, Activation::none>;
    run(static_cast<const T*>(grad), static_cast<const T*>(image), static_cast<const T*>(edge),
        static_cast<T*>(grad_image), static_cast<T*>(grad_edge), layout, stream);
  });
}

}  // namespace ecgan::cuda
