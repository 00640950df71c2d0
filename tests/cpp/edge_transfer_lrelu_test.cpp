// edge_transfer_lrelu's CUDA kernels on the emulator and its CPU kernels, both against double.
#include "../../csrc/cuda/edge_transfer_lrelu.h"

#include <sys/mman.h>

#include <cmath>
#include <cstdint>
#include <cstring>
#include <memory>
#include <random>
#include <set>
#include <string>
#include <vector>

#include "../../csrc/cpu/edge_transfer_lrelu.h"
#include "../../csrc/cuda/scalar.h"
#include "check.h"
#include "cudaemu/cudaemu.h"
#include "elementwise.h"

using ecgan::DType;
using ecgan::cuda::from_float;
using ecgan::cuda::to_float;

namespace {

// The inputs: the two incoming gradients, image and edge forward or their results backward. Then
// what is written: the results forward, the two gradients backward.
enum { kGradImageOut, kGradEdgeOut, kImage, kEdge, kToImage, kToEdge, kTensors };
// The tensor of a case whose strides each has.
constexpr int kStrides[kTensors] = {0, 1, 1, 2, 3, 4};
constexpr double kSlope = 0.2;

double sloped(double y) {
  return y > 0 ? 1 : kSlope;
}

struct Truth {
  double image, edge;
};

Truth forward_truth(double image, double edge) {
  const double e = std::exp(-std::fabs(edge)), s = (edge < 0 ? e : 1) / (1 + e);
  const double y = image * (1 + s);
  return {y * sloped(y), edge * sloped(edge)};
}

Truth backward_truth(bool from_image, double gx, double ge, double image_out, double edge_out) {
  const double edge = edge_out / sloped(edge_out), e = std::exp(-std::fabs(edge));
  const double s = (edge < 0 ? e : 1) / (1 + e), s_slope = e / ((1 + e) * (1 + e));
  const double image = image_out / sloped(image_out) / (1 + s), d = gx * sloped(image_out);
  return {d * (1 + s), (from_image ? d * image * s_slope : 0) + ge * sloped(edge_out)};
}

template <typename T>
class Run {
 public:
  Run(const Case& c, DType dtype) : case_(c), dtype_(dtype) {
    std::mt19937 random(3);
    for (int t = 0; t < kTensors; ++t) {
      at_.push_back(c.elements(kStrides[t]));
      int64_t last = -1;
      for (int64_t i : at_[t]) last = std::max(last, i);
      tensor_.push_back(std::make_unique<cudaemu::Buffer<T>>(last + 1));
      if (t <= kEdge) {
        int i = t;
        for (T& v : *tensor_[t]) v = from_float<T>(sample(random, i += 7));
      }
    }
  }

  void forward() {
    const auto layout = case_.layout<4>({1, 2, 3, 4});
    const auto check = [&](const char* what) {
      for (std::size_t i = 0; i < at_[0].size(); ++i) {
        const Truth want = forward_truth(value(kImage, i), value(kEdge, i));
        expect(kToImage, i, want.image, 0, what);
        expect(kToEdge, i, want.edge, 0, what);
      }
      check_gaps_and_wipe(what, true, true);
    };
    cudaemu::for_each_order([&] {
      ecgan::cuda::edge_transfer_lrelu(data(kImage), data(kEdge), data(kToImage), data(kToEdge),
                                       layout, dtype_, kSlope, nullptr);
      check("cuda");
    });
    for (int64_t middle : {int64_t{0}, layout.numel / 3}) {
      for (int part = 0; part < 2; ++part) {
        ecgan::cpu::edge_transfer_lrelu(data(kImage), data(kEdge), data(kToImage), data(kToEdge),
                                        layout, dtype_, kSlope, part ? middle : 0,
                                        part ? layout.numel : middle);
      }
      check("cpu");
    }
  }

  void backward(bool from_image, bool from_edge, bool need_image, bool need_edge) {
    const auto layout = case_.layout<6>({0, 1, 1, 2, 3, 4});
    const void* const gx = from_image ? data(kGradImageOut) : nullptr;
    const void* const ge = from_edge ? data(kGradEdgeOut) : nullptr;
    void* const dx = need_image ? data(kToImage) : nullptr;
    void* const de = need_edge ? data(kToEdge) : nullptr;
    const auto check = [&](const char* what, double least_exponential) {
      for (std::size_t i = 0; i < at_[0].size(); ++i) {
        const double f = value(kEdge, i), y = from_image ? value(kImage, i) : 0;
        const double g = from_image ? value(kGradImageOut, i) : 0;
        const double h = from_edge ? value(kGradEdgeOut, i) : 0;
        const Truth want = backward_truth(from_image, g, h, y, f);
        if (need_image) expect(kToImage, i, want.image, 0, what);
        // Where sigmoid's slope is too small a number, infinity times it may be NaN.
        const bool vanishes = std::exp(-std::fabs(f / sloped(f))) < least_exponential;
        if (vanishes && !std::isfinite(want.edge)) continue;
        if (need_edge) expect(kToEdge, i, want.edge, std::fabs(g * y) + std::fabs(h), what);
      }
      check_gaps_and_wipe(what, need_image, need_edge);
    };
    cudaemu::for_each_order([&] {
      ecgan::cuda::edge_transfer_lrelu_backward(gx, ge, data(kImage), data(kEdge), dx, de, layout,
                                                dtype_, kSlope, nullptr);
      check("cuda backward", 1e-45);
    });
    ecgan::cpu::edge_transfer_lrelu_backward(gx, ge, data(kImage), data(kEdge), dx, de, layout,
                                             dtype_, kSlope, 0, layout.numel);
    check("cpu backward", 1e-37);
  }

 private:
  // The first element; at_ counts from the start of the buffer.
  T* data(int tensor) { return tensor_[tensor]->data() + case_.offset; }
  double value(int tensor, std::size_t i) const {
    return to_float((*tensor_[tensor])[at_[tensor][i]]);
  }
  void expect(int tensor, std::size_t i, double want, double scale, const char* what) const {
    const double got = value(tensor, i);
    CHECK(near<T>(got, want, scale), "%s, %s: tensor %d, element %zu is %g, want %g", what,
          case_.name.c_str(), tensor, i, got, want);
  }
  // What is no element, or not wanted, must keep the 0xFF it was filled with.
  void check_gaps_and_wipe(const char* what, bool image_written, bool edge_written) {
    for (int t : {kToImage, kToEdge}) {
      std::set<int64_t> elements;
      if (t == kToImage ? image_written : edge_written) {
        elements.insert(at_[t].begin(), at_[t].end());
      }
      auto* const bytes = reinterpret_cast<unsigned char*>(tensor_[t]->data());
      for (std::size_t i = 0; i < tensor_[t]->size(); ++i) {
        if (elements.count(i)) continue;
        CHECK(bytes[i * sizeof(T)] == 0xFF && bytes[i * sizeof(T) + 1] == 0xFF,
              "%s, %s: wrote outside the tensor at %zu", what, case_.name.c_str(), i);
      }
      std::memset(bytes, 0xFF, tensor_[t]->size() * sizeof(T));
    }
  }

  const Case& case_;
  DType dtype_;
  std::vector<std::vector<int64_t>> at_;
  std::vector<std::unique_ptr<cudaemu::Buffer<T>>> tensor_;
};

template <typename T>
void test(DType dtype) {
  for (const Case& c : cases()) {
    Run<T> run(c, dtype);
    run.forward();
    run.backward(true, true, true, true);
    run.backward(true, true, true, false);
    run.backward(true, true, false, true);
    run.backward(true, false, true, true);
    run.backward(true, false, false, true);
    run.backward(false, true, false, true);
    run.backward(true, true, false, false);
  }
}

// Offsets beyond 32 bits: a view with rows 2^31 elements apart, in memory that is never touched.
void test_far_apart() {
#if !CUDAEMU_WITH_ASAN && !CUDAEMU_WITH_TSAN
  constexpr int64_t kApart = int64_t{1} << 31;
  constexpr std::size_t kBytes = 2 * kApart * sizeof(float) + 4096;
  void* memory = mmap(nullptr, kBytes, PROT_READ | PROT_WRITE,
                      MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
  if (memory == MAP_FAILED) return;  // no address space to spare: not what is tested here
  float* const image = static_cast<float*>(memory);
  float out[6], edge_out[6];
  for (int row = 0; row < 3; ++row) {
    for (int i = 0; i < 2; ++i) image[row * kApart + i] = static_cast<float>(row - 10 * i);
  }
  const Case c{"far apart", {2, 3}, {{}, {1, kApart}, {1, kApart}, {1, 2}, {1, 2}}};
  ecgan::cuda::edge_transfer_lrelu(image, image, out, edge_out, c.layout<4>({1, 2, 3, 4}),
                                   DType::f32, kSlope, nullptr);
  for (int i = 0; i < 6; ++i) {
    const double x = i / 2 - 10 * (i % 2);
    const Truth want = forward_truth(x, x);
    CHECK(near<float>(out[i], want.image, 0) && near<float>(edge_out[i], want.edge, 0),
          "far apart: element %d is %g, %g", i, out[i], edge_out[i]);
  }
  munmap(memory, kBytes);
#endif
}

void test_errors() {
  const Case c{"error", {4}, {{1}}};
  cudaemu::Buffer<float> x(4);
  const std::string message = message_of([&] {
    ecgan::cuda::edge_transfer_lrelu(x.data(), x.data(), x.data(), x.data(),
                                     c.layout<4>({1, 2, 3, 4}), DType::f64, kSlope, nullptr);
  });
  CHECK(message == "edge_transfer_lrelu: CUDA takes float32, float16 and bfloat16 tensors",
        "got \"%s\"", message.c_str());
}

}  // namespace

int main() {
  test<float>(DType::f32);
  test<__half>(DType::f16);
  test<__nv_bfloat16>(DType::bf16);
  test_far_apart();
  test_errors();
  return report();
}
