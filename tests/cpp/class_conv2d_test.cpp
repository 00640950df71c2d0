// class_conv2d's CUDA kernels on the emulator, against loops over pixels and taps in double.
#include "../../csrc/cuda/class_conv2d.h"

#include <cmath>
#include <cstring>
#include <random>
#include <string>
#include <type_traits>
#include <vector>

#include "../../csrc/cuda/scalar.h"
#include "check.h"
#include "cudaemu/cudaemu.h"

using cudaemu::Buffer;
using ecgan::DType;
using ecgan::cuda::ClassConv2d;
using ecgan::cuda::ConvImages;

namespace {

constexpr bool kSanitized = CUDAEMU_WITH_ASAN || CUDAEMU_WITH_TSAN;

struct Case {
  std::string name;
  int64_t batch, channels, outputs, height, width;
  float slope = 0.2f;
  bool channels_last = false;
  bool bias = true;
  int64_t classes = 3;
};

template <typename T>
constexpr double kEpsilon = std::is_same_v<T, float>    ? 0x1p-22
                            : std::is_same_v<T, __half> ? 0x1p-11
                                                        : 0x1p-8;

// A tensor [batch, channels, height, width] with one element too few for whole 16 bytes.
template <typename T>
struct Images {
  Images(const Case& c, int64_t channels, std::mt19937& random)
      : data(c.batch * channels * c.height * c.width + 1) {
    const int64_t h = c.height, w = c.width;
    if (c.channels_last) {
      images = {data.data() + 1, {channels * h * w, 1, w * channels, channels}};
    } else {
      images = {data.data() + 1, {channels * h * w, h * w, w, 1}};
    }
    std::normal_distribution<float> normal;
    for (T& v : data) v = ecgan::cuda::from_float<T>(normal(random));
  }
  double at(int64_t b, int64_t c, int64_t y, int64_t x) const {
    const auto& s = images.stride;
    return ecgan::cuda::to_float(data[1 + b * s[0] + c * s[1] + y * s[2] + x * s[3]]);
  }

  Buffer<T> data;
  ConvImages images;
};

template <typename T>
class Run {
 public:
  Run(const Case& c, DType dtype)
      : c_(c),
        random_(static_cast<unsigned>(c.width * 64 + c.channels)),
        x_(c, c.channels, random_),
        grad_(c, c.outputs, random_),
        labels_(c.batch * c.height * c.width),
        weight_(c.outputs * c.channels * 9),
        bias_(c.outputs),
        grad_weight_(c.outputs * c.channels * 9),
        grad_bias_(c.outputs),
        y_(c.batch * c.outputs * c.height * c.width),
        grad_x_(c.batch * c.channels * c.height * c.width) {
    for (int64_t& label : labels_) {
      label = static_cast<int64_t>(random_() % c.classes) * (int64_t{1} << 32);
    }
    std::normal_distribution<float> normal;
    for (float& v : weight_) v = normal(random_);
    for (float& v : bias_) v = normal(random_);
    call_ = {c.batch, c.channels, c.outputs, c.height, c.width, dtype, labels_.data(), c.slope};
    compute();
  }

  void check() {
    std::vector<double> first;
    const auto once = [&] {
      const std::vector<double> now = run();
      if (first.empty()) first = now;
      CHECK(std::memcmp(now.data(), first.data(), now.size() * sizeof(double)) == 0,
            "%s: the order of threads shows", c_.name.c_str());
    };
    if (kSanitized) {
      once();  // what sanitizers look for shows in every order
    } else {
      cudaemu::for_each_order(once);
    }
    compare(y_, want_y_, size_y_, kEpsilon<T>, "y");
    compare(grad_x_, want_grad_x_, size_grad_x_, kEpsilon<T>, "grad_x");
    compare(grad_weight_, want_grad_weight_, size_grad_weight_, 0x1p-22, "grad_weight");
    compare(grad_bias_, want_grad_bias_, size_grad_bias_, 0x1p-22, "grad_bias");
  }

 private:
  std::vector<double> run() {
    using namespace ecgan::cuda;
    wipe(y_), wipe(grad_x_), wipe(grad_weight_), wipe(grad_bias_);
    const ConvImages x = x_.images, grad = grad_.images;
    {
      Buffer<unsigned char> workspace(class_conv2d_workspace(call_));
      class_conv2d(call_, x, weight_.data(), c_.bias ? bias_.data() : nullptr, y_.data(),
                   workspace.data(), nullptr);
      wipe(workspace);
      class_conv2d_backward_x(call_, grad, x, weight_.data(), grad_x_.data(), workspace.data(),
                              nullptr);
    }
    Buffer<unsigned char> workspace(class_conv2d_weight_workspace(call_));
    class_conv2d_backward_weight(call_, grad, x, grad_weight_.data(), grad_bias_.data(),
                                 workspace.data(), nullptr);
    std::vector<double> all;
    for (T v : y_) all.push_back(to_float(v));
    for (T v : grad_x_) all.push_back(to_float(v));
    all.insert(all.end(), grad_weight_.begin(), grad_weight_.end());
    all.insert(all.end(), grad_bias_.begin(), grad_bias_.end());
    return all;
  }

  template <typename U>
  static void wipe(Buffer<U>& buffer) {
    std::memset(static_cast<void*>(buffer.data()), 0xFF, buffer.size() * sizeof(U));
  }

  // `size` is the sum of the terms' magnitudes.
  template <typename U>
  void compare(const Buffer<U>& got, const std::vector<double>& want,
               const std::vector<double>& size, double epsilon, const char* what) {
    for (std::size_t i = 0; i < want.size(); ++i) {
      const double value = ecgan::cuda::to_float(got[i]);
      const double allowed =
          epsilon * std::fabs(want[i]) + 0x1p-21 * size[i] + 1e-6 * (epsilon > 1e-4);
      CHECK(std::fabs(value - want[i]) <= allowed, "%s: element %zu of %s is %.9g, want %.9g",
            c_.name.c_str(), i, what, value, want[i]);
    }
  }

  void compute() {
    const int64_t n = c_.outputs, m = c_.channels, h = c_.height, w = c_.width;
    want_y_.assign(y_.size(), 0), size_y_ = want_y_;
    want_grad_x_.assign(grad_x_.size(), 0), size_grad_x_ = want_grad_x_;
    want_grad_weight_.assign(weight_.size(), 0), size_grad_weight_ = want_grad_weight_;
    want_grad_bias_.assign(n, 0), size_grad_bias_ = want_grad_bias_;
    const auto add = [](std::vector<double>& want, std::vector<double>& size, int64_t i, double v) {
      want[i] += v;
      size[i] += std::fabs(v);
    };
    for (int64_t b = 0; b < c_.batch; ++b) {
      for (int64_t p = 0; p < h * w; ++p) {
        for (int64_t o = 0; o < n; ++o) {
          add(want_grad_bias_, size_grad_bias_, o, grad_.at(b, o, p / w, p % w));
          if (c_.bias) add(want_y_, size_y_, (b * n + o) * h * w + p, bias_[o]);
        }
        for (int64_t t = 0; t < 9; ++t) {
          const int64_t y = p / w + t / 3 - 1, x = p % w + t % 3 - 1;
          if (y < 0 || y >= h || x < 0 || x >= w) continue;
          if (labels_[(b * h + y) * w + x] != labels_[b * h * w + p]) continue;
          for (int64_t o = 0; o < n; ++o) {
            const double g = grad_.at(b, o, p / w, p % w);
            for (int64_t c = 0; c < m; ++c) {
              const double raw = x_.at(b, c, y, x), slope = raw > 0 ? 1 : double{c_.slope};
              const int64_t tap = (o * m + c) * 9 + t;
              add(want_y_, size_y_, (b * n + o) * h * w + p, weight_[tap] * raw * slope);
              add(want_grad_x_, size_grad_x_, (b * m + c) * h * w + y * w + x,
                  weight_[tap] * g * slope);
              add(want_grad_weight_, size_grad_weight_, tap, g * raw * slope);
            }
          }
        }
      }
    }
  }

  const Case& c_;
  std::mt19937 random_;
  ClassConv2d call_;
  Images<T> x_, grad_;
  Buffer<int64_t> labels_;
  Buffer<float> weight_, bias_, grad_weight_, grad_bias_;
  Buffer<T> y_, grad_x_;
  std::vector<double> want_y_, want_grad_x_, want_grad_weight_, want_grad_bias_;
  std::vector<double> size_y_, size_grad_x_, size_grad_weight_, size_grad_bias_;
};

// Tiles whose sums are 2^24, 1 and -2^24: exact, and only double adds them up.
void test_sums_over_tiles() {
  constexpr int kHeight = 8, kWidth = 48;  // three tiles in a row, a part each
  Buffer<float> x(kHeight * kWidth), grad(kHeight * kWidth), weight(9), bias(1);
  Buffer<int64_t> labels(kHeight * kWidth);
  for (std::size_t i = 0; i < x.size(); ++i) x[i] = 1, grad[i] = 0, labels[i] = 0;
  const float sums[] = {0x1p24f, 1, -0x1p24f};
  for (int tile = 0; tile < 3; ++tile) grad[3 * kWidth + tile * 16 + 8] = sums[tile];
  const ClassConv2d call{1, 1, 1, kHeight, kWidth, DType::f32, labels.data(), 1.0f};
  const int64_t image = kHeight * kWidth;
  Buffer<unsigned char> workspace(ecgan::cuda::class_conv2d_weight_workspace(call));
  ecgan::cuda::class_conv2d_backward_weight(call, {grad.data(), {image, image, kWidth, 1}},
                                            {x.data(), {image, image, kWidth, 1}}, weight.data(),
                                            bias.data(), workspace.data(), nullptr);
  for (int t = 0; t < 9; ++t) CHECK(weight[t] == 1, "tap %d: %g, want 1", t, weight[t]);
  CHECK(bias[0] == 1, "bias: %g, want 1", bias[0]);
}

}  // namespace

int main() {
  const std::vector<Case> cases = {
      {"one pixel", 2, 1, 1, 1, 1},
      {"several tiles", 1, 3, 3, 9, 37},
      {"whole packs", 1, 2, 5, 3, 36},
      {"channels last", 1, 9, 6, 5, 6, 0.2f, true},
      {"no activation, no bias", 1, 4, 12, 6, 5, 1.0f, false, false},
      {"two blocks of outputs", 1, 5, 35, 2, 9},
      {"two blocks of channels", 1, 34, 2, 3, 4},
      {"one class", 2, 3, 2, 4, 19, 0.2f, false, true, 1},
      {"no outputs", 1, 2, 0, 3, 3},
      {"no channels", 1, 0, 2, 3, 3},
      {"no pixels", 1, 2, 2, 0, 3},
  };
  for (const Case& c : cases) Run<float>(c, DType::f32).check();
  Run<__half>(cases[3], DType::f16).check();
  Run<__nv_bfloat16>(cases[3], DType::bf16).check();
  test_sums_over_tiles();
  const std::string message = message_of([&] { Run<float>(cases[0], DType::f64).check(); });
  CHECK(message == "class_conv2d: CUDA takes float32, float16 and bfloat16 tensors", "got \"%s\"",
        message.c_str());
  return report();
}
