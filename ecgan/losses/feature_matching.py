"""Discriminator feature matching L_f."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from ecgan.losses.precision import full


def feature_matching(fake: Sequence[Sequence[Tensor]], real: Sequence[Sequence[Tensor]]) -> Tensor:
    """L1 between the discriminator's features of a fake and of its real counterpart.

    For each scale the mean absolute differences of all layers but the last (the logits) are added;
    the sum over scales is divided by their number. The real side is a constant.

    Args:
        fake: per scale, per layer: features of the fake, the last layer being the patch logits.
        real: the same of the real image or edge map.

    Returns:
        Scalar, float32 (float64 for float64).
    """
    terms = [
        F.l1_loss(full(f), full(r.detach()))
        for fake_layers, real_layers in zip(fake, real, strict=True)
        for f, r in zip(fake_layers[:-1], real_layers[:-1], strict=True)
    ]
    return torch.stack(terms).sum() / len(fake)
