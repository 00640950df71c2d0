#include "edge_transfer_lrelu.h"

#include "edge_transfer_lrelu_simd.h"
#include "isa.h"
#include "walk.h"

namespace ecgan::cpu {

void edge_transfer_lrelu(const void* image, const void* edge, void* image_out, void* edge_out,
                         const Strided<4>& layout, DType dtype, double negative_slope,
                         int64_t begin, int64_t end) {
  const auto run = ECGAN_BEST(edge_transfer_lrelu_run);
  for_each_run<2>(layout,
                  Pointers<4>{{bytes(image), bytes(edge), bytes(image_out), bytes(edge_out)}},
                  dtype, begin, end, [&](const Pointers<4>& p, int64_t n) {
                    run(p.at[0], p.at[1], p.at[2], p.at[3], n, dtype, negative_slope);
                  });
}

void edge_transfer_lrelu_backward(const void* grad_image_out, const void* grad_edge_out,
                                  const void* image_out, const void* edge_out, void* grad_image,
                                  void* grad_edge, const Strided<6>& layout, DType dtype,
                                  double negative_slope, int64_t begin, int64_t end) {
  if (!grad_image && !grad_edge) return;
  const auto run = ECGAN_BEST(edge_transfer_lrelu_backward_run);
  for_each_run<4>(layout,
                  Pointers<6>{{bytes(grad_image_out), bytes(grad_edge_out), bytes(image_out),
                               bytes(edge_out), bytes(grad_image), bytes(grad_edge)}},
                  dtype, begin, end, [&](const Pointers<6>& p, int64_t n) {
                    run(p.at[0], p.at[1], p.at[2], p.at[3], p.at[4], p.at[5], n, dtype,
                        negative_slope);
                  });
}

}  // namespace ecgan::cpu
