// label_conv2d's CUDA kernels on the emulator and its CPU kernels, both against loops in double.
#include "../../csrc/cuda/label_conv2d.h"

#include <cmath>
#include <cstring>
#include <optional>
#include <random>
#include <string>
#include <vector>

#include "../../csrc/cpu/label_conv2d.h"
#include "../../csrc/cuda/scalar.h"
#include "check.h"
#include "cudaemu/cudaemu.h"

using cudaemu::Buffer;
using ecgan::DType;
using ecgan::cuda::from_float;
using ecgan::cuda::to_float;

namespace {

constexpr bool kSanitized = CUDAEMU_WITH_ASAN || CUDAEMU_WITH_TSAN;
constexpr int64_t kIgnore = 255;

struct Case {
  std::string name;
  int64_t batch, height, width, outputs, classes, kernel_height, kernel_width, stride, padding;
  bool edges = false, scale = false;
  double noise = 0.2;  // share of the pixels that are of no area
  bool channels_last = false;

  int64_t out_height() const { return (height + 2 * padding - kernel_height) / stride + 1; }
  int64_t out_width() const { return (width + 2 * padding - kernel_width) / stride + 1; }
  int64_t pixels() const { return out_height() * out_width(); }
  int64_t columns() const { return classes + edges; }
  int64_t taps() const { return kernel_height * kernel_width; }
};

std::vector<Case> cases() {
  std::vector<Case> all{
      {"3x3", 2, 9, 33, 37, 5, 3, 3, 1, 1},
      {"packs", 1, 8, 64, 130, 4, 3, 3, 1, 1},
      {"4x4 of stride 2", 2, 12, 11, 20, 4, 4, 4, 2, 2, true},
      {"7x7, scaled", 1, 10, 9, 8, 3, 7, 7, 1, 3, true, true},
      {"2x3, noise", 1, 5, 40, 33, 40, 2, 3, 1, 1, false, true, 1.0},
      {"one pixel", 1, 1, 1, 1, 1, 1, 1, 1, 0},
      {"neighbourhoods", 75, 3, 3, 34, 4, 3, 3, 1, 0},
      {"channels last", 2, 7, 13, 12, 3, 3, 3, 1, 1, true, false, 0.2, true},
      {"empty", 0, 4, 4, 5, 3, 3, 3, 1, 1},
      {"uniform", 1, 12, 24, 16, 2, 3, 3, 1, 1, false, false, 0.0},
      {"most taps", 1, 11, 12, 3, 2, 10, 11, 1, 0},
  };
  if (kSanitized) all.erase(all.begin() + 3);
  return all;
}

template <typename T, typename Label>
class Run {
 public:
  Run(const Case& c, DType dtype)
      : case_(c),
        dtype_(dtype),
        labels_(c.batch * c.height * c.width),
        edges_(labels_.size()),
        scale_(labels_.size()),
        weight_(c.outputs * c.columns() * c.taps()),
        bias_(c.outputs),
        grad_(c.batch * c.outputs * c.pixels()),
        out_(grad_.size()),
        grad_weight_(weight_.size()),
        grad_bias_(bias_.size()) {
    std::mt19937 random(static_cast<unsigned>(c.outputs + c.width));
    std::uniform_real_distribution<double> uniform;
    std::normal_distribution<float> normal;
    for (std::size_t i = 0; i < labels_.size(); ++i) {
      labels_[i] = static_cast<Label>(i / 50 % c.classes);
      if (uniform(random) < c.noise) labels_[i] = static_cast<Label>(random() % c.classes);
      if (uniform(random) < 0.2 * c.noise) labels_[i] = static_cast<Label>(kIgnore);
      if (uniform(random) < 0.1 * c.noise) {
        const int64_t none[] = {c.classes, (int64_t{1} << 32) + 1};  // as much as a label holds
        labels_[i] = static_cast<Label>(none[random() % 2]);
      }
      edges_[i] = uniform(random) < 0.1;
      scale_[i] = uniform(random) < 0.1 ? 0.5f : 1.25f;
    }
    for (auto* tensor : {&weight_, &bias_, &grad_}) {
      for (T& v : *tensor) v = from_float<T>(normal(random));
    }
    // weight is stored as [columns, O, taps]
    strides_[0] = c.taps(), strides_[1] = c.outputs * c.taps();
    strides_[2] = c.kernel_width, strides_[3] = 1;
    grad_strides_[0] = c.outputs * c.pixels(), grad_strides_[1] = c.pixels(), grad_strides_[2] = 1;
    if (c.channels_last || c.pixels() == 1) grad_strides_[1] = 1, grad_strides_[2] = c.outputs;
    truth();
  }

  void cuda() {
    const Case& c = case_;
    const ecgan::cuda::LabelConv2d call{
        c.batch,        c.height, c.width,       c.outputs, c.columns(), c.kernel_height,
        c.kernel_width, c.stride, c.stride,      c.padding, c.padding,   c.out_height(),
        c.out_width(),  kIgnore,  sizeof(Label), dtype_};
    const void* edges = c.edges ? edges_.data() : nullptr;
    const float* scale = c.scale ? scale_.data() : nullptr;
    Buffer<char> forward(ecgan::cuda::label_conv2d_workspace(call, c.edges, false));
    Buffer<char> backward(ecgan::cuda::label_conv2d_workspace(call, c.edges, true));
    std::vector<char> first;
    cudaemu::for_each_order([&] {
      wipe();
      ecgan::cuda::label_conv2d(call, labels_.data(), edges, scale, weight_.data(), strides_,
                                bias_.data(), out_.data(), forward.data(), nullptr);
      ecgan::cuda::label_conv2d_backward(call, grad_.data(), grad_strides_, labels_.data(), edges,
                                         scale, grad_weight_.data(), grad_bias_.data(),
                                         backward.data(), nullptr);
      check("cuda");
      const char* bytes = reinterpret_cast<const char*>(grad_weight_.data());
      const std::vector<char> now(bytes, bytes + grad_weight_.size() * sizeof(T));
      CHECK(first.empty() || now == first, "%s: the order of blocks shows", c.name.c_str());
      first = now;
    });
    wipe();
    ecgan::cuda::label_conv2d_backward(call, grad_.data(), grad_strides_, labels_.data(), edges,
                                       scale, nullptr, grad_bias_.data(), backward.data(), nullptr);
    compare(grad_bias_, want_bias_, "cuda, bias alone");
  }

  // Whose weights are float32, whatever the dtype of y.
  void cpu() {
    const Case& c = case_;
    const ecgan::cpu::LabelConv2dShape shape{
        c.batch,        c.height, c.width,  c.outputs, c.columns(), c.kernel_height,
        c.kernel_width, c.stride, c.stride, c.padding, c.padding,   c.edges};
    const ecgan::cpu::Parallel parallel = [](int64_t count, const ecgan::cpu::Task& task) {
      for (int64_t i = count - 1; i >= 0; --i) task(i);
    };
    const auto wide = [](const Buffer<T>& from) {
      std::vector<float> to;
      for (const T& v : from) to.push_back(to_float(v));
      return to;
    };
    const std::vector<float> weight = wide(weight_), bias = wide(bias_);
    ecgan::cpu::LabelConv2d kernel(shape, dtype_, c.scale, parallel);
    Buffer<char> workspace(std::max(kernel.workspace_bytes(false), kernel.workspace_bytes(true)));
    bool expected = true;
    for (const Label& label : labels_) {
      const int64_t value = static_cast<int64_t>(label);
      expected = expected && (value == kIgnore || (value >= 0 && value < c.classes));
    }
    const bool in_range =
        kernel.prepare(workspace.data(), labels_.data(), sizeof(Label), kIgnore,
                       c.edges ? edges_.data() : nullptr, c.scale ? scale_.data() : nullptr);
    CHECK(in_range == expected, "%s: labels in range", c.name.c_str());
    wipe();
    kernel.forward(weight.data(), strides_, bias.data(), out_.data());
    std::vector<float> grad_weight(weight.size()), grad_bias(bias.size());
    kernel.backward(grad_.data(), grad_strides_, grad_weight.data(), grad_bias.data());
    for (std::size_t i = 0; i < weight.size(); ++i) grad_weight_[i] = from_float<T>(grad_weight[i]);
    for (std::size_t i = 0; i < bias.size(); ++i) grad_bias_[i] = from_float<T>(grad_bias[i]);
    check("cpu");
  }

 private:
  void truth() {
    const Case& c = case_;
    want_out_.assign(out_.size(), 0);
    want_weight_.assign(weight_.size(), 0);
    want_bias_.assign(bias_.size(), 0);
    for (int64_t b = 0; b < c.batch; ++b) {
      for (int64_t p = 0; p < c.pixels(); ++p) {
        for (int64_t o = 0; o < c.outputs; ++o) {
          double sum = to_float(bias_[o]);
          const double g =
              to_float(grad_[b * grad_strides_[0] + o * grad_strides_[1] + p * grad_strides_[2]]);
          want_bias_[o] += g;
          for (int64_t t = 0; t < c.taps(); ++t) {
            const int64_t y = p / c.out_width() * c.stride + t / c.kernel_width - c.padding;
            const int64_t x = p % c.out_width() * c.stride + t % c.kernel_width - c.padding;
            if (y < 0 || y >= c.height || x < 0 || x >= c.width) continue;
            const int64_t at = (b * c.height + y) * c.width + x;
            const double times = c.scale ? scale_[at] : 1.0;
            const auto add = [&](int64_t column) {
              sum += times * to_float(weight_[o * strides_[0] + column * strides_[1] + t]);
              want_weight_[(o * c.columns() + column) * c.taps() + t] += times * g;
            };
            const int64_t label = static_cast<int64_t>(labels_[at]);
            if (label >= 0 && label < c.classes && label != kIgnore) add(label);
            if (c.edges && edges_[at]) add(c.classes);
          }
          want_out_[(b * c.outputs + o) * c.pixels() + p] = sum;
        }
      }
    }
  }

  void wipe() {
    for (auto* tensor : {&out_, &grad_weight_, &grad_bias_}) {
      std::memset(static_cast<void*>(tensor->data()), 0xFF, tensor->size() * sizeof(T));
    }
  }
  void check(const char* what) const {
    compare(out_, want_out_, what);
    compare(grad_weight_, want_weight_, what);
    compare(grad_bias_, want_bias_, what);
  }
  void compare(const Buffer<T>& got, const std::vector<double>& want, const char* what) const {
    const double rounding = sizeof(T) == 4 ? 0 : std::is_same_v<T, __half> ? 0x1p-11 : 0x1p-8;
    for (std::size_t i = 0; i < want.size(); ++i) {
      const double value = to_float(got[i]);
      CHECK(std::fabs(value - want[i]) <= (rounding * 1.01 + 2e-6) * std::fabs(want[i]) + 3e-5,
            "%s, %s: element %zu is %g, want %g", what, case_.name.c_str(), i, value, want[i]);
    }
  }

  const Case& case_;
  DType dtype_;
  int64_t strides_[4], grad_strides_[3];
  Buffer<Label> labels_;
  Buffer<uint8_t> edges_;
  Buffer<float> scale_;
  Buffer<T> weight_, bias_, grad_, out_, grad_weight_, grad_bias_;
  std::vector<double> want_out_, want_weight_, want_bias_;
};

template <typename T, typename Label>
void test(DType dtype) {
  for (const Case& c : cases()) {
    Run<T, Label> run(c, dtype);
    run.cuda();
    run.cpu();
  }
}

void test_errors() {
  const ecgan::cuda::LabelConv2d call{1, 1, 1, 1, 1, 1, 1, 1, 1, 0, 0, 1, 1, 255, 8, DType::f64};
  Buffer<int64_t> labels(1);
  labels[0] = 0;
  Buffer<double> x(1);
  Buffer<char> workspace(ecgan::cuda::label_conv2d_workspace(call, false, false));
  const std::string message = message_of([&] {
    ecgan::cuda::label_conv2d(call, labels.data(), nullptr, nullptr, x.data(), {1, 1, 1, 1},
                              nullptr, x.data(), workspace.data(), nullptr);
  });
  CHECK(message == "label_conv2d: CUDA takes float32, float16 and bfloat16 tensors", "got \"%s\"",
        message.c_str());
}

}  // namespace

int main() {
  test<float, int64_t>(DType::f32);
  test<__half, uint8_t>(DType::f16);
  if (!kSanitized) {  // which are slow, and see the same accesses
    test<__nv_bfloat16, int16_t>(DType::bf16);
    test<float, int32_t>(DType::f32);
  }
  test_errors();
  return report();
}
