// label_spade's CUDA kernels on the emulator and its CPU kernels, both against loops in double; and
// the index behind them.
#include "../../csrc/cuda/label_spade.h"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <map>
#include <numeric>
#include <random>
#include <string>
#include <vector>

#include "../../csrc/cpu/label_index.h"
#include "../../csrc/cpu/label_spade.h"
#include "../../csrc/cuda/scalar.h"
#include "check.h"
#include "cudaemu/cudaemu.h"

using cudaemu::Buffer;
using ecgan::DType;
using ecgan::SpadeNorm;
using ecgan::cuda::from_float;
using ecgan::cuda::to_float;

namespace {

constexpr bool kSanitized = CUDAEMU_WITH_ASAN || CUDAEMU_WITH_TSAN;
constexpr double kEps = 1e-5;

struct Case {
  std::string name;
  int64_t batch, channels, pixels, patches;
  int64_t run = 1;  // pixels of one patch in a row, on average
  SpadeNorm norm = SpadeNorm::instance;
  float slope = 0.2f;
  int64_t gap = 0;     // between planes
  int64_t offset = 0;  // of the first value
};

std::vector<Case> cases() {
  constexpr auto kInstance = SpadeNorm::instance, kBatch = SpadeNorm::batch;
  return {
      {"mixture", 2, 3, 203, 40},
      {"runs", 2, 2, 1536, 30, 40, kBatch},
      {"one patch", 3, 2, 640, 1, 1, kInstance, 1.0f},
      {"many chunks", 1, 2, 9000, 5, 700, kInstance},
      {"fixed", 2, 3, 96, 12, 4, SpadeNorm::fixed},
      {"shared", 2, 3, 96, 12, 4, SpadeNorm::shared},
      {"gaps", 2, 3, 64, 9, 20, kBatch, 0.1f, 5, 3},
      {"one pixel", 4, 2, 1, 2, 1, kBatch},
      {"absent patches", 1, 2, 50, 200, 3, kBatch},
  };
}

template <typename T>
class Run {
 public:
  Run(const Case& c, DType dtype)
      : case_(c),
        dtype_(dtype),
        x_(span()),
        grad_(span()),
        out_(values()),
        inverse_(c.batch * c.pixels),
        order_(c.batch * c.pixels),
        starts_(c.patches + 1),
        table_(2 * c.channels * c.patches),
        grad_table_(2 * c.channels * c.patches),
        mean_(means()),
        var_(means()),
        sums_(2 * means()) {
    std::mt19937 random(static_cast<unsigned>(c.pixels + c.patches));
    std::normal_distribution<float> normal;
    for (std::size_t i = 0; i < x_.size(); ++i) {
      x_[i] = from_float<T>(normal(random) * 2 + 1);
      grad_[i] = from_float<T>(normal(random));
    }
    for (float& v : table_) v = 0.5f * normal(random);
    int32_t patch = 0;
    for (int32_t& u : inverse_) {
      if (random() % c.run == 0) patch = static_cast<int32_t>(random() % c.patches);
      u = patch;
    }
    std::iota(order_.begin(), order_.end(), 0);
    std::stable_sort(order_.begin(), order_.end(),
                     [&](int32_t a, int32_t b) { return inverse_[a] < inverse_[b]; });
    for (int64_t u = 0; u <= c.patches; ++u) {
      starts_[u] = static_cast<int32_t>(
          std::count_if(inverse_.begin(), inverse_.end(), [&](int32_t v) { return v < u; }));
    }
    for (int64_t i = 0; i < means(); ++i) {  // of `fixed` and `shared`
      mean_[i] = 0.3 * normal(random);
      var_[i] = 1 + std::fabs(normal(random));
    }
    compute();
  }

  void cuda() {
    ecgan::cuda::LabelSpade op{case_.batch,     case_.channels, case_.pixels,   case_.patches,
                               inverse_.data(), order_.data(),  starts_.data(), table_.data(),
                               dtype_,          case_.norm,     kEps,           case_.slope};
    Buffer<unsigned char> workspace(ecgan::cuda::label_spade_workspace(op));
    const T* const x = x_.data() + case_.offset;
    const T* const grad = grad_.data() + case_.offset;
    const auto [b, c] = strides();
    std::vector<unsigned char> first;
    const auto once = [&] {
      wipe(&workspace);
      if (computes()) {
        ecgan::cuda::label_spade_statistics(op, x, b, c, mean_.data(), var_.data(),
                                            workspace.data(), nullptr);
      }
      ecgan::cuda::label_spade(op, x, b, c, out_.data(), mean_.data(), var_.data(), nullptr);
      check_forward("cuda");
      std::vector<unsigned char> now = bytes(out_);
      wipe(&workspace);
      if (case_.norm != SpadeNorm::fixed) {
        ecgan::cuda::label_spade_sums(op, grad, b, c, x, b, c, mean_.data(), var_.data(),
                                      sums_.data(), workspace.data(), nullptr);
      }
      divide_shared();
      ecgan::cuda::label_spade_input(op, grad, b, c, x, b, c, mean_.data(), var_.data(),
                                     case_.norm == SpadeNorm::fixed ? nullptr : sums_.data(),
                                     out_.data(), nullptr);
      std::memset(workspace.data(), 0xFF, workspace.size());
      ecgan::cuda::label_spade_table(op, grad, b, c, x, b, c, mean_.data(), var_.data(),
                                     grad_table_.data(), workspace.data(), nullptr);
      check_backward("cuda");
      for (const auto& more : {bytes(out_), bytes(grad_table_)}) {
        now.insert(now.end(), more.begin(), more.end());
      }
      if (first.empty()) first = now;
      CHECK(now == first, "%s: the order of threads shows", case_.name.c_str());
    };
    if (kSanitized) {
      once();  // what sanitizers look for shows in every order
    } else {
      cudaemu::for_each_order(once);
    }
  }

  void cpu() {
    std::vector<int32_t> segments;
    std::vector<int64_t> offsets(case_.batch + 1);
    ecgan::cpu::label_segments(inverse_.data(), case_.batch, case_.pixels, 16, segments,
                               offsets.data());
    const ecgan::cpu::LabelSpade op{
        case_.batch,     case_.channels,  case_.pixels,   case_.patches,
        inverse_.data(), segments.data(), offsets.data(), table_.data(),
        dtype_,          case_.norm,      kEps,           double{case_.slope}};
    const auto run = [](int64_t count, const std::function<void(int64_t)>& task) {
      for (int64_t i = count; i-- > 0;) task(i);
    };
    wipe(nullptr);
    const T* const x = x_.data() + case_.offset;
    const T* const grad = grad_.data() + case_.offset;
    const auto [b, c] = strides();
    ecgan::cpu::label_spade(op, x, b, c, out_.data(), mean_.data(), var_.data(), run);
    check_forward("cpu");
    wipe(nullptr);
    const auto backward = [&](void* grad_x, void* grad_table) {
      ecgan::cpu::label_spade_backward(op, grad, b, c, x, b, c, mean_.data(), var_.data(), grad_x,
                                       grad_table, sums_.data(), run);
    };
    if (case_.norm == SpadeNorm::shared) {
      backward(nullptr, grad_table_.data());
      divide_shared();
      backward(out_.data(), nullptr);
    } else {
      backward(out_.data(), grad_table_.data());
    }
    check_backward("cpu");
  }

 private:
  int64_t values() const { return case_.batch * case_.channels * case_.pixels; }
  int64_t span() const {
    return case_.batch * case_.channels * (case_.pixels + case_.gap) + case_.offset;
  }
  int64_t means() const {
    return case_.channels * (case_.norm == SpadeNorm::instance ? case_.batch : 1);
  }
  bool computes() const {
    return case_.norm == SpadeNorm::instance || case_.norm == SpadeNorm::batch;
  }
  std::pair<int64_t, int64_t> strides() const {
    const int64_t plane = case_.pixels + case_.gap;
    return {case_.channels * plane, plane};
  }
  int64_t at(int64_t b, int64_t c, int64_t p) const {
    const auto [batch, channel] = strides();
    return case_.offset + b * batch + c * channel + p;
  }
  int64_t place(int64_t b, int64_t c) const {
    return case_.norm == SpadeNorm::instance ? b * case_.channels + c : c;
  }
  double count() const {
    return static_cast<double>(case_.pixels *
                               (case_.norm == SpadeNorm::instance ? 1 : case_.batch));
  }
  // What the processes together would do: here there is one.
  void divide_shared() {
    if (case_.norm != SpadeNorm::shared) return;
    for (double& v : sums_) v /= count();
  }
  template <typename V>
  static std::vector<unsigned char> bytes(const Buffer<V>& buffer) {
    const auto* begin = reinterpret_cast<const unsigned char*>(buffer.data());
    return {begin, begin + buffer.size() * sizeof(V)};
  }
  void wipe(Buffer<unsigned char>* workspace) {
    std::memset(static_cast<void*>(out_.data()), 0xFF, out_.size() * sizeof(T));
    std::fill(grad_table_.begin(), grad_table_.end(), NAN);
    if (computes() && workspace) std::fill(sums_.begin(), sums_.end(), NAN);
    if (workspace) std::memset(workspace->data(), 0xFF, workspace->size());
  }

  template <typename F>
  void each(F f) const {
    for (int64_t b = 0; b < case_.batch; ++b) {
      for (int64_t c = 0; c < case_.channels; ++c) {
        for (int64_t p = 0; p < case_.pixels; ++p)
          f(b, c, p, (b * case_.channels + c) * case_.pixels + p);
      }
    }
  }

  void compute() {
    want_mean_.assign(mean_.begin(), mean_.end());
    want_var_.assign(var_.begin(), var_.end());
    if (computes()) {
      std::fill(want_mean_.begin(), want_mean_.end(), 0);
      std::fill(want_var_.begin(), want_var_.end(), 0);
      each([&](int64_t b, int64_t c, int64_t p, int64_t) {
        want_mean_[place(b, c)] += to_float(x_[at(b, c, p)]) / count();
      });
      each([&](int64_t b, int64_t c, int64_t p, int64_t) {
        const double d = to_float(x_[at(b, c, p)]) - want_mean_[place(b, c)];
        want_var_[place(b, c)] += d * d / count();
      });
    }
    want_.resize(values());
    want_grad_.resize(values());
    want_table_.assign(table_.size(), 0);
    std::vector<double> d(values()), n(values()), sums(2 * means());
    each([&](int64_t b, int64_t c, int64_t p, int64_t i) {
      const int64_t u = inverse_[b * case_.pixels + p], j = place(b, c);
      const int64_t gamma = c * case_.patches + u, beta = (case_.channels + c) * case_.patches + u;
      n[i] = (to_float(x_[at(b, c, p)]) - want_mean_[j]) / std::sqrt(want_var_[j] + kEps);
      const double z = n[i] * (1 + double{table_[gamma]}) + table_[beta];
      want_[i] = z > 0 ? z : case_.slope * z;
      const double through = to_float(grad_[at(b, c, p)]) * (z > 0 ? 1 : double{case_.slope});
      want_table_[gamma] += through * n[i];
      want_table_[beta] += through;
      d[i] = through * (1 + double{table_[gamma]});
      if (case_.norm != SpadeNorm::fixed) {
        sums[2 * j] += d[i] / count();
        sums[2 * j + 1] += d[i] * n[i] / count();
      }
    });
    each([&](int64_t b, int64_t c, int64_t, int64_t i) {
      const int64_t j = place(b, c);
      want_grad_[i] =
          (d[i] - sums[2 * j] - n[i] * sums[2 * j + 1]) / std::sqrt(want_var_[j] + kEps);
    });
  }

  static constexpr double kRounding = sizeof(T) == 4              ? 2e-6
                                      : std::is_same_v<T, __half> ? 0x1p-11 + 2e-6
                                                                  : 0x1p-8 + 2e-6;
  void near(double got, double want, double scale, const char* what, int64_t i) const {
    CHECK(std::fabs(got - want) <= scale, "%s, %s: element %d is %.9g, want %.9g", what,
          case_.name.c_str(), int(i), got, want);
  }
  void check_forward(const char* what) const {
    for (int64_t i = 0; i < means(); ++i) {
      near(mean_[i], want_mean_[i], 1e-6, what, i);
      near(var_[i], want_var_[i], 1e-6 * (1 + want_var_[i]), what, i);
    }
    for (int64_t i = 0; i < values(); ++i) {
      near(to_float(out_[i]), want_[i], kRounding * (1 + std::fabs(want_[i])) * 2, what, i);
    }
  }
  void check_backward(const char* what) const {
    const double largest =
        std::accumulate(want_grad_.begin(), want_grad_.end(), 1.0,
                        [](double a, double b) { return std::max(a, std::fabs(b)); });
    for (int64_t i = 0; i < values(); ++i) {
      near(to_float(out_[i]), want_grad_[i],
           kRounding * (2 * std::fabs(want_grad_[i])) + 1e-5 * largest, what, i);
    }
    const double per_patch = static_cast<double>(case_.batch * case_.pixels);
    for (std::size_t i = 0; i < want_table_.size(); ++i) {
      near(grad_table_[i], want_table_[i],
           1e-6 * (10 + std::sqrt(per_patch)) * (1 + std::fabs(want_table_[i])), what,
           static_cast<int64_t>(i));
    }
  }

  const Case& case_;
  DType dtype_;
  Buffer<T> x_, grad_, out_;
  Buffer<int32_t> inverse_, order_, starts_;
  Buffer<float> table_, grad_table_;
  Buffer<double> mean_, var_, sums_;
  std::vector<double> want_mean_, want_var_, want_, want_grad_, want_table_;
};

template <typename T>
void test(DType dtype) {
  for (const Case& c : cases()) {
    Run<T> run(c, dtype);
    run.cuda();
    run.cpu();
  }
}

// Equal numbers stand for equal windows, by the contents of every window.
void test_windows() {
  std::mt19937 random(1);
  for (const auto& [height, width, k, values] :
       {std::tuple{1, 1, 3, 2}, {7, 9, 3, 2}, {1, 30, 5, 2}, {30, 1, 3, 3}, {12, 31, 5, 2}}) {
    const int64_t batch = 2;
    std::vector<int32_t> map(batch * height * width), inverse(map.size()), windows;
    for (int32_t& v : map) v = static_cast<int32_t>(random() % values);
    int64_t distinct;
    ecgan::cpu::label_windows(map.data(), batch, height, width, -1, k, inverse.data(), windows,
                              &distinct);
    std::map<std::vector<int32_t>, int32_t> seen;
    for (int64_t i = 0; i < batch * height * width; ++i) {
      const int64_t b = i / (height * width), y = i / width % height, x = i % width;
      std::vector<int32_t> window;
      for (int64_t r = y - k / 2; r <= y + k / 2; ++r) {
        for (int64_t c = x - k / 2; c <= x + k / 2; ++c) {
          const bool inside = r >= 0 && r < height && c >= 0 && c < width;
          window.push_back(inside ? map[(b * height + r) * width + c] : -1);
        }
      }
      const int32_t id = seen.emplace(window, static_cast<int32_t>(seen.size())).first->second;
      CHECK(inverse[i] == id, "%d x %d, k %d: pixel %d has %d, want %d", int(height), int(width),
            int(k), int(i), inverse[i], id);
      CHECK(std::equal(window.begin(), window.end(), windows.begin() + id * k * k), "window %d",
            id);
    }
    CHECK(distinct == static_cast<int64_t>(seen.size()), "%d windows", int(distinct));
  }
}

// Planes whose sums are 2^26, 4 and -2^26: exact, and only double adds them up.
void test_sums_over_planes() {
  constexpr int64_t kBatch = 3, kPixels = 4;
  Buffer<float> x(kBatch * kPixels), table(2);
  Buffer<int32_t> inverse(kBatch * kPixels);
  const float values[] = {0x1p24f, 1, -0x1p24f};
  for (std::size_t i = 0; i < x.size(); ++i) x[i] = values[i / kPixels], inverse[i] = 0;
  table[0] = table[1] = 0;
  Buffer<double> mean(1), var(1), sums(2);
  const ecgan::cuda::LabelSpade op{kBatch,  1,       kPixels,      1,          inverse.data(),
                                   nullptr, nullptr, table.data(), DType::f32, SpadeNorm::batch,
                                   kEps,    1.0f};
  Buffer<unsigned char> workspace(ecgan::cuda::label_spade_workspace(op));
  ecgan::cuda::label_spade_statistics(op, x.data(), kPixels, kPixels, mean.data(), var.data(),
                                      workspace.data(), nullptr);
  CHECK(std::fabs(mean[0] - 1.0 / 3) <= 1e-12, "mean is %.9g, want 1/3", mean[0]);
  ecgan::cuda::label_spade_sums(op, x.data(), kPixels, kPixels, x.data(), kPixels, kPixels,
                                mean.data(), var.data(), sums.data(), workspace.data(), nullptr);
  CHECK(std::fabs(sums[0] - 1.0 / 3) <= 1e-12, "mean gradient is %.9g, want 1/3", sums[0]);
}

void test_errors() {
  ecgan::cuda::LabelSpade op{};
  op.batch = op.channels = op.pixels = op.patches = 1;
  op.dtype = DType::f64;
  const std::string message = message_of(
      [&] { ecgan::cuda::label_spade(op, nullptr, 1, 1, nullptr, nullptr, nullptr, nullptr); });
  CHECK(message == "label_spade: CUDA takes float32, float16 and bfloat16 tensors", "got \"%s\"",
        message.c_str());
}

}  // namespace

int main() {
  test<float>(DType::f32);
  test<__half>(DType::f16);
  test<__nv_bfloat16>(DType::bf16);
  test_windows();
  test_sums_over_planes();
  test_errors();
  return report();
}
