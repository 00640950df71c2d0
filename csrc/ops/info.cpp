// What the loaded library says of itself.
#include <torch/csrc/stable/library.h>

#include <string>

#include "../cpu/isa.h"

namespace {

std::string cpu_isa() {
  return ecgan::cpu::isa_name();
}

}  // namespace

STABLE_TORCH_LIBRARY_FRAGMENT(ecgan, m) {
  m.def("cpu_isa() -> str");
}

STABLE_TORCH_LIBRARY_IMPL(ecgan, CompositeExplicitAutograd, m) {
  m.impl("cpu_isa", TORCH_BOX(&cpu_isa));
}
