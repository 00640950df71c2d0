// Names that every kernel and its callers share. No torch and no CUDA header.
#pragma once

namespace ecgan {

// Element type of the tensors a kernel works on.
enum class DType : int { f32, f16, bf16, f64 };

// Activation that edge_transfer applies to both of its inputs first.
enum class Activation : int { none, tanh };

}  // namespace ecgan
