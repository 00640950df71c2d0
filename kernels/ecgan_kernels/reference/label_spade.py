"""SPADE modulation in plain PyTorch: the specification of LabelSPADE."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor


def label_spade(
    normalized: Tensor,
    conditioning: Tensor,
    shared: tuple[Tensor, Tensor | None],
    gamma: tuple[Tensor, Tensor | None],
    beta: tuple[Tensor, Tensor | None],
    negative_slope: float | None = None,
) -> Tensor:
    """``n * (1 + gamma(c)) + beta(c)``, then LeakyReLU unless ``negative_slope`` is None.

    gamma(c) and beta(c) are convolutions of ``relu(conv(c))``, all with zero padding that keeps
    the size (Park et al., Semantic Image Synthesis with Spatially-Adaptive Normalization, 2019).

    Args:
        normalized: [B, C, H, W], x after its parameter-free normalisation.
        conditioning: [B, Z, H, W], the one-hot label map and what is appended to it.
        shared: weight [hidden, Z, k, k] and bias of the convolution that gamma and beta share.
        gamma: weight [C, hidden, k, k] and bias.
        beta: weight [C, hidden, k, k] and bias.
        negative_slope: slope of the LeakyReLU.

    Returns:
        [B, C, H, W].
    """
    padding = shared[0].shape[-1] // 2
    hidden = F.relu(F.conv2d(conditioning, *shared, padding=padding))
    return modulate(normalized, hidden, gamma, beta, negative_slope)


def modulate(
    normalized: Tensor,
    hidden: Tensor,
    gamma: tuple[Tensor, Tensor | None],
    beta: tuple[Tensor, Tensor | None],
    negative_slope: float | None = None,
) -> Tensor:
    """The rest of :func:`label_spade`, from ``hidden`` [B, hidden, H, W] on."""
    padding = gamma[0].shape[-1] // 2
    scale = F.conv2d(hidden, *gamma, padding=padding)
    shift = F.conv2d(hidden, *beta, padding=padding)
    out = normalized * (1 + scale) + shift
    return out if negative_slope is None else F.leaky_relu(out, negative_slope)
