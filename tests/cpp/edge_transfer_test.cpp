// edge_transfer's CUDA kernels on the emulator and its CPU kernels, both against loops in double.
#include "../../csrc/cuda/edge_transfer.h"

#include <sys/mman.h>

#include <cmath>
#include <cstdint>
#include <memory>
#include <random>
#include <set>
#include <string>
#include <vector>

#include "../../csrc/cpu/edge_transfer.h"
#include "../../csrc/cuda/scalar.h"
#include "check.h"
#include "cudaemu/cudaemu.h"
#include "elementwise.h"

using ecgan::Activation;
using ecgan::DType;
using ecgan::cuda::from_float;
using ecgan::cuda::to_float;

namespace {

// Tensors of one case, in the order of the backward's layout.
enum { kGrad, kImage, kEdge, kGradImage, kGradEdge, kTensors };

struct Truth {
  double out, grad_image, grad_edge;
};

Truth truth(double grad, double image, double edge, Activation activation) {
  double image_slope = 1, edge_slope = 1;
  if (activation == Activation::tanh) {
    image_slope = 1 / (std::cosh(image) * std::cosh(image));
    edge_slope = 1 / (std::cosh(edge) * std::cosh(edge));
    image = std::tanh(image);
    edge = std::tanh(edge);
  }
  const double e = std::exp(-std::fabs(edge)), s = (edge < 0 ? e : 1) / (1 + e);
  const double s_slope = e / ((1 + e) * (1 + e));
  return {image * (1 + s), grad * (1 + s) * image_slope, grad * image * s_slope * edge_slope};
}

template <typename T>
class Run {
 public:
  Run(const Case& c, DType dtype) : case_(c), dtype_(dtype) {
    std::mt19937 random(3);
    for (int t = 0; t < kTensors; ++t) {
      at_.push_back(c.elements(t));
      int64_t last = -1;
      for (int64_t i : at_[t]) last = std::max(last, i);
      tensor_.push_back(std::make_unique<cudaemu::Buffer<T>>(last + 1));
      if (t <= kEdge) {
        int i = t;
        for (T& v : *tensor_[t]) v = from_float<T>(sample(random, i += 7));
      }
    }
  }

  void forward(Activation activation) {
    const auto layout = case_.layout<3>({kImage, kEdge, kGradImage});
    const auto check = [&](const char* what) {
      for (std::size_t i = 0; i < at_[0].size(); ++i) {
        expect(kGradImage, i, truth_at(i, activation).out, 0, what);
      }
      check_gaps(kGradImage, what);
      wipe();
    };
    cudaemu::for_each_order([&] {
      ecgan::cuda::edge_transfer(data(kImage), data(kEdge), data(kGradImage), layout, dtype_,
                                 activation, nullptr);
      check("cuda");
    });
    for (int64_t middle : {int64_t{0}, layout.numel / 3}) {
      ecgan::cpu::edge_transfer(data(kImage), data(kEdge), data(kGradImage), layout, dtype_,
                                activation, 0, middle);
      ecgan::cpu::edge_transfer(data(kImage), data(kEdge), data(kGradImage), layout, dtype_,
                                activation, middle, layout.numel);
      check("cpu");
    }
  }

  void backward(Activation activation, bool need_image, bool need_edge) {
    const auto layout = case_.layout<5>({kGrad, kImage, kEdge, kGradImage, kGradEdge});
    void* const grad_image = need_image ? data(kGradImage) : nullptr;
    void* const grad_edge = need_edge ? data(kGradEdge) : nullptr;
    // The CPU kernel's s (1 - s) is 0 below the normal numbers, and infinity times it NaN.
    const auto check = [&](const char* what, bool vanishes) {
      for (std::size_t i = 0; i < at_[0].size(); ++i) {
        const Truth want = truth_at(i, activation);
        const double g = std::fabs(value(kGrad, i)), x = std::fabs(value(kImage, i));
        const bool tanh = activation == Activation::tanh;
        const double edge_scale = tanh ? g * std::fmin(x, 1) : 0;
        if (vanishes && !std::isfinite(want.grad_edge)) continue;
        if (need_image) expect(kGradImage, i, want.grad_image, tanh ? 2 * g : 0, what);
        if (need_edge) expect(kGradEdge, i, want.grad_edge, edge_scale, what);
      }
      check_gaps(kGradImage, what, need_image);
      check_gaps(kGradEdge, what, need_edge);
      wipe();
    };
    cudaemu::for_each_order([&] {
      ecgan::cuda::edge_transfer_backward(data(kGrad), data(kImage), data(kEdge), grad_image,
                                          grad_edge, layout, dtype_, activation, nullptr);
      check("cuda backward", false);
    });
    ecgan::cpu::edge_transfer_backward(data(kGrad), data(kImage), data(kEdge), grad_image,
                                       grad_edge, layout, dtype_, activation, 0, layout.numel);
    check("cpu backward", true);
  }

 private:
  // The first element; at_ counts from the start of the buffer.
  T* data(int tensor) { return tensor_[tensor]->data() + case_.offset; }
  double value(int tensor, std::size_t i) const {
    return to_float((*tensor_[tensor])[at_[tensor][i]]);
  }
  Truth truth_at(std::size_t i, Activation activation) const {
    return truth(value(kGrad, i), value(kImage, i), value(kEdge, i), activation);
  }
  void expect(int tensor, std::size_t i, double want, double scale, const char* what) const {
    const double got = value(tensor, i);
    CHECK(near<T>(got, want, scale), "%s, %s: tensor %d, element %zu is %g, want %g", what,
          case_.name.c_str(), tensor, i, got, want);
  }
  // What is no element, or not wanted, must keep the 0xFF it was filled with.
  void check_gaps(int tensor, const char* what, bool written = true) const {
    std::set<int64_t> elements;
    if (written) elements.insert(at_[tensor].begin(), at_[tensor].end());
    for (std::size_t i = 0; i < tensor_[tensor]->size(); ++i) {
      if (elements.count(i)) continue;
      const auto* byte = reinterpret_cast<const unsigned char*>(tensor_[tensor]->data() + i);
      CHECK(byte[0] == 0xFF && byte[1] == 0xFF, "%s, %s: wrote outside the tensor at %zu", what,
            case_.name.c_str(), i);
    }
  }
  void wipe() {
    for (int t : {kGradImage, kGradEdge}) {
      std::memset(static_cast<void*>(tensor_[t]->data()), 0xFF, tensor_[t]->size() * sizeof(T));
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
    for (Activation activation : {Activation::none, Activation::tanh}) {
      run.forward(activation);
      run.backward(activation, true, true);
      run.backward(activation, true, false);
      run.backward(activation, false, true);
      run.backward(activation, false, false);
    }
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
  float out[6];
  for (int row = 0; row < 3; ++row) {
    for (int i = 0; i < 2; ++i) image[row * kApart + i] = static_cast<float>(row + 10 * i);
  }
  const Case c{"far apart", {2, 3}, {{}, {1, kApart}, {1, kApart}, {1, 2}, {1, 2}}};
  ecgan::cuda::edge_transfer(image, image, out, c.layout<3>({kImage, kEdge, kGradImage}),
                             DType::f32, Activation::none, nullptr);
  for (int i = 0; i < 6; ++i) {
    const double x = i / 2 + 10 * (i % 2);
    CHECK(near<float>(out[i], truth(0, x, x, Activation::none).out, 0),
          "far apart: element %d is %g", i, out[i]);
  }
  munmap(memory, kBytes);
#endif
}

void test_errors() {
  const Case c{"error", {4}, {{1}}};
  cudaemu::Buffer<float> x(4);
  const std::string message = message_of([&] {
    ecgan::cuda::edge_transfer(x.data(), x.data(), x.data(),
                               c.layout<3>({kImage, kEdge, kGradImage}), DType::f64,
                               Activation::none, nullptr);
  });
  CHECK(message == "edge_transfer: CUDA takes float32, float16 and bfloat16 tensors", "got \"%s\"",
        message.c_str());
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
