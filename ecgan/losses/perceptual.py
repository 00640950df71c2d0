"""Perceptual loss L_p on the features of a frozen network."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F
from torch import Tensor

from ecgan.losses.precision import full

if TYPE_CHECKING:
    from ecgan.models.perceptual import PerceptualNetwork


def perceptual_loss(
    network: PerceptualNetwork,
    fakes: Sequence[Tensor],
    reals: Sequence[Tensor],
    pairs: Sequence[tuple[int, int, float]],
) -> Tensor:
    """Weighted sum of ``sum_l w_l mean|phi_l(fake) - phi_l(real)|`` over pairs (fake, real).

    The network sees all fakes in one pass and all reals in another, which keeps no graph; a real
    that serves several fakes is passed once.

    Args:
        network: frozen network; ``forward`` returns one feature map a layer, ``layer_weights`` has
            the w_l.
        fakes: images or three-channel edge maps, each float [B, 3, H, W] in [-1, 1] or near it.
        reals: the same for the real side.
        pairs: (index into fakes, index into reals, weight of the pair).

    Returns:
        Scalar, float32 (float64 for float64).
    """
    with torch.no_grad():
        real_layers = network(torch.cat(list(reals)))
    fake_layers = network(torch.cat(list(fakes)))
    total = fakes[0].new_zeros((), dtype=torch.float32)
    layers = zip(network.layer_weights, fake_layers, real_layers, strict=True)
    for layer_weight, fake_layer, real_layer in layers:
        fake_parts = full(fake_layer).chunk(len(fakes))
        real_parts = full(real_layer).chunk(len(reals))
        for fake, real, weight in pairs:
            total = total + layer_weight * weight * F.l1_loss(fake_parts[fake], real_parts[real])
    return total
