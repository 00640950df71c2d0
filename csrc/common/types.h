// Names that every kernel and its callers share. No torch and no CUDA header.
#pragma once

namespace ecgan {

// Element type of the tensors a kernel works on.
enum class DType : int { f32, f16, bf16, f64 };

// Activation that edge_transfer applies to both of its inputs first.
enum class Activation : int { none, tanh };

// Where label_spade's statistics come from: the values of an image's channel, of a channel, or
// constants; `shared` are those of a channel over several processes, which constants hold too but
// gradients pass through.
enum class SpadeNorm : int { instance, batch, fixed, shared };

}  // namespace ecgan
