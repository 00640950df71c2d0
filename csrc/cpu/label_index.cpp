#include "label_index.h"

#include <cstring>

namespace ecgan::cpu {
namespace {

// The maps with a margin of `outside` around each.
struct Padded {
  int64_t height, width;  // with margins
  std::vector<int32_t> data;

  Padded(const int32_t* map, int64_t batch, int64_t h, int64_t w, int32_t outside, int64_t margin)
      : height(h + 2 * margin), width(w + 2 * margin), data(batch * height * width, outside) {
    for (int64_t b = 0; b < batch; ++b) {
      for (int64_t y = 0; y < h; ++y) {
        std::memcpy(&data[(b * height + y + margin) * width + margin], map + (b * h + y) * w,
                    w * sizeof(int32_t));
      }
    }
  }
};

// Open addressing over windows, each known by where it was first met.
class Interner {
 public:
  Interner(const Padded& padded, int64_t k) : padded_(padded), k_(k), slots_(1024) {}

  // The number of the window whose first value stands at `corner` of the padded maps.
  int32_t number(int64_t corner) {
    const uint64_t hash = hash_of(corner);
    const std::size_t mask = slots_.size() - 1;
    std::size_t i = hash & mask;
    for (; slots_[i].id >= 0; i = (i + 1) & mask) {
      if (slots_[i].hash == hash && same(corners_[slots_[i].id], corner)) return slots_[i].id;
    }
    const int32_t id = static_cast<int32_t>(corners_.size());
    slots_[i] = {hash, id};
    corners_.push_back(corner);
    if (2 * corners_.size() > slots_.size()) grow();
    return id;
  }

  const std::vector<int64_t>& corners() const { return corners_; }

 private:
  struct Slot {
    uint64_t hash = 0;
    int32_t id = -1;
  };

  uint64_t hash_of(int64_t corner) const {
    uint64_t hash = 0x9e3779b97f4a7c15u;
    for (int64_t row = 0; row < k_; ++row, corner += padded_.width) {
      for (int64_t i = 0; i < k_; ++i) {
        hash = (hash ^ static_cast<uint32_t>(padded_.data[corner + i])) * 0xff51afd7ed558ccdu;
        hash ^= hash >> 32;
      }
    }
    return hash;
  }

  bool same(int64_t a, int64_t b) const {
    for (int64_t row = 0; row < k_; ++row, a += padded_.width, b += padded_.width) {
      if (std::memcmp(&padded_.data[a], &padded_.data[b], k_ * sizeof(int32_t)) != 0) return false;
    }
    return true;
  }

  void grow() {
    std::vector<Slot> old(4 * slots_.size());
    old.swap(slots_);
    const std::size_t mask = slots_.size() - 1;
    for (const Slot& slot : old) {
      if (slot.id < 0) continue;
      std::size_t i = slot.hash & mask;
      while (slots_[i].id >= 0) i = (i + 1) & mask;
      slots_[i] = slot;
    }
  }

  const Padded& padded_;
  int64_t k_;
  std::vector<Slot> slots_;
  std::vector<int64_t> corners_;
};

// equal[x] = whether a[x .. x + k) equals b[x .. x + k), for x < width. scratch: width + k bytes.
void equal_stretches(const int32_t* a, const int32_t* b, int64_t width, int64_t k, uint8_t* scratch,
                     uint8_t* equal) {
  for (int64_t x = 0; x < width + k - 1; ++x) scratch[x] = a[x] == b[x];
  std::memcpy(equal, scratch, width);
  for (int64_t i = 1; i < k; ++i) {
    for (int64_t x = 0; x < width; ++x) equal[x] &= scratch[x + i];
  }
}

// out[x] = the conjunction of k rows that are `stride` apart.
void conjunction(const uint8_t* rows, int64_t stride, int64_t k, int64_t width, uint8_t* out) {
  std::memcpy(out, rows, width);
  for (int64_t i = 1; i < k; ++i) {
    for (int64_t x = 0; x < width; ++x) out[x] &= rows[i * stride + x];
  }
}

}  // namespace

void label_windows(const int32_t* map, int64_t batch, int64_t height, int64_t width,
                   int32_t outside, int64_t kernel_size, int32_t* inverse,
                   std::vector<int32_t>& windows, int64_t* distinct) {
  *distinct = 0;
  if (batch * height * width == 0) return;
  const int64_t k = kernel_size;
  const Padded padded(map, batch, height, width, outside, k / 2);
  Interner interner(padded, k);
  // Of each row of the padded map, and of each window's columns in it: whether they repeat what
  // stands one pixel further left (from the second pixel on), or one row higher.
  std::vector<uint8_t> as_left(padded.height * width), as_above(padded.height * width);
  std::vector<uint8_t> scratch(width + k), left(width), above(width);
  for (int64_t b = 0; b < batch; ++b) {
    const int64_t first = b * padded.height * padded.width;
    for (int64_t y = 0; y < padded.height; ++y) {
      const int32_t* row = &padded.data[first + y * padded.width];
      uint8_t* flags = &as_left[y * width];
      flags[0] = 0;
      equal_stretches(row + 1, row, width - 1, k, scratch.data(), flags + 1);
      if (y > 0) {
        equal_stretches(row, row - padded.width, width, k, scratch.data(), &as_above[y * width]);
      }
    }
    for (int64_t y = 0; y < height; ++y) {
      int32_t* ids = inverse + (b * height + y) * width;
      conjunction(&as_left[y * width], width, k, width, left.data());
      if (y > 0) conjunction(&as_above[y * width], width, k, width, above.data());
      for (int64_t x = 0; x < width; ++x) {
        ids[x] = left[x]               ? ids[x - 1]
                 : (y > 0 && above[x]) ? ids[x - width]
                                       : interner.number(first + y * padded.width + x);
      }
    }
  }
  const auto& corners = interner.corners();
  *distinct = static_cast<int64_t>(corners.size());
  windows.reserve(windows.size() + corners.size() * k * k);
  for (int64_t corner : corners) {
    for (int64_t row = 0; row < k; ++row) {
      const int32_t* values = &padded.data[corner + row * padded.width];
      windows.insert(windows.end(), values, values + k);
    }
  }
}

void label_segments(const int32_t* inverse, int64_t batch, int64_t pixels, int32_t shortest,
                    std::vector<int32_t>& segments, int64_t* offsets) {
  const auto count = [&] { return static_cast<int64_t>(segments.size() / 2); };
  const int64_t before = count();
  const auto add = [&](int64_t begin, int64_t length) {
    segments.push_back(static_cast<int32_t>(begin));
    segments.push_back(static_cast<int32_t>(length));
  };
  offsets[0] = 0;
  for (int64_t b = 0; b < batch; ++b) {
    const int32_t* ids = inverse + b * pixels;
    int64_t mixed = 0;  // where the mixture before the current run begins
    for (int64_t begin = 0, end; begin < pixels; begin = end) {
      end = begin + 1;
      while (end < pixels && ids[end] == ids[begin]) ++end;
      if (end - begin < shortest) continue;
      if (mixed < begin) add(mixed, mixed - begin);
      add(begin, end - begin);
      mixed = end;
    }
    if (mixed < pixels) add(mixed, mixed - pixels);
    offsets[b + 1] = count() - before;
  }
}

}  // namespace ecgan::cpu
