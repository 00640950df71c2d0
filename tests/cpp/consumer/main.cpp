#include <cmath>
#include <cstdio>

#include "cpu/edge_transfer.h"

int main() {
  const float image[3] = {1, -2, 4}, edge[3] = {0, 1, -1};
  float out[3];
  ecgan::Strided<3> layout;
  layout.ndim = 1;
  layout.numel = layout.size[0] = 3;
  for (auto& stride : layout.stride) stride[0] = 1;
  ecgan::cpu::edge_transfer(image, edge, out, layout, ecgan::DType::f32, ecgan::Activation::none, 0,
                            3);
  for (int i = 0; i < 3; ++i) {
    const double want = image[i] * (1 + 1 / (1 + std::exp(-double{edge[i]})));
    if (!(std::fabs(out[i] - want) < 1e-5)) return std::fprintf(stderr, "wrong at %d\n", i), 1;
  }
  std::puts("linked and right");
}
