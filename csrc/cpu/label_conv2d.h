// CPU kernels of label_conv2d, on raw pointers: no torch header.
#pragma once

#include <cstdint>

#include "../common/types.h"
#include "label_conv2d_simd.h"
#include "pairwise.h"

namespace ecgan::cpu {

struct LabelConv2dShape {
  int64_t batch, height, width;  // of the label map
  int64_t outputs;               // O
  int64_t columns;               // of the weight: classes, and one more with edges
  int64_t kernel_height, kernel_width, stride_height, stride_width;
  int64_t padding_height, padding_width;
  bool edges;

  int64_t classes() const { return columns - edges; }
  int64_t out_height() const {
    return (height + 2 * padding_height - kernel_height) / stride_height + 1;
  }
  int64_t out_width() const {
    return (width + 2 * padding_width - kernel_width) / stride_width + 1;
  }
};

// With the pixel's code c(q), its label and edge bit, and its count s(q):
//   y_o(p) = bias_o + sum_t s(p + t) T_o,c(p + t),t
//   dT_o,c,t = sum_p g_o(p) s(p + t) [c(p + t) = c],   dbias_o = sum_p g_o(p)
// where T is the weight's column of the label, plus that of edges where the bit is set.
//
// Layouts are made of areas: along a row of outputs the window under the kernel stays the same for
// runs of pixels. A window's sum is formed once a run and copied, and in the backward pass a run's
// gradients are summed before they are added to the columns. Runs of length 1 cost no more than a
// plain gather or scatter. Element type E: float, for float64 tensors double.
class LabelConv2d {
 public:
  explicit LabelConv2d(const LabelConv2dShape& shape, DType dtype, bool scaled,
                       const Parallel& parallel);

  // Bytes of scratch memory: linear in the pixels and in the weight. 64-byte aligned.
  int64_t workspace_bytes(bool backward) const;

  // Reads the map. Returns whether every label is in range or ignored.
  bool prepare(void* workspace,
               const void* labels,  // [batch, height, width], contiguous
               int label_bytes,     // 1: uint8, 2: int16, 4: int32, 8: int64
               int64_t ignore_index,
               const uint8_t* edges,  // as labels, or null
               const void* scale);    // E, as labels, or null

  // After prepare(). y is dense: [batch, outputs, pixels].
  void forward(const void* weight,           // E [outputs, columns, kernel_height, kernel_width]
               const int64_t (&strides)[4],  // of the weight, in elements
               const void* bias,             // E [outputs], contiguous, or null
               void* y) const;

  // After prepare(). Does not depend on the number of threads.
  void backward(const void* grad,  // [batch, outputs, pixels] by strides; one of the last is 1
                const int64_t (&strides)[3],
                void* grad_weight,       // E, contiguous as the weight's shape, or null
                void* grad_bias) const;  // E [outputs], or null

 private:
  int64_t element_size() const { return dtype_ == DType::f64 ? 8 : 4; }
  int64_t taps() const { return shape_.kernel_height * shape_.kernel_width; }
  int64_t blocks() const { return (shape_.outputs + kLabelChannels - 1) / kLabelChannels; }
  int64_t codes() const { return (shape_.classes() + 1) * (shape_.edges ? 2 : 1); }
  // Rows of a block's table: one a tap and code, and one for the bias.
  int64_t table_rows() const { return taps() * codes() + 1; }
  int64_t table_bytes() const { return table_rows() * kLabelChannels * element_size(); }
  int64_t parts() const;
  template <class Label>
  bool read_map(const Label* labels, int64_t ignore_index, const uint8_t* edges,
                const void* scale) const;
  template <class E>
  void pack(const E* weight, const int64_t (&strides)[4], const E* bias, char* tables) const;
  template <class E>
  void unpack(const char* tables, int64_t block, E* grad_weight, E* grad_bias) const;
  LabelChunk chunk(int64_t index) const;

  LabelConv2dShape shape_;
  DType dtype_;
  bool scaled_;
  const Parallel& parallel_;

  // Where windows are a whole padded map each (neighbourhoods), the batch is one column of them.
  int64_t images_, rows_, row_outputs_;   // of outputs
  int64_t padded_width_, padded_pixels_;  // of an image of the map
  int64_t image_step_, row_step_;         // from window to window, in elements of the map
  int64_t chunk_rows_, image_chunks_;     // rows of outputs that are worked on at a time
  int64_t chunk_outputs_;
  // In the workspace.
  int32_t* map_ = nullptr;     // [batch, padded height, padded width] codes; margins are void
  char* scale_ = nullptr;      // E, as map_, or null
  int32_t* rank_ = nullptr;    // [chunks, chunk_outputs] run of each output
  int32_t* window_ = nullptr;  // [chunks, chunk_outputs] each run's window, from the chunk's first
  int64_t* runs_ = nullptr;    // [chunks]
  char* tables_ = nullptr;     // E [parts, blocks, table_rows, kLabelChannels]
};

}  // namespace ecgan::cpu
