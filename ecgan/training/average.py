"""Moving average of the generator's weights, and the running statistics that suit it."""

from __future__ import annotations

import copy
from collections.abc import Iterable

import torch
import torch.distributed as dist
from torch.nn.modules.batchnorm import _BatchNorm
from torch.optim.swa_utils import update_bn

from ecgan.models import Generator, Layout
from ecgan.training.processes import Processes

_WARMUP = 10


class GeneratorAverage:
    """Exponential moving average of G's weights (EMA), the generator to show and to evaluate.

    After the n-th update the average keeps min(decay, (1 + n) / (10 + n)) of itself, so that it
    leaves the random start behind quickly. Buffers are G's own.

    Args:
        generator: G, not wrapped.
        decay: share of the old average that an update keeps.
    """

    def __init__(self, generator: Generator, decay: float) -> None:
        self.module = copy.deepcopy(generator).requires_grad_(False).eval()
        """The averaged generator, in evaluation mode."""
        self.updates = 0
        """Updates so far; part of a checkpoint."""
        self._decay = decay

    @torch.no_grad()
    def update(self, generator: Generator) -> None:
        """Takes in the weights after a step."""
        kept = min(self._decay, (1 + self.updates) / (_WARMUP + self.updates))
        torch._foreach_lerp_(list(self.module.parameters()), list(generator.parameters()), 1 - kept)
        for ours, theirs in zip(self.module.buffers(), generator.buffers(), strict=True):
            ours.copy_(theirs)
        self.updates += 1

    def reestimate(self, layouts: Iterable[Layout], processes: Processes) -> None:
        """Computes the running statistics of the average's batch norms anew.

        Those of G belong to weights that the average does not have. Forward passes in training mode
        (which also bring its spectral norms up to date) give the mean over the layouts of all
        processes. Every process must call this. The random generators stay as they are.

        Args:
            layouts: conditioning inputs on the device, as many on each process.
            processes: shares the statistics.
        """
        norms = [
            module
            for module in self.module.modules()
            if isinstance(module, _BatchNorm) and module.track_running_stats
        ]
        if not norms:
            return
        devices = [processes.device] if processes.device.type == "cuda" else []
        with torch.random.fork_rng(devices):
            update_bn(layouts, self.module)
        if processes.count == 1:
            return
        for norm in norms:
            for statistic in (norm.running_mean, norm.running_var):
                assert statistic is not None
                dist.all_reduce(statistic)
                statistic /= processes.count
