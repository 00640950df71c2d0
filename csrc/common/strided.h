// Sizes and strides of several tensors of one shape, as an elementwise kernel walks them.
// Plain C++17 for host and device. Not for the *_simd.cpp files, which are compiled once per
// instruction set and must not emit inline functions that the baseline code could be linked to.
#pragma once

#include <cstdint>

#if defined(__CUDACC__)
#define ECGAN_HOST_DEVICE __host__ __device__
#else
#define ECGAN_HOST_DEVICE
#endif

namespace ecgan {

constexpr int kMaxDims = 8;

// Dimension 0 is the fastest. Strides count elements; 0 is an expanded input. The last tensor is
// an output: dense, so its strides order the dimensions.
template <int Tensors>
struct Strided {
  int ndim = 0;
  int64_t numel = 1;
  int64_t size[kMaxDims] = {};
  int64_t stride[Tensors][kMaxDims] = {};

  // Sorts the dimensions by the last tensor's strides, drops those of size 1 and merges
  // neighbours that every tensor steps through as one. Dense tensors of one memory format end
  // with ndim <= 1, whatever their shape. Visits the same elements, in another order.
  void coalesce() {
    int kept = 0;
    for (int d = 0; d < ndim; ++d) {
      if (size[d] != 1) move(d, kept++);
    }
    ndim = kept;
    for (int d = 1; d < ndim; ++d) {  // insertion sort: at most 8 entries
      for (int i = d; i > 0 && stride[Tensors - 1][i] < stride[Tensors - 1][i - 1]; --i) {
        swap(i, i - 1);
      }
    }
    if (ndim == 0) return;
    int last = 0;
    for (int d = 1; d < ndim; ++d) {
      if (mergeable(last, d)) {
        size[last] *= size[d];
      } else {
        move(d, ++last);
      }
    }
    ndim = last + 1;
  }

  // Whether, after coalesce(), every tensor is one dense run of numel elements.
  ECGAN_HOST_DEVICE bool contiguous() const {
    if (ndim > 1) return false;
    for (int t = 0; ndim == 1 && t < Tensors; ++t) {
      if (stride[t][0] != 1) return false;
    }
    return true;
  }

  // Offset of element `index` (0 <= index < numel) in each tensor.
  ECGAN_HOST_DEVICE void offsets(int64_t index, int64_t (&offset)[Tensors]) const {
    for (int t = 0; t < Tensors; ++t) offset[t] = 0;
    for (int d = 0; d < ndim; ++d) {
      const int64_t rest = index / size[d];
      const int64_t coordinate = index - rest * size[d];
      for (int t = 0; t < Tensors; ++t) offset[t] += coordinate * stride[t][d];
      index = rest;
    }
  }

 private:
  void move(int from, int to) {
    size[to] = size[from];
    for (int t = 0; t < Tensors; ++t) stride[t][to] = stride[t][from];
  }

  void swap(int a, int b) {
    const int64_t n = size[a];
    size[a] = size[b];
    size[b] = n;
    for (int t = 0; t < Tensors; ++t) {
      const int64_t s = stride[t][a];
      stride[t][a] = stride[t][b];
      stride[t][b] = s;
    }
  }

  bool mergeable(int inner, int outer) const {
    for (int t = 0; t < Tensors; ++t) {
      if (stride[t][outer] != stride[t][inner] * size[inner]) return false;
    }
    return true;
  }
};

}  // namespace ecgan
