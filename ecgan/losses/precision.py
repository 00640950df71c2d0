"""The precision in which losses are computed."""

from __future__ import annotations

import torch
from torch import Tensor


def full(x: Tensor) -> Tensor:
    """``x`` in float32, or in float64 where it is that: half types overflow in sums and squares."""
    return x.to(torch.promote_types(x.dtype, torch.float32))
