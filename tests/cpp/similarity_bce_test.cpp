// similarity_bce's CUDA kernels on the emulator, against a double loop over pairs.
#include "../../csrc/cuda/similarity_bce.h"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <random>
#include <string>
#include <vector>

#include "../../csrc/cuda/scalar.h"
#include "check.h"
#include "cudaemu/cudaemu.h"

using cudaemu::Buffer;
using ecgan::DType;
using ecgan::cuda::SimilarityBce;

namespace {

constexpr bool kSanitized = CUDAEMU_WITH_ASAN || CUDAEMU_WITH_TSAN;
constexpr int64_t kIgnore = 255;

struct Case {
  std::string name;
  int64_t images, classes, pixels;
  double sharpness = 1;  // of the softmax
  float eps = 1e-6f;
  bool channels_last = false;
  double ignored = 0.2;  // share of the pixels
  int64_t labels = 0;    // how many classes occur; 0: all of them
};

template <typename T>
class Run {
 public:
  Run(const Case& c, DType dtype)
      : case_(c),
        probs_(c.images * c.classes * c.pixels),
        labels_(c.images * c.pixels),
        loss_(c.images),
        grad_(c.images * c.classes * c.pixels),
        valid_(c.images) {
    call_ = {c.images, c.classes, c.pixels, c.classes * c.pixels, c.pixels, 1, dtype, kIgnore,
             c.eps,    true,      true};
    if (c.channels_last) std::swap(call_.class_stride, call_.pixel_stride);
    if (c.channels_last) call_.pixel_stride = c.classes;
    std::mt19937 random(static_cast<unsigned>(c.classes + c.pixels));
    std::normal_distribution<double> normal;
    std::uniform_real_distribution<double> uniform;
    for (int64_t i = 0; i < c.images * c.pixels; ++i) {
      const int64_t image = i / c.pixels, pixel = i % c.pixels;
      const int64_t classes = c.labels ? c.labels : c.classes;
      labels_[i] = static_cast<int64_t>(random() % classes);
      if (uniform(random) < c.ignored) {
        const int64_t none[] = {kIgnore, -1, c.classes, (int64_t{1} << 32) + 1};
        labels_[i] = none[random() % 4];
      }
      std::vector<double> e(c.classes);
      double sum = 0;
      for (double& v : e) sum += v = std::exp(c.sharpness * normal(random));
      const bool ignored = !counts(i);
      for (int64_t k = 0; k < c.classes; ++k) {
        probs_[at(image, k, pixel)] =
            ecgan::cuda::from_float<T>(ignored ? NAN : static_cast<float>(e[k] / sum));
      }
    }
    compute();
  }

  // `error` of a product p, and of sums relative to their largest.
  void check(bool exact, bool need_grad, double error) {
    call_.exact = exact;
    call_.need_grad = need_grad;
    Buffer<unsigned char> workspace(ecgan::cuda::similarity_bce_workspace(call_));
    std::vector<float> first;
    const auto once = [&] {
      wipe();
      std::memset(workspace.data(), 0xFF, workspace.size());
      ecgan::cuda::similarity_bce(call_, probs_.data(), labels_.data(), loss_.data(), valid_.data(),
                                  need_grad ? grad_.data() : nullptr, workspace.data(), nullptr);
      std::vector<float> now(loss_.begin(), loss_.end());
      if (need_grad) now.insert(now.end(), grad_.begin(), grad_.end());
      if (first.empty()) first = now;
      CHECK(now == first, "%s: the order of threads shows", case_.name.c_str());
    };
    if (kSanitized) {
      once();  // what sanitizers look for shows in every order
    } else {
      cudaemu::for_each_order(once);
    }
    for (int64_t b = 0; b < case_.images; ++b) {
      const double want = want_loss_[b];
      const double allowed = error * (loss_slope_[b] + std::fabs(want));
      CHECK(std::fabs(loss_[b] - want) <= allowed,
            "%s, exact %d, gradient %d: loss of image %d is %.9g, want %.9g", case_.name.c_str(),
            exact, need_grad, int(b), double{loss_[b]}, want);
      CHECK(valid_[b] == want_valid_[b], "%s: valid is %d, want %d", case_.name.c_str(),
            int(valid_[b]), int(want_valid_[b]));
    }
    if (!need_grad) return;
    double largest = 0;
    for (double g : want_grad_) largest = std::max(largest, std::fabs(g));
    for (std::size_t i = 0; i < want_grad_.size(); ++i) {
      CHECK(std::fabs(grad_[i] - want_grad_[i]) <= error * (grad_slope_[i] + largest),
            "%s, exact %d: element %zu of the gradient is %.9g, want %.9g", case_.name.c_str(),
            exact, i, double{grad_[i]}, want_grad_[i]);
    }
  }

 private:
  int64_t at(int64_t image, int64_t k, int64_t pixel) const {
    return image * call_.image_stride + k * call_.class_stride + pixel * call_.pixel_stride;
  }
  bool counts(int64_t i) const {
    return labels_[i] != kIgnore && labels_[i] >= 0 && labels_[i] < case_.classes;
  }
  void wipe() {
    std::fill(loss_.begin(), loss_.end(), NAN);
    std::fill(grad_.begin(), grad_.end(), NAN);
    std::fill(valid_.begin(), valid_.end(), -1);
  }
  void compute() {
    const int64_t n = case_.classes, m = case_.pixels;
    want_loss_.assign(case_.images, 0);
    want_valid_.assign(case_.images, 0);
    want_grad_.assign(case_.images * n * m, 0);
    loss_slope_ = want_loss_;
    grad_slope_ = want_grad_;
    for (int64_t b = 0; b < case_.images; ++b) {
      std::vector<int64_t> pixels;
      for (int64_t i = 0; i < m; ++i) {
        if (counts(b * m + i)) pixels.push_back(i);
      }
      const double v = static_cast<double>(pixels.size());
      want_valid_[b] = static_cast<int64_t>(pixels.size());
      std::vector<double> s(n * m);
      for (int64_t k = 0; k < n; ++k) {
        for (int64_t i : pixels) s[k * m + i] = ecgan::cuda::to_float(probs_[at(b, k, i)]);
      }
      for (int64_t i : pixels) {
        for (int64_t j : pixels) {
          double p = 0;
          for (int64_t k = 0; k < n; ++k) p += s[k * m + i] * s[k * m + j];
          const bool same = labels_[b * m + i] == labels_[b * m + j];
          const double x = std::max(same ? p : 1 - p, double{case_.eps});
          want_loss_[b] -= std::log(x) / v / v;
          const double g = (same ? -2 : 2) / x / v / v;
          loss_slope_[b] += 1 / x / v / v;
          for (int64_t k = 0; k < n; ++k) {
            want_grad_[(b * n + k) * m + i] += g * s[k * m + j];
            grad_slope_[(b * n + k) * m + i] += std::fabs(g) / x * s[k * m + j];
          }
        }
      }
    }
  }

  const Case& case_;
  SimilarityBce call_;
  Buffer<T> probs_;
  Buffer<int64_t> labels_;
  Buffer<float> loss_, grad_;
  Buffer<int64_t> valid_;
  std::vector<double> want_loss_, want_grad_;
  std::vector<double> loss_slope_, grad_slope_;  // sums over pairs of |their derivatives by p|
  std::vector<int64_t> want_valid_;
};

template <typename T>
void test(const Case& c, DType dtype) {
  Run<T> run(c, dtype);
  run.check(true, true, 5e-7);
  run.check(true, false, 5e-7);
  if (c.sharpness <= 3) run.check(false, true, 2e-3);  // else halves cannot tell 1 - p from 0
}

// Three pixels that count, of three tiles: row by row, logarithms to base 2 add up to 32 + d - 16,
// d + 0 + 0 and -16 + 0 + 0. In all 2 d, of which a row's sum in float would lose one.
void test_sums_over_tiles() {
  constexpr int64_t kPixels = 257, kClasses = 2;
  Buffer<float> probs(kClasses * kPixels), grad(kClasses * kPixels), loss(1);
  Buffer<int64_t> labels(kPixels), valid(1);
  for (float& p : probs) p = 0;
  for (int64_t& label : labels) label = kIgnore;
  const float vectors[][kClasses] = {{0x1p16f, 0}, {0x1p-16f + 0x1p-36f, 1}, {0x1p-32f, 1}};
  for (int i = 0; i < 3; ++i) {
    labels[i * 128] = 0;
    for (int64_t k = 0; k < kClasses; ++k) probs[k * kPixels + i * 128] = vectors[i][k];
  }
  const SimilarityBce call{
      1, kClasses, kPixels, kClasses * kPixels, kPixels, 1, DType::f32, kIgnore, 1e-6f, true, true};
  Buffer<unsigned char> workspace(ecgan::cuda::similarity_bce_workspace(call));
  ecgan::cuda::similarity_bce(call, probs.data(), labels.data(), loss.data(), valid.data(),
                              grad.data(), workspace.data(), nullptr);
  const double want = -2 * std::log1p(0x1p-20) / 9;
  CHECK(std::fabs(loss[0] - want) <= 1e-5 * -want, "sums over tiles: loss is %.9g, want %.9g",
        double{loss[0]}, want);
}

}  // namespace

int main() {
  const std::vector<Case> cases = {
      {"one pixel", 2, 3, 1},
      {"two tiles", 1, 19, 70},
      {"several row blocks", 1, 5, 261},
      {"channels last", 2, 6, 67, 1, 1e-6f, true},
      {"confident", 1, 5, 131, 30},
      {"confident, tiny eps", 1, 5, 65, 30, 1e-12f},
      {"one label", 1, 4, 33, 3, 1e-6f, false, 0.1, 1},
      {"all ignored", 2, 3, 40, 1, 1e-6f, false, 1.0},
      {"none ignored", 1, 1, 17, 1, 1e-6f, false, 0.0},
      {"two slices", 1, 70, 67},
      {"two chunks", 1, 150, 20},
  };
  for (const Case& c : cases) test<float>(c, DType::f32);
  test<__half>(cases[3], DType::f16);
  test<__nv_bfloat16>(cases[3], DType::bf16);
  if (!kSanitized) test_sums_over_tiles();  // sanitizers see nothing new in it
  const std::string message = message_of([] { test<float>({"f64", 1, 2, 3}, DType::f64); });
  CHECK(message == "similarity_bce: CUDA takes float32, float16 and bfloat16 tensors", "got \"%s\"",
        message.c_str());
  return report();
}
