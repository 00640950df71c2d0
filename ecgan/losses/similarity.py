"""Similarity loss between the label map of the synthesized image and the given one."""

from __future__ import annotations

import torch.nn.functional as F
from ecgan_kernels import similarity_bce
from torch import Tensor

from ecgan.errors import ConfigError
from ecgan.losses.labels import resize_labels


def similarity_grid(resolution: str, size: tuple[int, int]) -> tuple[int, int]:
    """Grid on which pixels are compared.

    Args:
        resolution: ``quarter`` (SegFormer's own output resolution [R3]), ``full``, or a number of
            rows, the columns following the image's shape.
        size: height and width of the image.

    Raises:
        ConfigError: any other text.
    """
    height, width = size
    if resolution == "full":
        return size
    if resolution == "quarter":
        return -(-height // 4), -(-width // 4)
    if resolution.isdecimal() and int(resolution) > 0:
        rows = int(resolution)
        return rows, max(1, round(rows * width / height))
    raise ConfigError(
        "similarity_resolution must be quarter, full or a positive number of rows, "
        f"not {resolution!r}"
    )


def similarity_loss(
    logits: Tensor,
    labels: Tensor,
    *,
    ignore_index: int,
    resolution: str = "quarter",
    eps: float = 1e-6,
) -> Tensor:
    """Binary cross entropy between all pairs of pixels of S and of S'' (Section 3.2, L_sim).

    S'' is soft (the softmax of the logits [R2]), so that gradients reach the image. A pair of
    pixels belongs together where their labels agree; void pixels take part in no pair.

    Args:
        logits: float [B, N, h, w] of the label generator on the final image.
        labels: int64 [B, H, W] of the given layout.
        ignore_index: label of void pixels.
        resolution: grid of the comparison, see :func:`similarity_grid`.
        eps: lower bound inside the logarithm.

    Returns:
        Scalar, float32: mean over the images that have a valid pixel.
    """
    size = similarity_grid(resolution, (labels.shape[1], labels.shape[2]))
    logits = logits.float()
    if logits.shape[2:] != size:
        logits = F.interpolate(logits, size, mode="bilinear", align_corners=False)
    return similarity_bce(
        logits.softmax(1), resize_labels(labels, size), ignore_index=ignore_index, eps=eps
    )
