// Proofs that the emulator computes right and finds planted faults. The argument picks one; those
// that end in a sanitizer's report are judged by it (see CMakeLists.txt).
#include <cmath>
#include <random>
#include <string>
#include <vector>

#include "check.h"
#include "cudaemu/cudaemu.h"
#include "emulator_kernels.h"

using cudaemu::Buffer;
using cudaemu::for_each_order;
using ecgan::cuda::launch;

namespace {

constexpr int kCount = 10007, kRows = 128;

struct Data {
  Buffer<float> x{kCount};
  Buffer<__half> s{kRows * 32};
  double sum = 0, pairs = 0;

  Data() {
    std::mt19937 random(1);
    std::uniform_real_distribution<float> signed_unit(-1, 1), small(0, 0.15f);
    for (float& v : x) sum += v = signed_unit(random);
    for (__half& v : s) v = __float2half_rn(small(random));
    for (int i = 0; i < kRows; ++i) {
      for (int j = 0; j < kRows; ++j) {
        double dot = 0;
        for (int k = 0; k < 32; ++k) {
          dot += double{__half2float(s[i * 32 + k])} * __half2float(s[j * 32 + k]);
        }
        pairs += std::log1p(-dot);
      }
    }
  }
};

bool near(double got, double want) {
  return std::fabs(got - want) <= 1e-4 * (1 + std::fabs(want));
}

template <Fault F>
float reduce(const Data& data) {
  Buffer<float> out(1);
  out[0] = 0;
  launch("reduce_sum", reduce_sum<F>, 4, 256, 0, nullptr, data.x.data(), out.data(), kCount);
  return out[0];
}

template <Fault F>
float pair_sum(const Data& data) {
  Buffer<float> out(1);
  out[0] = 0;
  launch("pair_log_sum", pair_log_sum<F>, kRows / 16 * (kRows / 16) / 4, 128, 4 * 1024, nullptr,
         data.s.data(), out.data(), kRows);
  return out[0];
}

void right(const Data& data) {
  for_each_order([&] {
    const float sum = reduce<Fault::none>(data), pairs = pair_sum<Fault::none>(data);
    CHECK(near(sum, data.sum), "got %g, want %g", sum, data.sum);
    CHECK(near(pairs, data.pairs), "got %g, want %g", pairs, data.pairs);
    Buffer<int> y(320);
    launch("collectives", collectives, 1, 64, 0, nullptr, y.data());
    for (int i = 0; i < 64; ++i) {
      const int warp = i / 32 * 32;
      int votes = 0;
      for (int l = 0; l < 32; ++l) votes |= ((warp + l) % 3 == 0) << l;
      CHECK(y[i] == warp + 3, "shfl: got %d in thread %d", y[i], i);
      CHECK(y[64 + i] == (i % 32 == 31 ? i : i + 1), "shfl_down: got %d in thread %d", y[64 + i],
            i);
      CHECK(y[128 + i] == (i % 16 < 2 ? i : i - 2), "shfl_up: got %d in thread %d", y[128 + i], i);
      CHECK(y[192 + i] == votes, "ballot: got %d in thread %d", y[192 + i], i);
      CHECK(y[256 + i] == (i < 32 ? 1 : 2), "all, any: got %d in thread %d", y[256 + i], i);
    }
  });
}

// Unwritten shared memory is NaN: without the barrier, an order in which a reader comes first
// shows.
void missing_barrier_shows(const Data& data) {
  int wrong = 0;
  for_each_order([&] {
    wrong += !near(reduce<Fault::no_barrier>(data), data.sum);
    wrong += !near(pair_sum<Fault::no_barrier>(data), data.pairs);
  });
  CHECK(wrong > 0, "a missing barrier went unnoticed in every order");
}

void misuse(const Data& data) {
  Buffer<int> out(64);
  const auto says = [](const std::string& message, const char* part) {
    CHECK(message.find(part) != std::string::npos, "got \"%s\", want \"%s\"", message.c_str(),
          part);
  };
  const auto run = [&](auto kernel, dim3 grid, dim3 block) {
    return message_of([&] { launch("misuse", kernel, grid, block, 0, nullptr, out.data()); });
  };
  says(run(divergent_barrier, 1, 64), "__syncthreads reached at different places");
  says(run(early_exit, 1, 64), "1 threads returned before this __syncthreads");
  says(run(absent_lanes, 1, 16), "has exited or does not exist");
  says(run(absent_lanes, 1, 32), "deadlock: a *_sync collective never completes");
  says(run(absent_lanes, 1, 2048), "misuse: CUDA kernel launch failed: invalid configuration");
  says(run(absent_lanes, 0, 32), "misuse: CUDA kernel launch failed: invalid configuration");
  says(message_of([&] { launch("static", much_static_shared, 1, 1, 0, nullptr, data.x.data()); }),
       "static shared memory: more than 48 KiB");

  // Shared memory by architecture: what an H100 takes is too much for a V100.
  const auto reduce_with = [&](int arch, std::size_t bytes) {
    cudaemu::options().shared_limit = cudaemu::shared_memory_limit(arch);
    Buffer<float> sum(1);
    sum[0] = 0;
    return message_of([&] {
      launch("reduce", reduce_sum<Fault::none>, 1, 32, bytes, nullptr, data.x.data(), sum.data(),
             1);
    });
  };
  says(reduce_with(75, 65 << 10), "reduce: this GPU has too little shared memory");
  says(reduce_with(70, 100 << 10), "reduce: this GPU has too little shared memory");
  says(reduce_with(70, 96 << 10), "the limit is 98304");  // static and dynamic together
  CHECK(reduce_with(70, 95 << 10).empty(), "95 KiB is fine on sm_70");
  CHECK(reduce_with(90, 200 << 10).empty(), "200 KiB is fine on sm_90");
}

}  // namespace

int main(int argc, char** argv) {
  const std::string mode = argc > 1 ? argv[1] : "right";
  const Data data;
  if (mode == "right") right(data);
  if (mode == "missing_barrier_shows") missing_barrier_shows(data);
  if (mode == "misuse") misuse(data);
  // The rest are for the sanitizers.
  if (mode == "race") reduce<Fault::no_barrier>(data);
  if (mode == "warp_race") pair_sum<Fault::no_barrier>(data);
  if (mode == "block_race") {
    Buffer<int> out(1);
    launch("racing_blocks", racing_blocks, 2, 1, 0, nullptr, out.data());
  }
  if (mode == "past_the_end") reduce<Fault::past_the_end>(data);
  if (mode == "shared_past_the_end") pair_sum<Fault::past_the_end>(data);
  if (mode == "misaligned") reduce<Fault::misaligned>(data);
  return report();
}
