// Distinct neighbourhoods of a batch of maps, by exact interning, and the runs they come in.
#pragma once

#include <cstdint>
#include <vector>

namespace ecgan::cpu {

// Largest side of a window that callers may ask for: a padded map is then not much larger than the
// map, whatever the window.
constexpr int64_t kMaxWindow = 255;

// Numbers the distinct windows of k x k values around each pixel, k odd, in the order in which a
// row-major walk meets them. Values outside the map are `outside`.
//
// A map of labels gives the patches a convolution of size k sees. The map of their numbers, once
// more with outside = -1, gives those of two such convolutions in a row, (2k-1) x (2k-1) pixels:
// each as the k * k numbers of the first one's patches, -1 where the first has no output.
//
// Exact: a hash only finds candidates, and all k * k values are compared. A pixel whose window
// repeats its left or upper neighbour's (most do) is never hashed.
void label_windows(const int32_t* map,  // [batch, height, width]
                   int64_t batch, int64_t height, int64_t width, int32_t outside,
                   int64_t kernel_size,
                   int32_t* inverse,               // [batch, height, width]
                   std::vector<int32_t>& windows,  // [distinct, kernel_size^2], appended to
                   int64_t* distinct);

// Cuts each image's pixels, row-major, into stretches: one number `shortest` times or more (the
// length is positive), or a mixture (negative).
void label_segments(const int32_t* inverse,  // [batch, pixels]
                    int64_t batch, int64_t pixels, int32_t shortest,
                    std::vector<int32_t>& segments,  // [count, 2]: first pixel, length; appended
                    int64_t* offsets);               // [batch + 1]: each image's first segment

}  // namespace ecgan::cpu
