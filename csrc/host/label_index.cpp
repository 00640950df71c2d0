// ecgan_kernels._host: the label-patch index on numpy arrays, without torch and without the GIL,
// for data-loading workers and for programs that have no torch.
#include "../cpu/label_index.h"

#include <pybind11/numpy.h>
#include <pybind11/pybind11.h>

#include <algorithm>
#include <cstring>
#include <limits>
#include <stdexcept>
#include <string>
#include <utility>
#include <vector>

namespace py = pybind11;

namespace {

// Any integer array: converted, and copied where it is not contiguous or not aligned.
using Map = py::array_t<int32_t, py::array::c_style | py::array::forcecast |
                                     py::detail::npy_api::NPY_ARRAY_ALIGNED_>;

Map checked(const py::array& array, const char* name) {
  const char kind = array.dtype().kind();
  if (kind != 'i' && kind != 'u') {
    throw py::type_error(std::string(name) + " must be an array of integers");
  }
  if (array.ndim() != 3) throw py::value_error(std::string(name) + " must have shape [B, H, W]");
  py::ssize_t pixels = 1;  // with 1 for 0, so that no size of an empty map is out of bounds
  for (py::ssize_t d = 0; d < 3; ++d) {
    const py::ssize_t size = std::max<py::ssize_t>(array.shape(d), 1);
    if (size >= (py::ssize_t{1} << 31) / pixels) {
      throw py::value_error(std::string(name) + " must have fewer than 2^31 pixels");
    }
    pixels *= size;
  }
  if (array.size() > 0 && (array.itemsize() > 4 || (kind == 'u' && array.itemsize() == 4))) {
    using limits = std::numeric_limits<int32_t>;
    if (array.attr("min")() < py::int_(limits::min()) ||
        array.attr("max")() > py::int_(limits::max())) {
      throw py::value_error(std::string(name) + " must hold integers of 32 bits");
    }
  }
  return Map(array);
}

Map rows_of(const std::vector<int32_t>& values, int64_t columns) {
  Map out({static_cast<py::ssize_t>(values.size()) / columns, static_cast<py::ssize_t>(columns)});
  if (!values.empty()) {
    std::memcpy(out.mutable_data(), values.data(), values.size() * sizeof(int32_t));
  }
  return out;
}

std::pair<Map, Map> label_windows(const py::array& array, int32_t outside, int64_t kernel_size) {
  const Map map = checked(array, "map");
  if (kernel_size < 1 || kernel_size % 2 == 0 || kernel_size > ecgan::cpu::kMaxWindow) {
    throw py::value_error("kernel_size must be odd and at most " +
                          std::to_string(ecgan::cpu::kMaxWindow) + ", not " +
                          std::to_string(kernel_size));
  }
  Map inverse({map.shape(0), map.shape(1), map.shape(2)});
  std::vector<int32_t> windows;
  const int32_t* in = map.data();
  int32_t* out = inverse.mutable_data();
  int64_t distinct;
  {
    const py::gil_scoped_release release;
    ecgan::cpu::label_windows(in, map.shape(0), map.shape(1), map.shape(2), outside, kernel_size,
                              out, windows, &distinct);
  }
  return {rows_of(windows, kernel_size * kernel_size), inverse};
}

std::pair<Map, py::array_t<int64_t>> label_segments(const py::array& array, int32_t shortest) {
  const Map inverse = checked(array, "inverse");
  if (shortest < 1) {
    throw py::value_error("shortest must be at least 1, not " + std::to_string(shortest));
  }
  py::array_t<int64_t> offsets(inverse.shape(0) + 1);
  std::vector<int32_t> segments;
  const int32_t* in = inverse.data();
  int64_t* out = offsets.mutable_data();
  {
    const py::gil_scoped_release release;
    ecgan::cpu::label_segments(in, inverse.shape(0), inverse.shape(1) * inverse.shape(2), shortest,
                               segments, out);
  }
  return {rows_of(segments, 2), offsets};
}

}  // namespace

PYBIND11_MODULE(_host, m) {
  m.doc() = "Helpers on numpy arrays that need no torch. They release the GIL.";
  m.def("label_windows", &label_windows, py::arg("map"), py::arg("outside"), py::arg("kernel_size"),
        "Distinct k x k windows of integer maps [B, H, W], with `outside` around each map.\n\n"
        "Returns the windows int32 [U, k * k], in the order of their first pixels, and each\n"
        "pixel's window int32 [B, H, W].");
  m.def("label_segments", &label_segments, py::arg("inverse"), py::arg("shortest"),
        "Cuts each map into runs of one number, `shortest` pixels or longer, and mixtures.\n\n"
        "Returns int32 [S, 2], first pixel and length (negative: a mixture), and each map's\n"
        "first row int64 [B + 1].");
}
