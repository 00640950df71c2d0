"""L1 of the class-specific pixel generation (Section 3.3)."""

from __future__ import annotations

import torch
from torch import Tensor

from ecgan.losses.precision import full


def class_l1(
    class_image: Tensor,
    image: Tensor,
    labels: Tensor,
    *,
    num_classes: int,
    balanced: bool = False,
) -> Tensor:
    """Sum over the classes of the L1 between I and I-hat, both masked by the class.

    As the masks are disjoint the N terms are one L1 with a weight per pixel: 1/(HW) for each valid
    pixel, or with ``balanced`` one over the area of its class in its image [R22]. Void pixels have
    weight zero.

    Args:
        class_image: I_g, float [B, 3, H, W].
        image: I, float [B, 3, H, W].
        labels: int64 [B, H, W] in 0..num_classes, void being num_classes.
        num_classes: N.
        balanced: give each class of an image the same weight, whatever its area.

    Returns:
        Scalar, float32 (float64 for float64): mean over images and colours.
    """
    batch, channels, height, width = image.shape
    valid = (labels < num_classes).float()
    if balanced:
        slots = num_classes + 1
        offset = torch.arange(batch, device=labels.device).view(-1, 1, 1) * slots
        index = (labels + offset).flatten()
        # index_add rather than bincount: no host synchronisation on CUDA.
        area = torch.zeros(batch * slots, device=labels.device).index_add_(
            0, index, torch.ones_like(index, dtype=torch.float32)
        )
        weight = valid / area[index].view_as(valid)
    else:
        weight = valid / (height * width)
    error = (full(class_image) - full(image)).abs()
    return (error * weight.unsqueeze(1)).sum() / (batch * channels)
