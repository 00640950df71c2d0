"""The class-gated 3x3 convolution in plain PyTorch: the specification of class_conv2d."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import once_differentiable

from ecgan_kernels import _autocast


def class_conv2d(
    x: Tensor,
    labels: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    *,
    negative_slope: float | None = None,
) -> Tensor:
    """``y(p) = bias + sum_t W_t a(x(p + t)) [labels(p + t) == labels(p)]`` over the nine taps t.

    a is the LeakyReLU of ``negative_slope``, or the identity. Computed in float32 (float64 for
    float64 input) and rounded once.

    Args:
        x: floating [B, C, H, W]; zero outside.
        labels: integer [B, H, W].
        weight: [O, C, 3, 3].
        bias: [O] or None.
        negative_slope: of the LeakyReLU; None: none.

    Returns:
        [B, O, H, W] in the dtype of ``x``.
    """
    with _autocast.disabled(x):
        slope = 1.0 if negative_slope is None else negative_slope
        y = _ClassConv2d.apply(x, labels, weight, slope)
        if bias is not None:
            y = y + bias[:, None, None]
    return y.to(x.dtype)


def _activated(x: Tensor, dtype: torch.dtype, slope: float) -> Tensor:
    x = x.to(dtype)
    return x if slope == 1 else F.leaky_relu(x, slope)


def _gated(values: Tensor, labels: Tensor, dtype: torch.dtype) -> Iterator[tuple[int, int, Tensor]]:
    """Per tap t = (i - 1, j - 1): values(p + t) [labels(p + t) == labels(p)] as [B, C, H * W]."""
    height, width = labels.shape[1:]
    values, padded = F.pad(values, (1, 1, 1, 1)), F.pad(labels, (1, 1, 1, 1))
    for i in range(3):
        for j in range(3):
            tap = ..., slice(i, i + height), slice(j, j + width)
            same = (padded[tap] == labels)[:, None]
            yield i, j, values[tap].to(dtype).where(same, 0).flatten(2)


class _ClassConv2d(torch.autograd.Function):
    """Keeps x and the labels only; autograd alone would keep nine masked copies of x."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, labels: Tensor, weight: Tensor, slope: float) -> Tensor:
        ctx.save_for_backward(x, labels, weight)
        ctx.slope = slope
        batch, outputs, height, width = x.shape[0], weight.shape[0], *labels.shape[1:]
        wide = torch.promote_types(x.dtype, torch.float32)
        kernel = weight.to(wide)
        y = x.new_zeros(batch, outputs, height * width, dtype=wide)
        for i, j, gated in _gated(_activated(x, wide, slope), labels, wide):
            y.baddbmm_(kernel[:, :, i, j].expand(batch, -1, -1), gated)
        return y.view(batch, outputs, height, width)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, None, Tensor | None, None]:
        x, labels, weight = ctx.saved_tensors
        need_x, _, need_weight, _ = ctx.needs_input_grad
        kernel, sources = weight.to(grad.dtype), _activated(x, grad.dtype, ctx.slope).flatten(2)
        grad_x = torch.zeros_like(sources) if need_x else None
        grad_weight = torch.zeros_like(kernel) if need_weight else None
        with _autocast.disabled(x):
            # Tap t took x(p) to y(p - t): the gradient comes back from the tap on the other side.
            for i, j, gated in _gated(grad, labels, grad.dtype):
                if grad_x is not None:
                    grad_x.baddbmm_(kernel[:, :, 2 - i, 2 - j].t().expand(len(x), -1, -1), gated)
                if grad_weight is not None:
                    grad_weight[:, :, 2 - i, 2 - j] = (gated @ sources.mT).sum(0)
            if grad_x is not None and ctx.slope != 1:
                grad_x = torch.where(x.flatten(2) > 0, grad_x, ctx.slope * grad_x)
        return (
            None if grad_x is None else grad_x.view(x.shape).to(x.dtype),
            None,
            None if grad_weight is None else grad_weight.to(weight.dtype),
            None,
        )
