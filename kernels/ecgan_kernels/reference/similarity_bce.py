"""The pairwise similarity loss in plain PyTorch: the specification of similarity_bce."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from ecgan_kernels import _autocast

_ROWS = 512  # of the pair matrix at a time: its temporaries stay in cache


def similarity_bce(
    probs: Tensor,
    labels: Tensor,
    *,
    ignore_index: int = 255,
    eps: float = 1e-6,
    precision: str = "exact",
    reduction: str = "mean",
) -> Tensor:
    """Mean over an image's pixel pairs of the cross entropy of <s_i, s_j> with "same class".

    Computed in float32 (float64 for float64 input) whatever ``precision`` says, in blocks of rows
    of the pair matrix; autograd keeps the whole matrix.

    Args:
        probs: class probabilities s, floating [B, N, *S].
        labels: integer [B, *S].
        ignore_index: label of the pixels that leave rows and columns of the pair matrix.
        eps: lower bound inside the logarithm.
        precision: "exact" or "fast"; no difference here.
        reduction: "mean", "sum" or "none".

    Returns:
        Scalar, or [B] for "none".
    """
    with _autocast.disabled(probs):
        batch, classes = probs.shape[:2]
        pixels = labels.shape[1:].numel()
        s = probs.reshape(batch, classes, pixels)
        s = s.to(torch.promote_types(s.dtype, torch.float32))
        flat = labels.reshape(batch, pixels).long()
        valid = (flat != ignore_index) & (flat >= 0) & (flat < classes)
        s = s.where(valid[:, None], 0)  # a NaN at an ignored pixel would survive a zero weight
        if flat.numel() > 0:
            image_loss = torch.stack(
                [_image_loss(s[b], flat[b], valid[b], eps) for b in range(batch)]
            )
        else:
            image_loss = s.sum((1, 2))  # zeros [B], still part of the graph
        if reduction == "none":
            return image_loss
        if reduction == "sum":
            return image_loss.sum()
        return image_loss.sum() / valid.any(1).sum().clamp(min=1)


def _image_loss(s: Tensor, labels: Tensor, valid: Tensor, eps: float) -> Tensor:
    """Loss of one image: s [N, M], labels [M], valid [M]."""
    v = valid.to(s.dtype)
    sums = []
    for first in range(0, len(v), _ROWS):
        rows = slice(first, first + _ROWS)
        p = s[:, rows].t() @ s
        same = labels[rows, None] == labels
        sums.append(v[rows] @ _LogAgreement.apply(p, same, eps) @ v)
    return -torch.stack(sums).sum() / v.sum().clamp(min=1) ** 2


class _LogAgreement(torch.autograd.Function):
    """``log max(x, eps)``, x = p where the pixels are of the same class and 1 - p elsewhere.

    Its gradient is that of ``log x`` with ``1 / max(x, eps)`` for ``1 / x``. A clamp would cut it
    below eps, and with it the pull on confidently wrong pairs.
    """

    @staticmethod
    def forward(ctx: Any, p: Tensor, same: Tensor, eps: float) -> Tensor:
        bounded = torch.where(same, p, 1 - p).clamp(min=eps)
        ctx.save_for_backward(bounded, same)
        return bounded.log()

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None, None]:
        bounded, same = ctx.saved_tensors
        return torch.where(same, grad, -grad) / bounded, None, None
