"""Rows of all processes of a distributed training."""

from __future__ import annotations

import torch
import torch.distributed as dist
from torch import Tensor


def world() -> tuple[int, int]:
    """Number of this process and of all; (0, 1) outside distributed training."""
    if dist.is_available() and dist.is_initialized():
        return dist.get_rank(), dist.get_world_size()
    return 0, 1


def gather_rows(rows: Tensor) -> Tensor:
    """Concatenates every process's tensor, in the order of the processes.

    The own part keeps its graph, the others' come as constants: a loss of the whole that every
    process computes alike thus gives each its own part of the gradient.

    Args:
        rows: [K, *S], of one shape and dtype in all processes.

    Returns:
        [processes * K, *S].
    """
    rank, count = world()
    if count == 1:
        return rows
    own = rows.contiguous()
    parts = [torch.empty_like(own) for _ in range(count)]
    dist.all_gather(parts, own.detach())
    parts[rank] = own
    return torch.cat(parts)


class _ScaleGradient(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x: Tensor, factor: float) -> Tensor:  # type: ignore[no-untyped-def]
        ctx.factor = factor
        return x.view_as(x)

    @staticmethod
    def backward(ctx, grad: Tensor) -> tuple[Tensor, None]:  # type: ignore[no-untyped-def]
        # d(factor-scaled identity): the value passes, its gradient counts factor times.
        return grad * ctx.factor, None


def scale_gradient(x: Tensor, factor: float) -> Tensor:
    """``x``, whose gradient is multiplied by ``factor`` on its way back."""
    return _ScaleGradient.apply(x, factor)
