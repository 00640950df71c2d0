"""The processes of one training: who they are, what they agree on, how gradients are averaged.

Started alone there is one; started by torchrun there are as many as it started, on any number of
nodes, with NCCL between GPUs and gloo between CPUs. Accelerate finds out which and sets them up.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable
from datetime import timedelta
from typing import TypeVar, cast

import torch
import torch.distributed as dist
from accelerate import Accelerator
from accelerate.utils import (
    DistributedDataParallelKwargs,
    InitProcessGroupKwargs,
    broadcast_object_list,
    gather_object,
)
from torch import Tensor, nn

from ecgan.errors import ConfigError
from ecgan.training import rendezvous

T = TypeVar("T")


class Processes:
    """This process among those of the training.

    Args:
        device: ``cpu`` or ``cuda``; each process takes the GPU of its local rank.
        timeout: seconds that a process waits for another one before it gives up.
    """

    def __init__(self, device: str = "cpu", timeout: float = 3600.0) -> None:
        if dist.is_torchelastic_launched() and int(os.environ["WORLD_SIZE"]) > 1:
            rendezvous.join("gloo" if device == "cpu" else "nccl", timedelta(seconds=timeout))
        self._accelerator = Accelerator(
            cpu=device == "cpu",
            # Precision is the training step's: it has two losses and two scales.
            mixed_precision="no",
            kwargs_handlers=[
                InitProcessGroupKwargs(backend=None, timeout=timedelta(seconds=timeout)),
                DistributedDataParallelKwargs(gradient_as_bucket_view=True),
            ],
        )
        self.device = self._accelerator.device
        self.rank = self._accelerator.process_index
        self.count = self._accelerator.num_processes
        self.main = self._accelerator.is_main_process

    def wrap(self, network: nn.Module) -> nn.Module:
        """The network on its device, in DistributedDataParallel where there are others."""
        return self._accelerator.prepare_model(network)

    def any(self, value: bool) -> bool:
        """Whether it is true on any process."""
        if self.count == 1:
            return value
        flag = torch.tensor(float(value), device=self.device)
        dist.all_reduce(flag, dist.ReduceOp.MAX)
        return bool(flag.item())

    def mean(self, values: Tensor) -> Tensor:
        """Mean of a tensor over the processes, of the same shape on each."""
        if self.count == 1:
            return values
        values = values.clone()
        dist.all_reduce(values)
        return values / self.count

    def gather(self, value: T) -> list[T]:
        """Every process's value, in their order."""
        return [value] if self.count == 1 else gather_object([value])

    def from_main(self, compute: Callable[[], T]) -> T:
        """What the first process computes."""
        values = [compute()] if self.main else [None]
        if self.count > 1:
            broadcast_object_list(values)
        return cast(T, values[0])

    def wait(self) -> None:
        """Waits until every process is here."""
        self._accelerator.wait_for_everyone()

    def close(self) -> None:
        """Leaves the group of processes in order."""
        self._accelerator.end_training()

    def check_reached(self, parameters: Iterable[tuple[str, nn.Parameter]]) -> None:
        """Refuses networks with parts that no loss reaches, once gradients are there.

        DistributedDataParallel waits for a gradient of every parameter, and would wait for ever.

        Raises:
            ConfigError: a parameter has no gradient; the message names the part.
        """
        if not dist.is_initialized():
            return
        for name, parameter in parameters:
            if parameter.requires_grad and parameter.grad is None:
                part = ".".join(name.split(".")[:2])
                raise ConfigError(
                    f"no loss reaches {part}, which training on several processes needs of every "
                    "part: switch that component off, or its loss on"
                )


def may_restart() -> bool:
    """Whether torchrun will start the processes again after a fault."""
    return os.environ.get("TORCHELASTIC_MAX_RESTARTS", "0") != "0"
