#include "class_conv2d.h"

#include <algorithm>
#include <cstring>
#include <memory>
#include <new>

#include "class_conv2d_simd.h"
#include "isa.h"

namespace ecgan::cpu {
namespace {

// Tasks of a pass, each of some tiles in a row and with a scratch buffer of its own.
constexpr int64_t kTasks = 64;
// Parts of the weights' gradient, each as large as the weights: some MB in all where they are
// large.
constexpr int64_t kMostParts = 32, kLeastParts = 4, kPartsBytes = int64_t{8} << 20;

int64_t size_of(DType dtype) {
  return dtype == DType::f64 ? 8 : dtype == DType::f32 ? 4 : 2;
}

struct Free {
  void operator()(void* p) const { ::operator delete(p, std::align_val_t{64}); }
};
using Memory = std::unique_ptr<void, Free>;

Memory allocate(int64_t bytes) {
  return Memory(::operator new(static_cast<std::size_t>(bytes), std::align_val_t{64}));
}

class Tiles {
 public:
  explicit Tiles(const ClassConv2d& call)
      : call_(call),
        down_((call.height + kConvRows - 1) / kConvRows),
        across_((call.width + kConvColumns - 1) / kConvColumns) {}

  int64_t count() const { return call_.batch * down_ * across_; }
  int64_t image(int64_t i) const { return i / (down_ * across_); }
  ConvTile tile(int64_t i) const {
    const int64_t at = i % (down_ * across_);
    return {call_.labels + image(i) * call_.height * call_.width, call_.height, call_.width,
            at / across_ * kConvRows, at % across_ * kConvColumns};
  }

  // Calls run(part, tile number) for all tiles, those of one of `parts` in order.
  template <class Start, class Run>
  void for_each(int64_t parts, const Parallel& parallel, Start start, Run run) const {
    parallel(parts, [&](int64_t part) {
      auto state = start(part);
      const int64_t end = (part + 1) * count() / parts;
      for (int64_t i = part * count() / parts; i < end; ++i) run(state, i);
    });
  }

 private:
  const ClassConv2d& call_;
  int64_t down_, across_;
};

ConvImage image_of(const ConvImages& images, int64_t image, int64_t channels, DType dtype) {
  const char* data = static_cast<const char*>(images.data);
  if (data) data += image * images.stride[0] * size_of(dtype);
  return {data, dtype, channels, images.stride[1], images.stride[2], images.stride[3]};
}

// The pass that forward and grad_x share: from `inputs` to `outputs` channels.
void product(const ClassConv2d& call, const ConvImages& x, int64_t inputs, int64_t outputs,
             double slope, const void* weight, bool turned, const void* bias,
             const ConvImages& gate, void* y, const Parallel& parallel) {
  const bool use_double = call.dtype == DType::f64;
  const Memory packed = allocate(inputs * outputs * 9 * (use_double ? 8 : 4));
  ECGAN_BEST(class_conv2d_pack)(weight, outputs, inputs, turned, use_double, packed.get());
  const auto run = ECGAN_BEST(class_conv2d_product);
  const int64_t bytes = ECGAN_BEST(class_conv2d_scratch)(inputs, use_double);
  const int64_t image_bytes = outputs * call.height * call.width * size_of(call.dtype);
  const Tiles tiles(call);
  tiles.for_each(
      std::min(tiles.count(), kTasks), parallel, [&](int64_t) { return allocate(bytes); },
      [&](const Memory& scratch, int64_t i) {
        const int64_t image = tiles.image(i);
        const ConvProduct p{image_of(x, image, inputs, call.dtype),
                            slope,
                            packed.get(),
                            bias,
                            outputs,
                            image_of(gate, image, outputs, call.dtype),
                            call.slope,
                            static_cast<char*>(y) + image * image_bytes};
        run(tiles.tile(i), p, scratch.get());
      });
}

int64_t parts_of(const ClassConv2d& call) {
  const int64_t bytes = call.outputs * (call.channels * 9 + 1) * 8;
  const int64_t fit =
      std::clamp(kPartsBytes / std::max<int64_t>(bytes, 1), kLeastParts, kMostParts);
  return std::min(Tiles(call).count(), fit);
}

template <class E>
void add_parts(const E* partials, int64_t parts, int64_t stride, int64_t count, E* sums) {
  for (int64_t i = 0; i < count; ++i) {
    double total = 0;
    for (int64_t part = 0; part < parts; ++part) total += partials[part * stride + i];
    sums[i] = static_cast<E>(total);
  }
}

template <class E>
void backward_weight(const ClassConv2d& call, const ConvImages& grad, const ConvImages& x,
                     E* partials, E* grad_weight, E* grad_bias, const Parallel& parallel) {
  const bool use_double = call.dtype == DType::f64;
  const auto run = ECGAN_BEST(class_conv2d_weights);
  const int64_t bytes = ECGAN_BEST(class_conv2d_scratch)(call.outputs + call.channels, use_double);
  const int64_t weights = call.outputs * call.channels * 9, stride = weights + call.outputs;
  const Tiles tiles(call);
  const int64_t parts = parts_of(call);
  struct State {
    Memory scratch;
    E* sums;
  };
  tiles.for_each(
      parts, parallel,
      [&](int64_t part) {
        E* sums = partials + part * stride;
        std::fill(sums, sums + stride, E(0));
        return State{allocate(bytes), sums};
      },
      [&](const State& state, int64_t i) {
        const int64_t image = tiles.image(i);
        const ConvWeights w{image_of(grad, image, call.outputs, call.dtype),
                            image_of(x, image, call.channels, call.dtype), call.slope,
                            grad_weight ? state.sums : nullptr,
                            grad_bias ? state.sums + weights : nullptr};
        run(tiles.tile(i), w, state.scratch.get());
      });
  if (grad_weight) {
    parallel(call.outputs, [&](int64_t o) {
      const int64_t row = call.channels * 9;
      add_parts(partials + o * row, parts, stride, row, grad_weight + o * row);
    });
  }
  if (grad_bias) add_parts(partials + weights, parts, stride, call.outputs, grad_bias);
}

}  // namespace

void class_conv2d(const ClassConv2d& call, const ConvImages& x, const void* weight,
                  const void* bias, void* y, const Parallel& parallel) {
  product(call, x, call.channels, call.outputs, call.slope, weight, false, bias, {nullptr, {}}, y,
          parallel);
}

void class_conv2d_backward_x(const ClassConv2d& call, const ConvImages& grad, const ConvImages& x,
                             const void* weight, void* grad_x, const Parallel& parallel) {
  const bool gated = call.slope != 1;
  product(call, grad, call.outputs, call.channels, 1, weight, true, nullptr,
          gated ? x : ConvImages{nullptr, {}}, grad_x, parallel);
}

void class_conv2d_backward_weight(const ClassConv2d& call, const ConvImages& grad,
                                  const ConvImages& x, void* partials, void* grad_weight,
                                  void* grad_bias, const Parallel& parallel) {
  if (call.dtype == DType::f64) {
    backward_weight(call, grad, x, static_cast<double*>(partials),
                    static_cast<double*>(grad_weight), static_cast<double*>(grad_bias), parallel);
  } else {
    backward_weight(call, grad, x, static_cast<float*>(partials), static_cast<float*>(grad_weight),
                    static_cast<float*>(grad_bias), parallel);
  }
}

int64_t class_conv2d_partials_bytes(const ClassConv2d& call) {
  return parts_of(call) * call.outputs * (call.channels * 9 + 1) *
         (call.dtype == DType::f64 ? 8 : 4);
}

}  // namespace ecgan::cpu
