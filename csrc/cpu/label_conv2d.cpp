#include "label_conv2d.h"

#include <algorithm>
#include <atomic>
#include <cstring>
#include <memory>

#include "isa.h"

namespace ecgan::cpu {
namespace {

// Outputs of a chunk, roughly: the sums of as many runs, where every output is one, fit the
// second-level cache beside the table's rows in sight.
constexpr int64_t kChunkOutputs = 512;
// Parallel tasks that the backward pass is cut into, roughly. A fixed number, so that the order of
// its sums does not depend on the threads.
constexpr int64_t kBackwardTasks = 32;

int64_t round_up(int64_t n, int64_t step) {
  return (n + step - 1) / step * step;
}
// Cache lines, and room to read a vector beyond the end.
int64_t padded_bytes(int64_t bytes) {
  return round_up(bytes + 64, 64);
}

int64_t size_of(DType dtype) {
  return dtype == DType::f64 ? 8 : dtype == DType::f32 ? 4 : 2;
}

}  // namespace

LabelConv2d::LabelConv2d(const LabelConv2dShape& shape, DType dtype, bool scaled,
                         const Parallel& parallel)
    : shape_(shape), dtype_(dtype), scaled_(scaled), parallel_(parallel) {
  padded_width_ = shape.width + 2 * shape.padding_width;
  padded_pixels_ = (shape.height + 2 * shape.padding_height) * padded_width_;
  const bool single = shape.out_height() == 1 && shape.out_width() == 1;
  images_ = single ? 1 : shape.batch;
  rows_ = single ? shape.batch : shape.out_height();
  row_outputs_ = shape.out_width();
  image_step_ = padded_pixels_;
  row_step_ = single ? padded_pixels_ : shape.stride_height * padded_width_;
  // Windows are found by 32-bit offsets from a chunk's first.
  chunk_rows_ =
      std::max<int64_t>(1, std::min(kChunkOutputs / row_outputs_, (int64_t{1} << 30) / row_step_));
  image_chunks_ = (rows_ + chunk_rows_ - 1) / chunk_rows_;
  chunk_outputs_ = round_up(chunk_rows_ * row_outputs_, 16);
}

// Parts of the chunks whose sums are kept apart: as many as make the tasks, but their tables are
// no more than a sixteenth of the gradient.
int64_t LabelConv2d::parts() const {
  const int64_t outputs = images_ * rows_ * row_outputs_;
  const int64_t affordable =
      outputs * shape_.outputs * size_of(dtype_) / 16 / (blocks() * table_bytes());
  const int64_t wanted = (kBackwardTasks + blocks() - 1) / blocks();
  return std::max<int64_t>(1, std::min({wanted, affordable, images_ * image_chunks_}));
}

int64_t LabelConv2d::workspace_bytes(bool backward) const {
  const int64_t chunks = images_ * image_chunks_, map = shape_.batch * padded_pixels_;
  return padded_bytes(map * 4) + (scaled_ ? padded_bytes(map * element_size()) : 0) +
         2 * padded_bytes(chunks * chunk_outputs_ * 4) + padded_bytes(chunks * 8) +
         (backward ? parts() : 1) * blocks() * table_bytes();
}

template <class Label>
bool LabelConv2d::read_map(const Label* labels, int64_t ignore_index, const uint8_t* edges,
                           const void* scale) const {
  const int64_t classes = shape_.classes(), width = shape_.width;
  const int32_t none = static_cast<int32_t>(classes);  // the code of a void pixel: a row of zeros
  const int64_t top = shape_.padding_height, left = shape_.padding_width;
  const int64_t size = element_size();
  std::atomic<bool> in_range{true};
  // Images are cut into rows for the threads where they are few.
  const int64_t padded_height = shape_.height + 2 * top;
  const int64_t group = std::max<int64_t>(1, 16384 / padded_width_);
  const int64_t lines = shape_.batch * padded_height;
  parallel_((lines + group - 1) / group, [&](int64_t task) {
    bool good = true;
    for (int64_t n = task * group; n < std::min(lines, (task + 1) * group); ++n) {
      const int64_t b = n / padded_height, y = n % padded_height - top;
      int32_t* out = map_ + n * padded_width_;
      char* counts = scale_ ? scale_ + n * padded_width_ * size : nullptr;
      if (counts) std::memset(counts, 0, padded_width_ * size);
      if (y < 0 || y >= shape_.height) {
        std::fill(out, out + padded_width_, none);
        continue;
      }
      std::fill(out, out + left, none);
      std::fill(out + left + width, out + padded_width_, none);
      const int64_t first = (b * shape_.height + y) * width;
      for (int64_t x = 0; x < width; ++x) {
        const int64_t label = labels[first + x];
        const bool ignored = label == ignore_index;
        const bool known = label >= 0 && label < classes;
        good &= ignored | known;
        out[left + x] = known & !ignored ? static_cast<int32_t>(label) : none;
      }
      if (edges) {
        for (int64_t x = 0; x < width; ++x) out[left + x] += edges[first + x] ? none + 1 : 0;
      }
      if (counts && width > 0) {
        std::memcpy(counts + left * size, static_cast<const char*>(scale) + first * size,
                    width * size);
      }
    }
    if (!good) in_range = false;
  });
  return in_range;
}

bool LabelConv2d::prepare(void* workspace, const void* labels, int label_bytes,
                          int64_t ignore_index, const uint8_t* edges, const void* scale) {
  const int64_t chunks = images_ * image_chunks_, map = shape_.batch * padded_pixels_;
  char* free = static_cast<char*>(workspace);
  const auto take = [&](int64_t bytes) {
    char* taken = free;
    free += padded_bytes(bytes);
    return taken;
  };
  map_ = reinterpret_cast<int32_t*>(take(map * 4));
  scale_ = scaled_ ? take(map * element_size()) : nullptr;
  rank_ = reinterpret_cast<int32_t*>(take(chunks * chunk_outputs_ * 4));
  window_ = reinterpret_cast<int32_t*>(take(chunks * chunk_outputs_ * 4));
  runs_ = reinterpret_cast<int64_t*>(take(chunks * 8));
  tables_ = free;

  bool good;
  switch (label_bytes) {
    case 1:
      good = read_map(static_cast<const uint8_t*>(labels), ignore_index, edges, scale);
      break;
    case 2:
      good = read_map(static_cast<const int16_t*>(labels), ignore_index, edges, scale);
      break;
    case 4:
      good = read_map(static_cast<const int32_t*>(labels), ignore_index, edges, scale);
      break;
    default:
      good = read_map(static_cast<const int64_t*>(labels), ignore_index, edges, scale);
  }
  const auto find_runs = ECGAN_BEST(label_conv2d_runs);
  const int64_t reach = (row_outputs_ - 1) * shape_.stride_width + shape_.kernel_width;
  const int64_t group = 16;  // chunks a task: some ten thousand outputs
  parallel_((chunks + group - 1) / group, [&](int64_t task) {
    const std::unique_ptr<int32_t[]> scratch(new int32_t[reach + 64]);
    for (int64_t n = task * group; n < std::min(chunks, (task + 1) * group); ++n) {
      LabelChunk c = chunk(n);
      find_runs(&c, scratch.get(), dtype_ == DType::f64);
      runs_[n] = c.runs;
    }
  });
  return good;
}

LabelChunk LabelConv2d::chunk(int64_t index) const {
  const int64_t image = index / image_chunks_, row = index % image_chunks_ * chunk_rows_;
  const int64_t first = image * image_step_ + row * row_step_;
  LabelChunk c{};
  c.map = map_ + first;
  c.scale = scale_ ? scale_ + first * element_size() : nullptr;
  c.map_width = padded_width_;
  c.kernel_height = shape_.kernel_height;
  c.kernel_width = shape_.kernel_width;
  c.codes = codes();
  c.rows = std::min(chunk_rows_, rows_ - row);
  c.row_outputs = row_outputs_;
  c.row_step = row_step_;
  c.step = shape_.stride_width;
  c.rank = rank_ + index * chunk_outputs_;
  c.window = window_ + index * chunk_outputs_;
  c.runs = runs_[index];
  return c;
}

// Row (t, c) of a block's table holds what code c under tap t adds to the block's channels.
template <class E>
void LabelConv2d::pack(const E* weight, const int64_t (&strides)[4], const E* bias,
                       char* tables) const {
  const int64_t taps = this->taps(), codes = this->codes(), classes = shape_.classes();
  parallel_(blocks(), [&](int64_t block) {
    E* table = reinterpret_cast<E*>(tables + block * table_bytes());
    std::memset(static_cast<void*>(table), 0, table_bytes());
    const int64_t first = block * kLabelChannels;
    const int64_t channels = std::min(kLabelChannels, shape_.outputs - first);
    for (int64_t o = 0; o < channels; ++o) {
      for (int64_t t = 0; t < taps; ++t) {
        const E* from = weight + (first + o) * strides[0] + t / shape_.kernel_width * strides[2] +
                        t % shape_.kernel_width * strides[3];
        E* row = table + t * codes * kLabelChannels + o;
        for (int64_t n = 0; n < classes; ++n) row[n * kLabelChannels] = from[n * strides[1]];
        if (shape_.edges) {
          const E edge = from[classes * strides[1]];
          E* marked = row + (classes + 1) * kLabelChannels;
          for (int64_t n = 0; n <= classes; ++n) {
            marked[n * kLabelChannels] = row[n * kLabelChannels] + edge;
          }
        }
      }
      if (bias) table[taps * codes * kLabelChannels + o] = bias[first + o];
    }
  });
}

void LabelConv2d::forward(const void* weight, const int64_t (&strides)[4], const void* bias,
                          void* y) const {
  if (dtype_ == DType::f64) {
    pack(static_cast<const double*>(weight), strides, static_cast<const double*>(bias), tables_);
  } else {
    pack(static_cast<const float*>(weight), strides, static_cast<const float*>(bias), tables_);
  }
  const auto run = ECGAN_BEST(label_conv2d_tile);
  const int64_t outputs = rows_ * row_outputs_;  // of an image
  // Of a single window an image, the channels follow each other.
  const bool single = shape_.out_height() == 1 && shape_.out_width() == 1;
  const int64_t channel_stride = single ? 1 : outputs;
  const int64_t output_stride = single ? shape_.outputs : 1;
  parallel_(images_ * image_chunks_ * blocks(), [&](int64_t task) {
    // A block's planes of an image one after another: fresh memory is filled page by page.
    const int64_t block = task / image_chunks_ % blocks();
    const int64_t n = task / (image_chunks_ * blocks()) * image_chunks_ + task % image_chunks_;
    const LabelChunk c = chunk(n);
    const std::unique_ptr<char[]> values(
        new char[label_tile_bytes(chunk_outputs_, element_size())]);
    const int64_t first = block * kLabelChannels;
    const int64_t at = n / image_chunks_ * outputs * shape_.outputs + first * channel_stride +
                       n % image_chunks_ * chunk_rows_ * row_outputs_ * output_stride;
    LabelTile tile{};
    tile.table = tables_ + block * table_bytes();
    tile.channels = std::min(kLabelChannels, shape_.outputs - first);
    tile.data = static_cast<char*>(y) + at * size_of(dtype_);
    tile.channel_stride = channel_stride;
    tile.output_stride = output_stride;
    tile.dtype = dtype_;
    tile.values = values.get();
    run(c, tile);
  });
}

// The sums of all parts, in their order; the edge column's is that of all codes with the bit.
template <class E>
void LabelConv2d::unpack(const char* tables, int64_t block, E* grad_weight, E* grad_bias) const {
  const int64_t taps = this->taps(), codes = this->codes(), classes = shape_.classes();
  const int64_t first = block * kLabelChannels;
  const int64_t channels = std::min(kLabelChannels, shape_.outputs - first);
  const int64_t numel = table_rows() * kLabelChannels;
  E* sum = reinterpret_cast<E*>(const_cast<char*>(tables) + block * table_bytes());
  for (int64_t part = 1; part < parts(); ++part) {
    const E* other = reinterpret_cast<const E*>(tables + (part * blocks() + block) * table_bytes());
    for (int64_t i = 0; i < numel; ++i) sum[i] += other[i];
  }
  for (int64_t o = 0; o < channels; ++o) {
    if (grad_bias) grad_bias[first + o] = sum[taps * codes * kLabelChannels + o];
    if (!grad_weight) continue;
    E* out = grad_weight + (first + o) * shape_.columns * taps;
    for (int64_t t = 0; t < taps; ++t) {
      const E* row = sum + t * codes * kLabelChannels + o;
      for (int64_t n = 0; n < classes; ++n) out[n * taps + t] = row[n * kLabelChannels];
      if (!shape_.edges) continue;
      const E* marked = row + (classes + 1) * kLabelChannels;
      double all = 0;
      for (int64_t n = 0; n <= classes; ++n) {
        if (n < classes) out[n * taps + t] += marked[n * kLabelChannels];
        all += marked[n * kLabelChannels];
      }
      out[classes * taps + t] = static_cast<E>(all);
    }
  }
}

void LabelConv2d::backward(const void* grad, const int64_t (&strides)[3], void* grad_weight,
                           void* grad_bias) const {
  const auto run = ECGAN_BEST(label_conv2d_backward_tile);
  const bool single = shape_.out_height() == 1 && shape_.out_width() == 1;
  // A batch of single windows is one image whose rows they are.
  const int64_t row_stride = single ? strides[0] : row_outputs_ * strides[2];
  const int64_t chunks = images_ * image_chunks_, parts = this->parts();
  parallel_(parts * blocks(), [&](int64_t task) {
    const int64_t part = task / blocks(), block = task % blocks();
    const int64_t first = block * kLabelChannels;
    const std::unique_ptr<char[]> values(
        new char[label_tile_bytes(chunk_outputs_, element_size())]);
    LabelTile tile{};
    tile.table = tables_ + task * table_bytes();
    tile.channels = std::min(kLabelChannels, shape_.outputs - first);
    tile.channel_stride = strides[1];
    tile.output_stride = single ? strides[0] : strides[2];
    tile.dtype = dtype_;
    tile.values = values.get();
    std::memset(tile.table, 0, table_bytes());
    for (int64_t n = chunks * part / parts; n < chunks * (part + 1) / parts; ++n) {
      const int64_t at = (single ? 0 : n / image_chunks_ * strides[0]) + first * strides[1] +
                         n % image_chunks_ * chunk_rows_ * row_stride;
      tile.data = static_cast<char*>(const_cast<void*>(grad)) + at * size_of(dtype_);
      run(chunk(n), tile, grad_weight != nullptr);
    }
  });
  parallel_(blocks(), [&](int64_t block) {
    if (dtype_ == DType::f64) {
      unpack(tables_, block, static_cast<double*>(grad_weight), static_cast<double*>(grad_bias));
    } else {
      unpack(tables_, block, static_cast<float*>(grad_weight), static_cast<float*>(grad_bias));
    }
  });
}

}  // namespace ecgan::cpu
