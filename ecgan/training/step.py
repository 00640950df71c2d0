"""One training step: an update of G on all its losses, then one of D."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from typing import Any

import torch
from torch import Tensor

from ecgan.config import OptimConfig
from ecgan.losses import Objective
from ecgan.models import Layout, Synthesis
from ecgan.training.build import Networks

Batch = dict[str, Any]
Style = tuple[Tensor, Tensor] | None


class TrainingStep:
    """Updates G (with the image encoder, where there is one) and then D on one batch.

    D is frozen while G learns. As in the authors' code the fakes that D learns from come from a
    second forward of the updated G; ``optim.reuse_fakes`` saves that forward.

    Args:
        cfg: settings of the optimisers.
        networks: the networks themselves.
        wrapped: G, D and the image encoder as data-parallel training wraps them.
        objective: all losses.
        optimizers: that of G (and the image encoder) and that of D.
        autocast: makes the context in which networks and losses run.
        backward: computes gradients of a loss.
        check: called with a loss's terms, their sum and "generator" or "discriminator" before
            the gradients are computed; may raise.
    """

    def __init__(
        self,
        cfg: OptimConfig,
        networks: Networks,
        wrapped: tuple[Any, Any, Any],
        objective: Objective,
        optimizers: tuple[Any, Any],
        *,
        autocast: Callable[[], AbstractContextManager[Any]],
        backward: Callable[[Tensor], object],
        check: Callable[[Mapping[str, Tensor], Tensor, str], None],
    ) -> None:
        self.cfg = cfg
        self.networks = networks
        self.generator, self.discriminator, self.encoder = wrapped
        self.objective = objective
        self.optimizers = optimizers
        self.autocast = autocast
        self.backward = backward
        self.check = check

    def __call__(
        self, batch: Batch, layout: Layout, rates: tuple[float, float], step: int
    ) -> dict[str, Tensor]:
        """Runs the step.

        Args:
            batch: pairs on the device: ``image`` [B, 3, H, W] and perhaps ``edge`` [B, 1, H, W].
            layout: conditioning input of the batch.
            rates: learning rates of G and D.
            step: generator steps done before.

        Returns:
            Every weighted loss term, those of D prefixed with ``d_``.
        """
        with self.autocast():
            out, style = self.synthesize(batch, layout)
            terms = self.objective.generator(
                out,
                batch,
                layout,
                self.networks.discriminator,
                projection=self.networks.generator.projection,
                style=style,
                step=step,
            )
        terms = self._update(self.optimizers[0], terms, rates[0], "generator")
        if not self.cfg.reuse_fakes:
            del out  # before the next forward, or both are held at once
            with torch.no_grad(), self.autocast():
                out, _ = self.synthesize(batch, layout)
        with self.autocast():
            judged = self.objective.discriminator(out, batch, layout, self.discriminator)
        judged = self._update(self.optimizers[1], judged, rates[1], "discriminator")
        return {**terms, **{f"d_{name}": term for name, term in judged.items()}}

    def synthesize(self, batch: Batch, layout: Layout) -> tuple[Synthesis, Style]:
        """G's outputs, and mu and logvar of the image encoder where there is one."""
        if self.encoder is None:
            return self.generator(layout), None
        mu, logvar = self.encoder(batch["image"])
        z = self.networks.encoder.reparameterize(mu, logvar)  # type: ignore[union-attr]
        return self.generator(layout, z), (mu, logvar)

    def _update(
        self, optimizer: Any, terms: Mapping[str, Tensor], rate: float, network: str
    ) -> dict[str, Tensor]:
        """One step of an optimiser; returns the terms without their graphs."""
        total = torch.stack(list(terms.values())).sum()
        self.check(terms, total, network)
        for group in optimizer.param_groups:
            group["lr"] = rate
        optimizer.zero_grad(set_to_none=True)
        self.backward(total)
        optimizer.step()
        return {name: term.detach() for name, term in terms.items()}
