"""Label maps at several resolutions, in plain PyTorch: the specification of LabelIndex."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor


def resize_nearest(labels: Tensor, size: tuple[int, int]) -> Tensor:
    """Resizes ``labels`` [B, H, W] to [B, *size] by F.interpolate's rule, as SPADE does.

    Interpolation needs a floating type; float32 holds every label below 2^24 exactly.
    """
    resized = F.interpolate(labels[:, None].float(), size=size, mode="nearest")
    return resized[:, 0].to(labels.dtype)


def one_hot(
    labels: Tensor,
    num_classes: int,
    edges: Tensor | None = None,
    dtype: torch.dtype = torch.float32,
) -> Tensor:
    """One-hot form of ``labels`` [B, H, W], followed by the channel ``edges`` [B, 1, H, W].

    A label outside ``[0, num_classes)`` gives a column of zeros.
    """
    classes = torch.arange(num_classes, device=labels.device)
    channels = (labels.long()[:, None] == classes[:, None, None]).to(dtype)
    return channels if edges is None else torch.cat([channels, edges.to(dtype)], dim=1)


def neighbourhoods(
    labels: Tensor, num_classes: int, edges: Tensor | None, kernel_size: int
) -> tuple[Tensor, Tensor]:
    """Distinct neighbourhoods of ``kernel_size`` x ``kernel_size`` pixels, and each pixel's own.

    A pixel's code is its label (``num_classes``: void, ``num_classes + 1``: outside the map), plus
    ``num_classes + 2`` where it is an instance edge. Void and outside differ although both have a
    zero one-hot column: the next convolution's padding is zero, a void pixel's feature is not.

    Args:
        labels: int64 [B, H, W] in ``[0, num_classes]``.
        num_classes: number of classes; also the void label.
        edges: bool [B, 1, H, W] or None.
        kernel_size: odd side length.

    Returns:
        patches: int64 [U, kernel_size^2], the distinct neighbourhoods, row-major, sorted.
        inverse: int64 [B, H, W], the row of ``patches`` that surrounds each pixel.
    """
    codes = labels if edges is None else labels + (num_classes + 2) * edges[:, 0].long()
    if codes.numel() == 0:
        return codes.new_empty(0, kernel_size**2), codes.clone()
    margin = kernel_size // 2
    padded = F.pad(codes, (margin, margin, margin, margin), value=num_classes + 1)
    windows = padded.unfold(1, kernel_size, 1).unfold(2, kernel_size, 1)
    patches, inverse = windows.reshape(-1, kernel_size**2).unique(dim=0, return_inverse=True)
    return patches, inverse.view(labels.shape)
