// Tasks on torch's own thread pool, for kernels that know no torch.
#pragma once

#include <torch/csrc/stable/ops.h>

#include <atomic>
#include <cstdint>
#include <functional>

namespace ecgan {

// Calls task(0) ... task(count - 1), each thread taking the next one when it is done with one.
inline void run_tasks(int64_t count, const std::function<void(int64_t)>& task) {
  std::atomic<int64_t> next{0};
  const int64_t threads = torch::stable::get_num_threads();
  torch::stable::parallel_for(0, threads < count ? threads : count, 1, [&](int64_t, int64_t) {
    for (int64_t i = next++; i < count; i = next++) task(i);
  });
}

}  // namespace ecgan
