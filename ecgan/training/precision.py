"""Mixed precision: autocast, and loss scaling for float16."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import AbstractContextManager, nullcontext
from typing import Any, Literal

import torch
from torch import Tensor

_NETWORKS = ("generator", "discriminator")
_DTYPES = {"fp16": torch.float16, "bf16": torch.bfloat16}


class Precision:
    """Autocast type and, for float16, one gradient scaler for each network.

    G and D have a scale of their own: their losses differ by orders of magnitude, and a shared
    scale would be that of the network that overflows first.

    Args:
        kind: ``no``, ``fp16`` (the one for V100) or ``bf16``.
        device: type of the device that computes.
        scaling: whether float16 scales its losses.
    """

    def __init__(
        self,
        kind: Literal["no", "fp16", "bf16"] = "no",
        device: str = "cpu",
        scaling: bool = True,
    ) -> None:
        self._dtype = _DTYPES.get(kind)
        self._device = device
        self.scalers: dict[str, torch.amp.GradScaler] = {}
        if kind == "fp16" and scaling:
            self.scalers = {name: torch.amp.GradScaler(device) for name in _NETWORKS}

    def autocast(self) -> AbstractContextManager[Any]:
        """The context in which networks and losses run."""
        if self._dtype is None:
            return nullcontext()
        return torch.autocast(self._device, self._dtype)

    def scale(self, loss: Tensor, network: str) -> Tensor:
        """The loss times the scale of ``network``, to be differentiated."""
        return self.scalers[network].scale(loss) if self.scalers else loss

    def unscale(self, optimizer: torch.optim.Optimizer, network: str) -> None:
        """Divides the gradients by the scale."""
        if self.scalers:
            self.scalers[network].unscale_(optimizer)

    def step(self, optimizer: torch.optim.Optimizer, network: str, sound: bool) -> None:
        """Updates the weights, if the gradients are ``sound``, and the scale in any case."""
        if not self.scalers:
            if sound:
                optimizer.step()
            return
        scaler = self.scalers[network]
        if sound:
            scaler.step(optimizer)
        scaler.update()

    @property
    def scales(self) -> dict[str, float]:
        """What each network's loss is multiplied by; empty without float16."""
        return {name: scaler.get_scale() for name, scaler in self.scalers.items()}

    def state_dict(self) -> dict[str, dict[str, Any]]:
        """The scalers' states; empty without float16."""
        return {name: scaler.state_dict() for name, scaler in self.scalers.items()}

    def load_state_dict(self, state: Mapping[str, Mapping[str, Any]]) -> None:
        """Takes what :meth:`state_dict` gave; a network that it lacks starts afresh.

        Raises:
            KeyError, TypeError, RuntimeError: it is no scaler's state.
        """
        for name, scaler in self.scalers.items():
            if name in state:
                scaler.load_state_dict(dict(state[name]))
