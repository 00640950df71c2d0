"""Activation checkpointing of blocks whose layers keep running state."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, nullcontext
from typing import TypeVar

import torch
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.utils.parametrizations import _SpectralNorm
from torch.utils.checkpoint import checkpoint

Result = TypeVar("Result")


def recomputed(
    enabled: bool, modules: nn.Module, run: Callable[..., Result], *args: object
) -> Result:
    """Calls ``run(*args)``; if ``enabled``, keeps its arguments only and computes it again later.

    The second computation, in the backward pass, repeats the first exactly: spectral norms take no
    further step of their power iteration and batch norms do not count the batch twice.

    Args:
        enabled: whether to save memory; without gradients there is none to save.
        modules: the module, or a container of those, whose layers ``run`` uses.
        run: the computation. It must not draw random numbers.
        args: its arguments, tensors and others.
    """
    if not (enabled and torch.is_grad_enabled()):
        return run(*args)
    return checkpoint(
        run,
        *args,
        use_reentrant=False,
        preserve_rng_state=False,
        context_fn=lambda: (nullcontext(), _frozen_state(modules)),
    )


@contextmanager
def _frozen_state(modules: nn.Module) -> Iterator[None]:
    with ExitStack() as stack:
        for module in modules.modules():
            if isinstance(module, _SpectralNorm) and module.training:
                module.training = False
                stack.callback(setattr, module, "training", True)
            if isinstance(module, _BatchNorm) and module.track_running_stats:
                stack.callback(setattr, module, "momentum", module.momentum)
                counted = module.num_batches_tracked
                stack.callback(setattr, module, "num_batches_tracked", counted)
                module.momentum = 0.0
                module.num_batches_tracked = None if counted is None else counted.clone()
        yield
