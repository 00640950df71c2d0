// The stream that a CUDA operator is to use.
#pragma once

#include <dlfcn.h>
#include <torch/csrc/stable/tensor.h>
#include <torch/headeronly/util/Exception.h>

namespace ecgan {

using GetCudaStream = AOTITorchError (*)(int32_t device_index, void** stream);

// Looked up in torch's CUDA library, which is there already: this one then builds, and loads for
// inspection, beside a CPU build of torch. A weak symbol would stay null beside any torch, since
// Python loads torch's libraries where no other library's symbols are resolved.
inline GetCudaStream find_get_cuda_stream() {
  void* const library = dlopen("libtorch_cuda.so", RTLD_LAZY | RTLD_NOLOAD);
  if (!library) return nullptr;
  return reinterpret_cast<GetCudaStream>(dlsym(library, "aoti_torch_get_current_cuda_stream"));
}

inline void* current_cuda_stream(int32_t device_index) {
  static const GetCudaStream get = find_get_cuda_stream();
  STD_TORCH_CHECK(get, "this torch is not a CUDA build");
  void* stream = nullptr;
  TORCH_ERROR_CODE_CHECK(get(device_index, &stream));
  return stream;
}

}  // namespace ecgan
