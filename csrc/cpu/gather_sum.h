// Sums of table rows named by small groups of numbers: what label_spade's table is made with.
#pragma once

#include <cstdint>
#include <functional>

namespace ecgan::cpu {

// out[v] = sum over t of values[rows[v, t] * row_step + t * tap_step], without negative rows.
// Columns of `rows` must name different rows of the table, as they do where a tap has rows of its
// own.
struct GatherSum {
  int64_t count, taps, width, table_rows;
  const int32_t* rows;  // [count, taps]
  int64_t row_step, tap_step;
};

using GatherTasks = std::function<void(int64_t count, const std::function<void(int64_t)>& task)>;

template <class T>  // float or double
void gather_sum(const GatherSum& op,
                const T* values,  // [table_rows, width]
                T* out,           // [count, width]
                const GatherTasks& run);

// dvalues[r] = sum of dout[v] over the v and t that name r, v ascending.
template <class T>
void gather_sum_backward(const GatherSum& op,
                         const T* grad,   // [count, width]
                         T* grad_values,  // [table_rows, width]
                         const GatherTasks& run);

}  // namespace ecgan::cpu
