"""Convolution of a label map's one-hot form in plain PyTorch: the specification of label_conv2d."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from ecgan_kernels.reference.label_index import one_hot


def label_conv2d(
    labels: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    *,
    stride: int | tuple[int, int] = 1,
    padding: int | tuple[int, int] = 0,
    ignore_index: int = 255,
    edges: Tensor | None = None,
    scale: Tensor | None = None,
) -> Tensor:
    """``conv2d(one_hot(labels), weight, bias, stride, padding)``; ignored pixels are zero columns.

    Args:
        labels: integer [B, H, W].
        weight: [O, N, kh, kw], with ``edges`` [O, N + 1, kh, kw].
        bias: [O] or None.
        stride: step between outputs, in pixels.
        padding: width of the zero margin, in pixels.
        ignore_index: label without a column, even where it is less than N.
        edges: [B, 1, H, W], or None. The last column of the weight is that of ``edges != 0``.
        scale: [B, H, W] or what expands to it, or None. Factor of each pixel's column and edge.

    Returns:
        [B, O, H', W'].
    """
    values = labels.long()
    values = torch.where(values == ignore_index, -1, values)
    if edges is not None:
        edges = edges != 0
    classes = weight.shape[1] - (edges is not None)
    columns = one_hot(values, classes, edges, weight.dtype)
    if scale is not None:
        columns = columns * scale.detach().expand(labels.shape)[:, None].to(weight.dtype)
    return F.conv2d(columns, weight, bias, stride=stride, padding=padding)
