"""Steps whose numbers are not finite: left out, explained, and the end of a run that has many."""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from ecgan.errors import ECGANError
from ecgan.training.processes import Processes

_NAMED = 3
"""Parameters that a message names."""


class NonFiniteLossError(ECGANError):
    """Losses or gradients stay infinite or NaN."""


@dataclass
class BadStep:
    """Why an update was left out, on one process."""

    network: str
    """generator or discriminator."""
    culprits: list[str]
    """Losses that are not finite on this process; without one, parameters whose gradient is not."""
    losses: dict[str, float]
    """All terms of the loss."""
    files: list[str]
    """Names of the pairs of the batches."""
    statistics: dict[str, dict[str, float]] = field(default_factory=dict)
    """Least, largest and mean finite value, and the share that is not finite, of the batches'
    images and edges and of the gradients of each part of the network."""


class Guard:
    """Looks at every update before it is made.

    An update whose loss or gradient is not finite is left out on all processes, and what the
    forward pass had changed by then (running statistics, the queue of embeddings) is put back, as
    one infinite activation would stay in them for ever.

    Args:
        modules: everything whose buffers a forward pass changes.
        limit: bad steps in a row at which :meth:`settle` raises.
        processes: agrees between the processes.
    """

    def __init__(self, modules: Iterable[nn.Module], limit: int, processes: Processes) -> None:
        self._buffers = [buffer for module in modules for buffer in module.buffers()]
        self._kept = [torch.empty_like(buffer) for buffer in self._buffers]
        self._limit = limit
        self._processes = processes
        self.skipped = 0
        """Steps left out so far, in whole or in D's half."""
        self.in_row = 0
        """Steps left out since the last good one."""
        self.last: list[BadStep] = []
        """Why the latest was, for each process."""

    def remember(self) -> None:
        """Keeps what the step's forward passes will change."""
        with torch.no_grad():
            if self._buffers:
                torch._foreach_copy_(self._kept, self._buffers)

    def sound(
        self,
        network: str,
        terms: Mapping[str, Tensor],
        parameters: Iterable[tuple[str, nn.Parameter]],
        batches: Sequence[Mapping[str, Any]],
    ) -> bool:
        """Whether the update may be made; the same answer on every process.

        Args:
            network: generator or discriminator.
            terms: the loss's terms, scalars.
            parameters: the network's, by name, with their gradients.
            batches: what the losses were computed from.
        """
        named = [(name, p.grad) for name, p in parameters if p.grad is not None]
        gradients = [gradient for _, gradient in named]
        # One wait for the device, by the largest magnitude: a sum of squares might overflow.
        finite = torch.isfinite(torch.stack(list(terms.values()))).all()
        if gradients:
            largest = torch.stack(list(torch._foreach_norm(gradients, math.inf)))
            finite = finite & torch.isfinite(largest).all()
        if not self._processes.any(not bool(finite)):
            return True
        if self._buffers:
            with torch.no_grad():
                torch._foreach_copy_(self._buffers, self._kept)
        self.last = self._processes.gather(_explain(network, terms, named, batches))
        return False

    def settle(self, skipped: bool, step: int) -> str | None:
        """Counts a step.

        Args:
            skipped: whether it, or half of it, was left out.
            step: its number, for messages.

        Returns:
            A sentence for the log if it was.

        Raises:
            NonFiniteLossError: it is the last of too many in a row.
        """
        if not skipped:
            self.in_row = 0
            return None
        self.skipped += 1
        self.in_row += 1
        bad = next((b for b in self.last if b.culprits), self.last[0])
        shown = ", ".join(bad.culprits[:_NAMED]) or "its gradient is not finite"
        more = len(bad.culprits) - _NAMED
        if more > 0:
            shown += f" and {more} more"
        files = ", ".join(bad.files[:_NAMED]) + (", ..." if len(bad.files) > _NAMED else "")
        text = f"step {step} skipped, {bad.network}: {shown}; batch: {files}"
        if self.in_row >= self._limit:
            raise NonFiniteLossError(
                f"training stopped: {self.in_row} steps in a row were not finite, the last at step "
                f"{step} ({bad.network}: {shown}); a lower --optim.lr or --precision no may help"
            )
        return text

    def report(self, step: int, more: Mapping[str, object]) -> str:
        """The latest bad step on every process, as JSON."""
        document = {
            "step": step,
            "skipped": self.skipped,
            "in_row": self.in_row,
            **more,
            "processes": [asdict(bad) for bad in self.last],
        }
        return json.dumps(_named_infinities(document), indent=1, allow_nan=False)


def _explain(
    network: str,
    terms: Mapping[str, Tensor],
    gradients: Sequence[tuple[str, Tensor]],
    batches: Sequence[Mapping[str, Any]],
) -> BadStep:
    losses = {name: term.item() for name, term in terms.items()}
    culprits = [f"loss {k} is {v}" for k, v in losses.items() if not math.isfinite(v)]
    if not culprits:
        wrong = [name for name, gradient in gradients if not torch.isfinite(gradient).all()]
        culprits = [f"the gradient of {name} is not finite" for name in wrong]
    parts: dict[str, list[Tensor]] = {}
    for name, gradient in gradients:
        parts.setdefault(".".join(name.split(".")[:2]), []).append(gradient)
    statistics = {f"gradient of {part}": _statistics(found) for part, found in parts.items()}
    for key in ("image", "edge"):
        found = [batch[key] for batch in batches if key in batch]
        if found:
            statistics[key] = _statistics(found)
    files = [str(name) for batch in batches for name in batch.get("name", ())]
    return BadStep(network, culprits, losses, files, statistics)


def _statistics(tensors: Sequence[Tensor]) -> dict[str, float]:
    values = torch.cat([tensor.detach().flatten().float() for tensor in tensors])
    finite = values[torch.isfinite(values)]
    result = {"not_finite": 1 - finite.numel() / max(1, values.numel())}
    if finite.numel():
        result |= {
            "least": finite.min().item(),
            "largest": finite.max().item(),
            "mean": finite.double().mean().item(),
        }
    return result


def _named_infinities(value: Any) -> Any:
    """The same with NaN and infinities as text, which JSON has no numbers for."""
    if isinstance(value, float) and not math.isfinite(value):
        return str(value)
    if isinstance(value, Mapping):
        return {key: _named_infinities(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_named_infinities(item) for item in value]
    return value
