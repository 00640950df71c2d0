"""One training step: an update of G on all its losses, then one of D."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack, nullcontext
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn

from ecgan.config import OptimConfig
from ecgan.losses import Objective
from ecgan.models import Synthesis
from ecgan.training.build import Networks
from ecgan.training.guard import Guard
from ecgan.training.precision import Precision

Batch = dict[str, Any]
Style = tuple[Tensor, Tensor] | None
Terms = dict[str, Tensor]


@dataclass
class Outcome:
    """What a step did."""

    terms: Terms
    """Every weighted loss term, a scalar without graph; those of D are prefixed with ``d_``."""
    skipped: bool = False
    """Whether a network was not updated as a loss or gradient was not finite."""


class TrainingStep:
    """Updates G (with the image encoder, where there is one) and then D.

    D is frozen while G learns. As in the authors' code the fakes that D learns from come from a
    second forward of the updated G; ``optim.reuse_fakes`` saves that forward.

    Args:
        cfg: settings of the optimisers.
        networks: the networks themselves.
        wrapped: G, D and the image encoder as data-parallel training wraps them.
        objective: all losses.
        optimizers: that of G (and the image encoder) and that of D.
        precision: autocast and loss scaling; None computes in the networks' own type.
        guard: skips updates by numbers that are not finite; None updates in any case.
        reached: given each network's parameters with their first gradients; may raise.
        observe: told the name of every phase as it begins.
    """

    def __init__(
        self,
        cfg: OptimConfig,
        networks: Networks,
        wrapped: tuple[Any, Any, Any],
        objective: Objective,
        optimizers: tuple[torch.optim.Optimizer, torch.optim.Optimizer],
        *,
        precision: Precision | None = None,
        guard: Guard | None = None,
        reached: Callable[[Iterable[tuple[str, nn.Parameter]]], None] | None = None,
        observe: Callable[[str], object] = lambda phase: None,
    ) -> None:
        self.cfg = cfg
        self.networks = networks
        self.generator, self.discriminator, self.encoder = wrapped
        self.objective = objective
        self.optimizers = optimizers
        self.precision = precision or Precision()
        self.guard = guard
        self.reached = reached
        self._looked_at: set[str] = set()
        self.observe = observe

    def __call__(self, batches: Sequence[Batch], rates: tuple[float, float], step: int) -> Outcome:
        """Runs the step.

        The gradients of several batches are averaged before a network is updated, so that few
        images at a time train like many, but for batch statistics and the contrastive loss, which
        see one batch at a time.

        Args:
            batches: pairs on the device: ``layout``, ``image`` [B, 3, H, W] and perhaps ``edge``
                [B, 1, H, W]. All hold as many pairs.
            rates: learning rates of G and D.
            step: generator steps done before.
        """
        if self.guard is not None:
            self.guard.remember()
        outs: list[Synthesis] = []
        terms: Terms = {}
        for number, batch in enumerate(batches, 1):
            with ExitStack() as stack:
                if number < len(batches):
                    _without_sync((self.generator, self.encoder), stack)
                self.observe("generator's forward pass")
                with self.precision.autocast():
                    out, style = self.synthesize(batch)
                    found = self.objective.generator(
                        out,
                        batch,
                        batch["layout"],
                        self.networks.discriminator,
                        projection=self.networks.generator.projection,
                        style=style,
                        step=step,
                    )
                self._backward("generator", found, terms, len(batches))
            if self.cfg.reuse_fakes:
                outs.append(_detached(out))
            del out, style, found  # before the next forward, or both are held at once
        if not self._update("generator", terms, rates[0], batches):
            return Outcome(terms, skipped=True)

        judged: Terms = {}
        for number, batch in enumerate(batches, 1):
            self.observe("discriminator's forward pass")
            if self.cfg.reuse_fakes:
                out = outs[number - 1]
            else:
                with torch.no_grad(), self.precision.autocast():
                    out, _ = self.synthesize(batch)
            with ExitStack() as stack:
                if number < len(batches):
                    _without_sync((self.discriminator,), stack)
                with self.precision.autocast():
                    found = self.objective.discriminator(
                        out, batch, batch["layout"], self.discriminator
                    )
                self._backward("discriminator", found, judged, len(batches))
            del out, found
        sound = self._update("discriminator", judged, rates[1], batches)
        terms |= {f"d_{name}": term for name, term in judged.items()}
        return Outcome(terms, skipped=not sound)

    def synthesize(self, batch: Batch) -> tuple[Synthesis, Style]:
        """G's outputs, and mu and logvar of the image encoder where there is one."""
        layout = batch["layout"]
        if self.encoder is None:
            return self.generator(layout), None
        mu, logvar = self.encoder(batch["image"])
        z = self.networks.encoder.reparameterize(mu, logvar)  # type: ignore[union-attr]
        return self.generator(layout, z), (mu, logvar)

    def _backward(
        self, network: str, found: Mapping[str, Tensor], terms: Terms, batches: int
    ) -> None:
        """Adds a batch's gradients, and its terms to ``terms``, as parts of their means."""
        self.observe(f"{network}'s backward pass")
        total = torch.stack(list(found.values())).sum() / batches
        self.precision.scale(total, network).backward()
        for name, term in found.items():
            share = term.detach() / batches
            terms[name] = terms[name] + share if name in terms else share

    def _update(
        self, network: str, terms: Terms, rate: float, batches: Sequence[Mapping[str, Any]]
    ) -> bool:
        """One step of an optimiser, unless the guard objects; leaves no gradients behind."""
        self.observe(f"{network}'s update")
        optimizer = self.optimizers[network == "discriminator"]
        for group in optimizer.param_groups:
            group["lr"] = rate
        if self.reached is not None and network not in self._looked_at:
            self.reached(self._parameters(network))
            self._looked_at.add(network)
        self.precision.unscale(optimizer, network)
        sound = True
        if self.guard is not None:
            sound = self.guard.sound(network, terms, self._parameters(network), batches)
        self.precision.step(optimizer, network, sound)
        optimizer.zero_grad(set_to_none=True)
        return sound

    def _parameters(self, network: str) -> Iterable[tuple[str, nn.Parameter]]:
        named = self.networks.items()
        names = ("discriminator",) if network == "discriminator" else ("generator", "encoder")
        for name in names:
            if name in named:
                for key, parameter in named[name].named_parameters():
                    yield f"{name}.{key}", parameter


def _without_sync(wrapped: Iterable[Any], stack: ExitStack) -> None:
    """Lets data-parallel networks keep their gradients to themselves within ``stack``."""
    for network in wrapped:
        no_sync: Callable[[], AbstractContextManager[Any]]
        no_sync = getattr(network, "no_sync", nullcontext)
        stack.enter_context(no_sync())


def _detached(out: Synthesis) -> Synthesis:
    """What D judges, without graphs and inner features."""
    return replace(
        out,
        image=out.image.detach(),
        edge=None if out.edge is None else out.edge.detach(),
        refined=None if out.refined is None else out.refined.detach(),
        features=out.features.new_empty(0),
        class_image=None,
        raw_image=None,
        preserved=None,
    )
