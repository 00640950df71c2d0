"""Pixel-wise contrastive loss across layouts (Section 3.3)."""

from __future__ import annotations

from collections.abc import Callable

import torch
from ecgan_kernels import pixel_contrast, sample_pixels
from torch import Tensor


def contrast_loss(
    features: Tensor,
    labels: Tensor,
    projection: Callable[[Tensor], Tensor],
    *,
    ignore_index: int,
    temperature: float = 0.07,
    layouts: int = 8,
    budget: int = 4096,
    predictions: Tensor | None = None,
    generator: torch.Generator | None = None,
) -> Tensor:
    """Pulls embeddings of one class together and pushes classes apart, across layouts.

    The batch is divided into groups of at most ``layouts`` layouts. From each group a
    class-balanced sample of pixels is drawn (all pairs of pixels of eight layouts would be
    terabytes [R18]); its features are projected, normalised and compared, anchors, positives and
    negatives coming from any layout of the group.

    Args:
        features: F, float [B, C, H, W].
        labels: int64 [B, H, W], same grid.
        projection: maps features [P, C] to embeddings [P, D].
        ignore_index: label of void pixels, which are never drawn.
        temperature: tau.
        layouts: most layouts in one group.
        budget: most pixels drawn from one group.
        predictions: int64 [B, H, W]; with them half of each class is drawn where they are wrong.
        generator: random generator of the sampler, on the device of the labels.

    Returns:
        Scalar, float32: mean over the groups.
    """
    groups = -(-len(labels) // layouts)
    predicted = [None] * groups if predictions is None else predictions.chunk(groups)
    losses = []
    for part, target, guess in zip(
        features.chunk(groups), labels.chunk(groups), predicted, strict=True
    ):
        index = sample_pixels(
            target, budget, predictions=guess, generator=generator, ignore_index=ignore_index
        )
        pixels = target[0].numel()
        # [b, C, HW] picked at (image, pixel) gives [K, C] without a channels-last copy of F.
        picked = part.flatten(2)[index // pixels, :, index % pixels]
        losses.append(
            pixel_contrast(
                projection(picked),
                target.flatten()[index],
                temperature=temperature,
                ignore_index=ignore_index,
            )
        )
    return torch.stack(losses).float().mean()
