// Walks the elements of several strided tensors as contiguous runs.
#pragma once

#include <cstdint>
#include <cstring>

#include "../common/strided.h"
#include "../common/types.h"

namespace ecgan::cpu {

template <int Tensors>
struct Pointers {
  char* at[Tensors];
};

// As Pointers holds tensors that are read, too.
inline char* bytes(const void* p) {
  return static_cast<char*>(const_cast<void*>(p));
}

// Elements gathered at a time where strides leave no long run: six tensors of double fit the
// first-level cache.
constexpr int64_t kBlock = 256;

// Copies n elements between a run and a strided tensor's elements from index `begin` on.
template <class T, bool kGather, int Tensors>
void copy_strided(const Strided<Tensors>& layout, int tensor, char* strided, char* run,
                  int64_t begin, int64_t n) {
  int64_t coordinate[kMaxDims], offset = 0;
  for (int d = 0; d < layout.ndim; ++d) {
    coordinate[d] = begin % layout.size[d];
    begin /= layout.size[d];
    offset += coordinate[d] * layout.stride[tensor][d];
  }
  for (int64_t i = 0; i < n; ++i) {
    char* element = strided + offset * static_cast<int64_t>(sizeof(T));
    if constexpr (kGather) {
      std::memcpy(run + i * sizeof(T), element, sizeof(T));
    } else {
      std::memcpy(element, run + i * sizeof(T), sizeof(T));
    }
    for (int d = 0; d < layout.ndim; ++d) {  // odometer: mostly one turn
      offset += layout.stride[tensor][d];
      if (++coordinate[d] < layout.size[d]) break;
      coordinate[d] = 0;
      offset -= layout.size[d] * layout.stride[tensor][d];
    }
  }
}

// Calls run(pointers, n) on runs that together cover elements [begin, end) of a coalesced layout.
// In each call every tensor is n elements in a row: the tensors themselves where the fastest
// dimension allows, else buffers that are gathered before and, from tensor kInputs on, scattered
// after. T is any type of the elements' size. Null tensors stay null.
template <class T, int kInputs, int Tensors, class Run>
void for_each_run(const Strided<Tensors>& layout, Pointers<Tensors> data, int64_t begin,
                  int64_t end, Run run) {
  bool dense = true;
  for (int t = 0; t < Tensors; ++t) dense = dense && layout.stride[t][0] == 1;
  if (layout.ndim == 0 || (dense && (layout.ndim == 1 || layout.size[0] >= kBlock))) {
    while (begin < end) {
      int64_t offset[Tensors], n = end - begin;
      layout.offsets(begin, offset);
      if (layout.ndim > 1) {
        const int64_t left = layout.size[0] - begin % layout.size[0];
        n = n < left ? n : left;
      }
      Pointers<Tensors> now;
      for (int t = 0; t < Tensors; ++t) {
        now.at[t] = data.at[t] ? data.at[t] + offset[t] * static_cast<int64_t>(sizeof(T)) : nullptr;
      }
      run(now, n);
      begin += n;
    }
    return;
  }
  alignas(64) T buffer[Tensors][kBlock];
  Pointers<Tensors> buffers;
  for (int t = 0; t < Tensors; ++t) {
    buffers.at[t] = data.at[t] ? reinterpret_cast<char*>(buffer[t]) : nullptr;
  }
  for (; begin < end; begin += kBlock) {
    const int64_t n = end - begin < kBlock ? end - begin : kBlock;
    for (int t = 0; t < kInputs; ++t) {
      if (data.at[t]) copy_strided<T, true>(layout, t, data.at[t], buffers.at[t], begin, n);
    }
    run(buffers, n);
    for (int t = kInputs; t < Tensors; ++t) {
      if (data.at[t]) copy_strided<T, false>(layout, t, data.at[t], buffers.at[t], begin, n);
    }
  }
}

// With T as wide as dtype.
template <int kInputs, int Tensors, class Run>
void for_each_run(const Strided<Tensors>& layout, const Pointers<Tensors>& data, DType dtype,
                  int64_t begin, int64_t end, Run run) {
  switch (dtype) {
    case DType::f32:
      return for_each_run<float, kInputs>(layout, data, begin, end, run);
    case DType::f16:
    case DType::bf16:
      return for_each_run<uint16_t, kInputs>(layout, data, begin, end, run);
    case DType::f64:
      return for_each_run<double, kInputs>(layout, data, begin, end, run);
  }
}

}  // namespace ecgan::cpu
