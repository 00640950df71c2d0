"""Adversarial losses over the scales of a patch discriminator (Equations 5 and 6)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from ecgan.losses.precision import full

GANMode = Literal["hinge", "original", "ls"]


def gan_loss(
    logits: Sequence[Tensor], real: bool, mode: GANMode = "hinge", *, for_discriminator: bool = True
) -> Tensor:
    """Mean over the scales of the adversarial loss of one image.

    The equations' log form is ``original``; the authors train with ``hinge`` [R8].

    ========  ==========================  ==========================  ====================
    mode      discriminator, real         discriminator, fake         generator
    ========  ==========================  ==========================  ====================
    hinge     ``mean(relu(1 - x))``       ``mean(relu(1 + x))``       ``-mean(x)``
    original  ``mean(-log sigmoid(x))``   ``mean(-log(1-sigmoid))``   ``mean(-log sigmoid(x))``
    ls        ``mean((x - 1)^2)``         ``mean(x^2)``               ``mean((x - 1)^2)``
    ========  ==========================  ==========================  ====================

    Args:
        logits: patch logits, one tensor a scale, any shape and floating dtype.
        real: what the logits are pushed towards: True for real pairs, False for fakes. The
            generator wants its fakes taken for real, so it passes True.
        mode: form of the loss.
        for_discriminator: whose loss this is.

    Returns:
        Scalar, float32 (float64 for float64).

    Raises:
        ValueError: an unknown mode, no logits, or a generator that asks for ``real=False``.
    """
    if not logits:
        raise ValueError("gan_loss needs the logits of at least one scale, got none")
    if not for_discriminator and not real:
        raise ValueError("the generator's loss pushes logits towards real: real must be True")
    return torch.stack([_one_scale(full(x), real, mode, for_discriminator) for x in logits]).mean()


def _one_scale(x: Tensor, real: bool, mode: GANMode, for_discriminator: bool) -> Tensor:
    if mode == "hinge":
        if not for_discriminator:
            return -x.mean()
        return F.relu(1 - x if real else 1 + x).mean()
    if mode == "original":
        return F.softplus(-x if real else x).mean()
    if mode == "ls":
        return (x - float(real)).square().mean()
    raise ValueError(f"mode must be hinge, original or ls, not {mode!r}")
