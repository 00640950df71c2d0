#include "label_spade.h"

#include <algorithm>
#include <cmath>
#include <vector>

#include "isa.h"
#include "label_spade_simd.h"

namespace ecgan::cpu {
namespace {

int64_t bytes_of(DType dtype) {
  return dtype == DType::f64 ? 8 : dtype == DType::f32 ? 4 : 2;
}

// One tensor's planes.
struct Planes {
  char* data;
  int64_t batch_stride, channel_stride;  // in bytes

  Planes(const void* data_, int64_t batch, int64_t channel, DType dtype)
      : data(static_cast<char*>(const_cast<void*>(data_))),
        batch_stride(batch * bytes_of(dtype)),
        channel_stride(channel * bytes_of(dtype)) {}
  char* at(int64_t b, int64_t c) const { return data + b * batch_stride + c * channel_stride; }
};

// Where the statistics of a plane stand: per image for instance norm alone.
int64_t place(const LabelSpade& op, int64_t b, int64_t c) {
  return op.norm == SpadeNorm::instance ? b * op.channels + c : c;
}

SpadePlane plane_of(const LabelSpade& op, int64_t b, int64_t c, double mean, double var) {
  const int64_t bytes = op.patches * (op.dtype == DType::f64 ? 8 : 4);
  const char* table = static_cast<const char*>(op.table);
  return {op.inverse + b * op.pixels,
          op.segments + 2 * op.offsets[b],
          op.offsets[b + 1] - op.offsets[b],
          op.pixels,
          table + c * bytes,
          table + (op.channels + c) * bytes,
          mean,
          1 / std::sqrt(var + op.eps),
          op.slope,
          op.dtype};
}

// Moments of the planes of one channel that share a mean: images [first, last).
void measure(const LabelSpade& op, const Planes& x, int64_t first, int64_t last, int64_t c,
             double* mean, double* var) {
  double count = 0, squares = 0;
  *mean = 0;
  for (int64_t b = first; b < last; ++b) {
    ECGAN_BEST(spade_moments)(x.at(b, c), op.pixels, op.dtype, &count, mean, &squares);
  }
  *var = squares / count;  // NaN of no values at all, as torch has it
}

void modulate(const LabelSpade& op, const Planes& x, const Planes& y, int64_t b, int64_t c,
              const double* mean, const double* var) {
  const int64_t i = place(op, b, c);
  ECGAN_BEST(spade_plane)(plane_of(op, b, c, mean[i], var[i]), x.at(b, c), y.at(b, c));
}

template <class E>
void write_row(void* out, const std::vector<double>& values, int64_t row) {
  E* at = static_cast<E*>(out) + row * static_cast<int64_t>(values.size());
  for (std::size_t i = 0; i < values.size(); ++i) at[i] = static_cast<E>(values[i]);
}

}  // namespace

void label_spade_statistics(const LabelSpade& op, const void* x_, int64_t batch_stride,
                            int64_t channel_stride, double* mean, double* var,
                            const RunTasks& run) {
  const Planes x(x_, batch_stride, channel_stride, op.dtype);
  run(op.channels, [&](int64_t c) { measure(op, x, 0, op.batch, c, mean + c, var + c); });
}

void label_spade(const LabelSpade& op, const void* x_, int64_t batch_stride, int64_t channel_stride,
                 void* y_, double* mean, double* var, const RunTasks& run) {
  const Planes x(x_, batch_stride, channel_stride, op.dtype);
  const Planes y(y_, op.channels * op.pixels, op.pixels, op.dtype);
  if (op.norm != SpadeNorm::batch) {
    run(op.batch * op.channels, [&](int64_t i) {  // a plane is read twice, from the cache at last
      const int64_t b = i / op.channels, c = i % op.channels;
      if (op.norm == SpadeNorm::instance) measure(op, x, b, b + 1, c, mean + i, var + i);
      modulate(op, x, y, b, c, mean, var);
    });
    return;
  }
  run(op.channels, [&](int64_t c) {
    measure(op, x, 0, op.batch, c, mean + c, var + c);
    // Backwards: the last plane is the one that the cache still holds.
    for (int64_t b = op.batch; b-- > 0;) modulate(op, x, y, b, c, mean, var);
  });
}

void label_spade_backward(const LabelSpade& op, const void* grad_, int64_t grad_batch_stride,
                          int64_t grad_channel_stride, const void* x_, int64_t batch_stride,
                          int64_t channel_stride, const double* mean, const double* var,
                          void* grad_x_, void* grad_table, double* shared, const RunTasks& run) {
  const Planes grad(grad_, grad_batch_stride, grad_channel_stride, op.dtype);
  const Planes x(x_, batch_stride, channel_stride, op.dtype);
  const Planes grad_x(grad_x_, op.channels * op.pixels, op.pixels, op.dtype);
  const bool is_shared = op.norm == SpadeNorm::shared;
  const bool moments = op.norm == SpadeNorm::instance || op.norm == SpadeNorm::batch;
  const bool needs_sums = grad_table || (moments && grad_x_) || (is_shared && !grad_x_);
  run(op.channels, [&](int64_t c) {
    std::vector<double> grad_gamma(needs_sums ? op.patches : 0), grad_beta(grad_gamma);
    double sums[2] = {0, 0};
    const auto plane = [&](int64_t b) {
      const int64_t i = place(op, b, c);
      return plane_of(op, b, c, mean[i], var[i]);
    };
    const auto add_sums = [&](int64_t b) {
      ECGAN_BEST(spade_sums)(plane(b), grad.at(b, c), x.at(b, c), sums, grad_gamma.data(),
                             grad_beta.data());
    };
    const auto write_input = [&](int64_t b, double values) {
      double means[2] = {0, 0};
      if (moments) {
        means[0] = sums[0] / values;
        means[1] = sums[1] / values;
      } else if (is_shared) {
        means[0] = shared[2 * c];
        means[1] = shared[2 * c + 1];
      }
      ECGAN_BEST(spade_input)(plane(b), grad.at(b, c), x.at(b, c), means, grad_x.at(b, c));
    };
    const auto pixels = static_cast<double>(op.pixels);
    if (op.norm == SpadeNorm::instance) {
      for (int64_t b = 0; b < op.batch; ++b) {
        sums[0] = sums[1] = 0;
        if (needs_sums) add_sums(b);
        if (grad_x_) write_input(b, pixels);
      }
    } else {
      for (int64_t b = 0; b < op.batch && needs_sums; ++b) add_sums(b);
      for (int64_t b = op.batch; b-- > 0 && grad_x_;) {
        write_input(b, pixels * static_cast<double>(op.batch));
      }
    }
    if (is_shared && !grad_x_) std::copy(sums, sums + 2, shared + 2 * c);
    if (grad_table) {
      const auto write = op.dtype == DType::f64 ? write_row<double> : write_row<float>;
      write(grad_table, grad_gamma, c);
      write(grad_table, grad_beta, op.channels + c);
    }
  });
}

}  // namespace ecgan::cpu
