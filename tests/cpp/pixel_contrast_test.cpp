// pixel_contrast's CUDA kernels on the emulator, against loops over anchors and contrast set.
#include "../../csrc/cuda/pixel_contrast.h"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <limits>
#include <random>
#include <string>
#include <vector>

#include "../../csrc/cuda/scalar.h"
#include "check.h"
#include "cudaemu/cudaemu.h"

using cudaemu::Buffer;
using ecgan::DType;
using ecgan::cuda::PixelContrast;

namespace {

constexpr bool kSanitized = CUDAEMU_WITH_ASAN || CUDAEMU_WITH_TSAN;
constexpr int64_t kIgnore = 7;
constexpr double kInf = std::numeric_limits<double>::infinity();

struct Case {
  std::string name;
  int64_t anchors, others;  // others < 0: the anchors themselves
  int64_t dim;
  float temperature = 0.07f;
  double length = 1;  // of the embeddings
  std::vector<int64_t> classes = {-1, 0, 4, (int64_t{1} << 32) + 4};
  bool transposed = false;
};

// A set in the memory of a GPU, and in double.
template <typename T>
struct Set {
  Buffer<T> data;
  Buffer<int64_t> labels;
  std::vector<double> z;

  Set(const Case& c, int64_t count, unsigned seed) : data(count * c.dim), labels(count) {
    std::mt19937 random(seed);
    std::normal_distribution<double> normal;
    for (int64_t i = 0; i < count; ++i) {
      const bool ignored = random() % 7 == 0;
      labels[i] = ignored ? kIgnore : c.classes[random() % c.classes.size()];
      std::vector<double> v(c.dim);
      double norm = 0;
      for (double& x : v) {
        x = normal(random);
        norm += x * x;
      }
      for (int64_t k = 0; k < c.dim; ++k) {
        T& at = data[c.transposed ? k * count + i : i * c.dim + k];
        at = ecgan::cuda::from_float<T>(
            ignored ? NAN : static_cast<float>(v[k] / std::sqrt(norm) * c.length));
        z.push_back(ignored ? 0 : ecgan::cuda::to_float(at));
      }
    }
  }
};

template <typename T>
class Run {
 public:
  Run(const Case& c, DType dtype)
      : case_(c),
        same_(c.others < 0),
        anchors_(c, c.anchors, 1),
        others_(c, same_ ? 0 : c.others, 2),
        contrast_(same_ ? anchors_ : others_),
        q_(same_ ? c.anchors : c.others),
        loss_(c.anchors),
        negatives_(c.anchors),
        pull_(c.anchors),
        grad_(c.anchors),
        positives_(c.anchors),
        grad_anchors_(c.anchors * c.dim),
        grad_contrast_(same_ ? 0 : c.others * c.dim) {
    const auto set = [&](const Set<T>& s, int64_t count) -> ecgan::cuda::EmbeddingSet {
      return {s.data.data(), c.transposed ? 1 : c.dim, c.transposed ? count : 1,
              dtype,         s.labels.data(),          count};
    };
    call_ = {set(anchors_, c.anchors),
             set(others_, same_ ? 0 : c.others),
             c.dim,
             same_,
             c.temperature,
             kIgnore};
    for (int64_t i = 0; i < c.anchors; ++i) grad_[i] = 0.25f * static_cast<float>(i % 5) - 0.3f;
    compute();
  }

  void check(double tolerance) {
    Buffer<unsigned char> forward(ecgan::cuda::pixel_contrast_workspace(call_));
    Buffer<unsigned char> backward(ecgan::cuda::pixel_contrast_backward_workspace(call_));
    const ecgan::cuda::ContrastStatistics statistics{positives_.data(), negatives_.data(),
                                                     pull_.data()};
    std::vector<float> first;
    const auto once = [&] {
      for (Buffer<float>* b : {&loss_, &negatives_, &pull_, &grad_anchors_, &grad_contrast_}) {
        std::fill(b->begin(), b->end(), NAN);
      }
      std::memset(forward.data(), 0xFF, forward.size());
      std::memset(backward.data(), 0xFF, backward.size());
      ecgan::cuda::pixel_contrast(call_, loss_.data(), statistics, forward.data(), nullptr);
      const std::vector<float> loss(loss_.begin(), loss_.end());
      ecgan::cuda::pixel_contrast(call_, loss_.data(),
                                  {positives_.data(), negatives_.data(), nullptr}, forward.data(),
                                  nullptr);
      CHECK(loss == std::vector<float>(loss_.begin(), loss_.end()),
            "%s: the loss depends on whether pull is wanted", case_.name.c_str());
      ecgan::cuda::pixel_contrast_backward(call_, grad_.data(), statistics, grad_anchors_.data(),
                                           same_ ? nullptr : grad_contrast_.data(), backward.data(),
                                           nullptr);
      std::vector<float> now(loss_.begin(), loss_.end());
      now.insert(now.end(), grad_anchors_.begin(), grad_anchors_.end());
      now.insert(now.end(), grad_contrast_.begin(), grad_contrast_.end());
      if (first.empty()) first = now;
      CHECK(now == first, "%s: the order of threads shows", case_.name.c_str());
    };
    if (kSanitized) {
      once();  // what sanitizers look for shows in every order
    } else {
      cudaemu::for_each_order(once);
    }
    for (int64_t i = 0; i < case_.anchors; ++i) {
      CHECK(positives_[i] == want_positives_[i], "%s: anchor %d has %d positives, want %d",
            case_.name.c_str(), int(i), int(positives_[i]), int(want_positives_[i]));
    }
    // What is exponentiated is as wrong as the products are, times the largest logit.
    const double logit = case_.length * case_.length / case_.temperature;
    const double loose = tolerance * std::max(1.0, std::min(logit, 100.0) / 5);
    near("loss", loss_, want_loss_, tolerance);
    near("grad_anchors", grad_anchors_, want_anchors_, loose);
    near("grad_contrast", grad_contrast_, want_contrast_, loose);
  }

 private:
  void near(const char* what, const Buffer<float>& got, const std::vector<double>& want,
            double tolerance) const {
    double largest = 1e-30;
    for (double x : want) largest = std::max(largest, std::fabs(x));
    for (std::size_t i = 0; i < got.size(); ++i) {
      CHECK(std::fabs(got[i] - want[i]) <= tolerance * largest,
            "%s: %s: element %zu is %.9g, want %.9g", case_.name.c_str(), what, i, double{got[i]},
            want[i]);
    }
  }

  void compute() {
    const int64_t p = case_.anchors, d = case_.dim;
    want_loss_.assign(p, 0);
    want_positives_.assign(p, 0);
    want_anchors_.assign(p * d, 0);
    want_contrast_.assign(same_ ? 0 : q_ * d, 0);
    for (int64_t i = 0; i < p; ++i) {
      std::vector<double> s(q_);
      std::vector<int> kind(q_);  // 1: positive, -1: negative
      double largest = -kInf;
      for (int64_t j = 0; j < q_; ++j) {
        for (int64_t k = 0; k < d; ++k) s[j] += anchors_.z[i * d + k] * contrast_.z[j * d + k];
        s[j] /= case_.temperature;
        const int64_t mine = anchors_.labels[i], other = contrast_.labels[j];
        if (mine == kIgnore || other == kIgnore || (same_ && i == j)) continue;
        kind[j] = mine == other ? 1 : -1;
        want_positives_[i] += kind[j] > 0;
        if (kind[j] < 0) largest = std::max(largest, s[j]);
      }
      if (!want_positives_[i]) continue;
      double sum = 0, pull = 0;
      for (int64_t j = 0; j < q_; ++j) {
        if (kind[j] < 0) sum += std::exp(s[j] - largest);
      }
      const double count = static_cast<double>(want_positives_[i]);
      const double negatives = sum > 0 ? largest + std::log(sum) : -kInf;
      std::vector<double> g(q_);
      for (int64_t j = 0; j < q_; ++j) {
        if (kind[j] <= 0) continue;
        const double x = negatives - s[j];  // loss: softplus(x)
        want_loss_[i] += (std::max(x, 0.0) + std::log1p(std::exp(-std::fabs(x)))) / count;
        g[j] = -1 / (1 + std::exp(-x)) / count;
        pull -= g[j];
      }
      for (int64_t j = 0; j < q_; ++j) {
        if (kind[j] < 0) g[j] = pull * std::exp(s[j] - negatives);
        if (kind[j] == 0) continue;
        for (int64_t k = 0; k < d; ++k) {
          const double scaled = grad_[i] * g[j] / case_.temperature;
          want_anchors_[i * d + k] += scaled * contrast_.z[j * d + k];
          (same_ ? want_anchors_ : want_contrast_)[j * d + k] += scaled * anchors_.z[i * d + k];
        }
      }
    }
  }

  const Case& case_;
  bool same_;
  Set<T> anchors_, others_;
  const Set<T>& contrast_;
  int64_t q_;
  PixelContrast call_;
  Buffer<float> loss_, negatives_, pull_, grad_;
  Buffer<int64_t> positives_;
  Buffer<float> grad_anchors_, grad_contrast_;
  std::vector<double> want_loss_, want_anchors_, want_contrast_;
  std::vector<int64_t> want_positives_;
};

// One anchor whose losses are 2^29 three times and log 2 in 21 tiles. Those are below half a unit
// of the former in float, so that a sum in float would lose them all.
void test_sums_over_tiles() {
  constexpr int64_t kDim = 1, kTile = 64, kFar = 3, kTiles = 24, kContrast = kTiles * kTile;
  Buffer<float> anchor(kDim), contrast(kContrast), loss(1), negatives(1), pull(1);
  Buffer<int64_t> label(1), labels(kContrast), positives(1);
  anchor[0] = 1, label[0] = 0;
  for (int64_t j = 0; j < kContrast; ++j) {
    const bool far = j < kFar * kTile;
    contrast[j] = far && j % kTile == 0 ? -0x1p29f : 0;
    labels[j] = j == 1 ? 1 : far && j % kTile != 0 ? kIgnore : 0;
  }
  const PixelContrast call{{anchor.data(), kDim, 1, DType::f32, label.data(), 1},
                           {contrast.data(), kDim, 1, DType::f32, labels.data(), kContrast},
                           kDim,
                           false,
                           1.0f,
                           kIgnore};
  Buffer<unsigned char> workspace(ecgan::cuda::pixel_contrast_workspace(call));
  ecgan::cuda::pixel_contrast(call, loss.data(), {positives.data(), negatives.data(), pull.data()},
                              workspace.data(), nullptr);
  const double near = static_cast<double>((kTiles - kFar) * kTile);
  const double want = (kFar * 0x1p29 + near * std::log(2.0)) / (kFar + near);
  CHECK(std::fabs(loss[0] - want) <= 0x1p-23 * want, "sums over tiles: loss is %.9g, want %.9g",
        double{loss[0]}, want);
}

}  // namespace

int main() {
  const std::vector<Case> cases = {
      {"one", 1, -1, 3},
      {"same set", 150, -1, 19},
      {"two sets", 70, 135, 20, 0.07f, 1, {0, 1, 2}, true},
      {"cold", 65, -1, 5, 0.01f},
      {"warm", 40, 30, 64, 1.0f},
      {"not normalised", 40, 33, 6, 0.5f, 300},
      {"tiny", 40, 33, 6, 1e-3f, 1e-3},
      {"no negatives", 20, -1, 4, 0.07f, 1, {3}},
      {"no contrast", 5, 0, 4},
      {"no anchors", 0, 5, 4},
      {"two chunks", 30, 20, 150},
  };
  for (const Case& c : cases) Run<float>(c, DType::f32).check(5e-7);
  Run<__half>(cases[2], DType::f16).check(5e-7);
  Run<__nv_bfloat16>(cases[2], DType::bf16).check(5e-7);
  if (!kSanitized) test_sums_over_tiles();  // sanitizers see nothing new in it
  return report();
}
