#include "gather_sum.h"

#include <algorithm>

namespace ecgan::cpu {
namespace {

constexpr int64_t kChunk = 256;  // rows a task takes
constexpr int64_t kBlock = 64;   // columns a task of the backward takes: four cache lines of float

int64_t chunks(int64_t n, int64_t chunk) {
  return (n + chunk - 1) / chunk;
}

template <class T>
void add(T* __restrict__ to, const T* __restrict__ from, int64_t n) {
  for (int64_t i = 0; i < n; ++i) to[i] += from[i];
}

}  // namespace

template <class T>
void gather_sum(const GatherSum& op, const T* values, T* out, const GatherTasks& run) {
  run(chunks(op.count, kChunk), [&](int64_t task) {
    const int64_t end = std::min(op.count, (task + 1) * kChunk);
    for (int64_t v = task * kChunk; v < end; ++v) {
      T* row = out + v * op.width;
      std::fill(row, row + op.width, T{0});
      for (int64_t t = 0; t < op.taps; ++t) {
        const int64_t r = op.rows[v * op.taps + t];
        if (r < 0) continue;
        add(row, values + (r * op.row_step + t * op.tap_step) * op.width, op.width);
      }
    }
  });
}

template <class T>
void gather_sum_backward(const GatherSum& op, const T* grad, T* grad_values,
                         const GatherTasks& run) {
  run(chunks(op.table_rows, kChunk), [&](int64_t task) {
    const int64_t end = std::min(op.table_rows, (task + 1) * kChunk);
    std::fill(grad_values + task * kChunk * op.width, grad_values + end * op.width, T{0});
  });
  // No two tasks share an element, so that the order of the sums is fixed without any locks: taps
  // whose rows may meet are one task.
  const bool apart = op.tap_step > 0 && op.row_step / op.tap_step >= op.taps;
  const int64_t blocks = chunks(op.width, kBlock), together = apart ? 1 : op.taps;
  run((apart ? op.taps : 1) * blocks, [&](int64_t task) {
    const int64_t first = task / blocks, begin = task % blocks * kBlock;
    const int64_t n = std::min(kBlock, op.width - begin);
    for (int64_t t = first; t < first + together; ++t) {
      for (int64_t v = 0; v < op.count; ++v) {
        const int64_t r = op.rows[v * op.taps + t];
        if (r < 0) continue;
        add(grad_values + (r * op.row_step + t * op.tap_step) * op.width + begin,
            grad + v * op.width + begin, n);
      }
    }
  });
}

template void gather_sum(const GatherSum&, const float*, float*, const GatherTasks&);
template void gather_sum(const GatherSum&, const double*, double*, const GatherTasks&);
template void gather_sum_backward(const GatherSum&, const float*, float*, const GatherTasks&);
template void gather_sum_backward(const GatherSum&, const double*, double*, const GatherTasks&);

}  // namespace ecgan::cpu
