"""Autocast on any device: on meta tensors, which have none, torch's own functions raise."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext

import torch
from torch import Tensor


def enabled(tensor: Tensor) -> bool:
    """Whether autocast is on for the device of ``tensor``."""
    device = tensor.device.type
    return device != "meta" and torch.is_autocast_enabled(device)


def disabled(tensor: Tensor) -> AbstractContextManager[object]:
    """A context without autocast on the device of ``tensor``."""
    device = tensor.device.type
    return nullcontext() if device == "meta" else torch.autocast(device, enabled=False)
