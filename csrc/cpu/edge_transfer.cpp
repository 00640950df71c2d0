#include "edge_transfer.h"

#include "edge_transfer_simd.h"
#include "isa.h"
#include "walk.h"

namespace ecgan::cpu {

void edge_transfer(const void* image, const void* edge, void* out, const Strided<3>& layout,
                   DType dtype, Activation activation, int64_t begin, int64_t end) {
  const auto run = ECGAN_BEST(edge_transfer_run);
  for_each_run<2>(layout, Pointers<3>{{bytes(image), bytes(edge), bytes(out)}}, dtype, begin, end,
                  [&](const Pointers<3>& p, int64_t n) {
                    run(p.at[0], p.at[1], p.at[2], n, dtype, activation);
                  });
}

void edge_transfer_backward(const void* grad, const void* image, const void* edge, void* grad_image,
                            void* grad_edge, const Strided<5>& layout, DType dtype,
                            Activation activation, int64_t begin, int64_t end) {
  if (!grad_image && !grad_edge) return;
  const auto run = ECGAN_BEST(edge_transfer_backward_run);
  for_each_run<3>(
      layout,
      Pointers<5>{{bytes(grad), bytes(image), bytes(edge), bytes(grad_image), bytes(grad_edge)}},
      dtype, begin, end, [&](const Pointers<5>& p, int64_t n) {
        run(p.at[0], p.at[1], p.at[2], p.at[3], p.at[4], n, dtype, activation);
      });
}

}  // namespace ecgan::cpu
