"""Mean losses and speed between two rows of metrics.csv."""

from __future__ import annotations

import time
from collections.abc import Mapping

import torch
from torch import Tensor

from ecgan.training.processes import Processes


class Meter:
    """Mean losses and speed since the last row.

    Args:
        images_per_step: pairs per step over all processes.
        seconds: training time before this process started.
        processes: losses are means over them.
    """

    def __init__(self, images_per_step: int, seconds: float, processes: Processes) -> None:
        self._images = images_per_step
        self._processes = processes
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
    def names(self) -> list[str]:
        """Names of the losses."""
        return list(self._sums)

    def row(self, step: int, rates: tuple[float, float], memory: float) -> dict[str, float]:
        """A row of metrics.csv; every process must call this."""
        losses: list[float] = []
        if self._sums:  # else every step was skipped
            means = torch.stack(list(self._sums.values())) / self._steps
            losses = self._processes.mean(means).tolist()
        # They wait for the device, so before the clock is read.
        now = time.perf_counter()
        return {
            "step": step,
            "seconds": now - self._began,
            **dict(zip(self.names, losses, strict=True)),
            "lr_generator": rates[0],
            "lr_discriminator": rates[1],
            "images_per_second": self._steps * self._images / (now - self._since),
            "memory_gib": memory,
        }
