"""Similarity loss between the label map of the synthesized image and the given one."""

from __future__ import annotations

import torch.nn.functional as F
from ecgan_kernels import similarity_bce
from torch import Generator, Tensor

from ecgan.errors import ConfigError
from ecgan.losses.labels import resize_labels
from ecgan.losses.pair_sampling import sampled_similarity
from ecgan.losses.precision import full


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


def similarity_pairs(pairs: str) -> int | None:
    """Number of pairs drawn from each image; None for ``all`` of them.

    Raises:
        ConfigError: any other text than ``all`` and a number of at least 2.
    """
    if pairs == "all":
        return None
    if pairs.isdecimal() and int(pairs) >= 2:
        return int(pairs)
    raise ConfigError(
        f"similarity_pairs must be all or a number of pairs of at least 2, not {pairs!r}"
    )


def similarity_loss(
    logits: Tensor,
    labels: Tensor,
    *,
    ignore_index: int,
    resolution: str = "quarter",
    pairs: str = "all",
    eps: float = 1e-6,
    generator: Generator | None = None,
) -> Tensor:
    """Binary cross entropy between all pairs of pixels of S and of S'' (Section 3.2, L_sim).

    S'' is soft (the softmax of the logits [R2]), so that gradients reach the image. A pair of
    pixels belongs together where their labels agree; void pixels take part in no pair.

    Args:
        logits: float [B, N, h, w] of the label generator on the final image.
        labels: int64 [B, H, W] of the given layout.
        ignore_index: label of void pixels.
        resolution: grid of the comparison, see :func:`similarity_grid`.
        pairs: ``all``, or the number drawn from each image for an unbiased estimate, see
            :func:`~ecgan.losses.pair_sampling.sampled_similarity`.
        eps: lower bound inside the logarithm.
        generator: random generator of the drawn pairs, on the device of the labels.

    Returns:
        Scalar, float32 (float64 for float64): mean over the images that have a valid pixel.

    Raises:
        ConfigError: ``resolution`` or ``pairs`` is not of the texts that they may be.
    """
    size = similarity_grid(resolution, (labels.shape[1], labels.shape[2]))
    logits = full(logits)
    if logits.shape[2:] != size:
        logits = F.interpolate(logits, size, mode="bilinear", align_corners=False)
    probs, grid = logits.softmax(1), resize_labels(labels, size)
    drawn = similarity_pairs(pairs)
    if drawn is None:
        return similarity_bce(probs, grid, ignore_index=ignore_index, eps=eps)
    return sampled_similarity(
        probs, grid, drawn, ignore_index=ignore_index, eps=eps, generator=generator
    )
