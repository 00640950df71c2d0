"""Mean losses and speed between two rows of metrics.csv."""

from __future__ import annotations

import time
from collections.abc import Mapping

from torch import Tensor


class Meter:
    """Mean losses and speed since the last row.

    Args:
        images_per_step: pairs per step over all processes.
        seconds: training time before this process started.
    """

    def __init__(self, images_per_step: int, seconds: float) -> None:
        self._images = images_per_step
        self._began = time.perf_counter() - seconds
        self.reset()

    def reset(self) -> None:
        """Starts a new row."""
        self._since = time.perf_counter()
        self._steps = 0
        self._sums: dict[str, Tensor] = {}

    def add(self, terms: Mapping[str, Tensor]) -> None:
        """Adds the losses of one step, without waiting for the device."""
        self._steps += 1
        for name, term in terms.items():
            term = term.detach()
            self._sums[name] = self._sums[name] + term if name in self._sums else term

    @property
    def losses(self) -> dict[str, float]:
        """Mean of each loss."""
        return {name: total.item() / self._steps for name, total in self._sums.items()}

    def row(self, step: int, rates: tuple[float, float], memory: float) -> dict[str, float]:
        """A row of metrics.csv."""
        losses = self.losses  # waits for the device, so before the clock is read
        now = time.perf_counter()
        return {
            "step": step,
            "seconds": now - self._began,
            **losses,
            "lr_generator": rates[0],
            "lr_discriminator": rates[1],
            "images_per_second": self._steps * self._images / (now - self._since),
            "memory_gib": memory,
        }
