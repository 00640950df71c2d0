// Where a CPU kernel writes its result.
#pragma once

#include <torch/csrc/stable/tensor.h>

#include "../cpu/huge_pages.h"

namespace ecgan {

// The memory of a tensor that was just allocated and not yet written.
inline void* fresh_data(const torch::stable::Tensor& tensor) {
  void* data = tensor.mutable_data_ptr();
  cpu::advise_huge_pages(data, tensor.numel() * tensor.element_size());
  return data;
}

}  // namespace ecgan
