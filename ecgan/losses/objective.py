"""The training objective: every loss of the paper, weighted (Equations 5 to 7)."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from ecgan_kernels import PixelQueue, sample_pixels
from torch import Tensor, nn
from torch.nn.utils.parametrize import cached

from ecgan.config import LossConfig
from ecgan.errors import ConfigError
from ecgan.losses.class_l1 import class_l1
from ecgan.losses.contrast import contrast_loss
from ecgan.losses.feature_matching import feature_matching
from ecgan.losses.gan import gan_loss
from ecgan.losses.kld import kl_divergence
from ecgan.losses.labels import resize_labels
from ecgan.losses.perceptual import perceptual_loss
from ecgan.losses.similarity import similarity_grid, similarity_loss, similarity_pairs

if TYPE_CHECKING:
    from ecgan.models.generator import Synthesis
    from ecgan.models.layout import Layout
    from ecgan.models.perceptual import PerceptualNetwork


class _Fake(NamedTuple):
    """A generated image that is judged."""

    image: Tensor
    real: int
    """Index of its counterpart among the real images."""
    weight: float
    """Its weight beside the other fakes."""


class Objective:
    """Terms of the generator's and the discriminator's loss.

    Every term comes weighted, so the total is their plain sum. A term whose weight is 0, or whose
    output the generator lacks (no edge branch in B1, no I_g before B6), is absent.

    The edge map, I' and I'' weigh 1, 1 and ``refined`` in the adversarial, feature matching and
    perceptual losses [R7].
    """

    def __init__(
        self,
        cfg: LossConfig,
        perceptual: PerceptualNetwork | None = None,
        label_generator: nn.Module | None = None,
        queue: PixelQueue | None = None,
    ) -> None:
        """Checks that the frozen networks that the losses need are there.

        Args:
            cfg: weights and forms of the losses.
            perceptual: frozen network of the perceptual loss; may be None where its weight is 0.
            label_generator: frozen G_l, image [B, 3, H, W] in [-1, 1] to logits [B, N, h, w]; may
                be None where neither the similarity loss nor hard sampling needs it. Classes that
                its optional buffer ``covered`` (bool [N]) denies count as void in L_sim.
            queue: past embeddings of the contrastive loss; may be None unless its source is queue.

        Raises:
            ConfigError: a switched-on loss lacks its network or queue, or similarity_resolution or
                similarity_pairs is wrong.
        """
        if cfg.perceptual and perceptual is None:
            raise ConfigError("loss.perceptual is above 0 but there is no perceptual network")
        if cfg.similarity and label_generator is None:
            raise ConfigError("loss.similarity is above 0 but there is no label generator")
        if cfg.contrast and cfg.contrastive.hard and label_generator is None:
            raise ConfigError("loss.contrastive.hard needs a label generator but there is none")
        if cfg.contrast and cfg.contrastive.source == "queue" and queue is None:
            raise ConfigError("loss.contrastive.source is queue but there is no queue")
        similarity_grid(cfg.similarity_resolution, (1, 1))
        similarity_pairs(cfg.similarity_pairs)
        self.cfg = cfg
        self.perceptual = perceptual
        self.label_generator = label_generator
        self.queue = queue
        self.sample = sample_pixels
        """Draws the pixels of the contrastive loss."""

    def generator(
        self,
        out: Synthesis,
        batch: Mapping[str, Any],
        layout: Layout,
        discriminator: nn.Module,
        projection: Callable[[Tensor], Tensor] | None = None,
        style: tuple[Tensor, Tensor] | None = None,
        step: int = 0,
    ) -> dict[str, Tensor]:
        """Terms of the generator's loss.

        The discriminator is frozen meanwhile: gradients pass through it to the images but none
        reaches its parameters [R32]. Pass the bare module, not a data-parallel wrapper of it.

        Args:
            out: what the generator returned for the batch.
            batch: ``image`` [B, 3, H, W] and, where there is an edge branch, ``edge`` [B, 1, H, W],
                both in [-1, 1].
            layout: conditioning input that ``out`` was made from; its labels rule the losses.
            discriminator: called as ``discriminator(layout, images)``.
            projection: projection head of the contrastive loss.
            style: mu and logvar of the image encoder, where there is one.
            step: generator steps done, for the contrastive loss's warm-up.

        Returns:
            Scalars in float32 under "gan", "feature_matching", "perceptual", "similarity",
            "contrast", "class_l1" and "kld".

        Raises:
            ConfigError: the contrastive loss is on and there is no projection head.
        """
        cfg = self.cfg
        reals = _reals(out, batch)
        fakes = self._fakes(out)
        terms = self._adversarial(fakes, reals, layout, discriminator)
        if self.perceptual is not None and cfg.perceptual:
            terms["perceptual"] = cfg.perceptual * perceptual_loss(
                self.perceptual,
                [fake.image for fake in fakes],
                reals,
                [(index, fake.real, fake.weight) for index, fake in enumerate(fakes)],
            )
        labels, void = layout.labels, layout.num_classes
        logits = self._logits(out.final)
        if logits is not None and cfg.similarity:
            terms["similarity"] = cfg.similarity * similarity_loss(
                logits,
                self._covered(labels, void),
                ignore_index=void,
                resolution=cfg.similarity_resolution,
                pairs=cfg.similarity_pairs,
                eps=cfg.similarity_eps,
            )
        if cfg.contrast:
            terms["contrast"] = self._contrast(out.features, labels, void, projection, logits, step)
        if cfg.class_l1 and out.class_image is not None:
            terms["class_l1"] = cfg.class_l1 * class_l1(
                out.class_image,
                batch["image"],
                labels,
                num_classes=void,
                balanced=cfg.class_l1_balanced,
            )
        if cfg.kld and style is not None:
            terms["kld"] = cfg.kld * kl_divergence(*style)
        return terms

    def discriminator(
        self,
        out: Synthesis,
        batch: Mapping[str, Any],
        layout: Layout,
        discriminator: nn.Module,
    ) -> dict[str, Tensor]:
        """Terms of the discriminator's loss: "edge" (Equation 5) and "image" (Equation 6).

        Real and fake edge weigh 1. I' weighs 1 and I'' ``refined``; the real image stands against
        both, so it weighs their sum, counted in one pass [R23]. lambda_c does not scale these
        terms: it balances the generator's losses, and Adam ignores a common factor.

        Args:
            out: what the generator returned; no gradient goes back to it.
            batch: as for :meth:`generator`.
            layout: conditioning input that ``out`` was made from.
            discriminator: called as ``discriminator(layout, images)``.

        Returns:
            Scalars in float32; "edge" only where there is an edge branch.
        """
        reals = _reals(out, batch)
        fakes = self._fakes(out)
        images = [fake.image.detach() for fake in fakes] + reals
        logits = [[scale[-1] for scale in scales] for scales in discriminator(layout, images)]
        terms: dict[str, Tensor] = {}
        for index, name in enumerate(("edge", "image")[-len(reals) :]):
            against = [(i, fake.weight) for i, fake in enumerate(fakes) if fake.real == index]
            term = sum(weight for _, weight in against) * gan_loss(
                logits[len(fakes) + index], True, self.cfg.gan_mode
            )
            for i, weight in against:
                term = term + weight * gan_loss(logits[i], False, self.cfg.gan_mode)
            terms[name] = term
        return terms

    def _fakes(self, out: Synthesis) -> list[_Fake]:
        """I'_e, I' and I'', as far as the generator makes them."""
        fakes = [] if out.edge is None else [_Fake(_rgb(out.edge), 0, 1.0)]
        photo = len(fakes)
        fakes.append(_Fake(out.image, photo, 1.0))
        if out.refined is not None:
            fakes.append(_Fake(out.refined, photo, self.cfg.refined))
        return fakes

    def _adversarial(
        self,
        fakes: Sequence[_Fake],
        reals: Sequence[Tensor],
        layout: Layout,
        discriminator: nn.Module,
    ) -> dict[str, Tensor]:
        """Terms "gan" and "feature_matching": D sees the fakes and, without a graph, the reals."""
        cfg = self.cfg
        terms: dict[str, Tensor] = {}
        if not cfg.adversarial and not cfg.feature_matching:
            return terms
        # cached: D's normalised weights are computed once for both passes.
        with _frozen(discriminator), cached():
            judged = discriminator(layout, [fake.image for fake in fakes])
            if cfg.feature_matching:
                with torch.no_grad():
                    judged = judged + discriminator(layout, list(reals))
        if cfg.adversarial:
            terms["gan"] = cfg.adversarial * _total(
                fake.weight
                * gan_loss(
                    [scale[-1] for scale in scales], True, cfg.gan_mode, for_discriminator=False
                )
                for fake, scales in zip(fakes, judged, strict=False)
            )
        if cfg.feature_matching:
            terms["feature_matching"] = cfg.feature_matching * _total(
                fake.weight * feature_matching(scales, judged[len(fakes) + fake.real])
                for fake, scales in zip(fakes, judged, strict=False)
            )
        return terms

    def _logits(self, image: Tensor) -> Tensor | None:
        """Label generator's logits on the final image, where a loss asks for them."""
        if self.label_generator is None:
            return None
        if self.cfg.similarity:
            return self.label_generator(image)
        if self.cfg.contrast and self.cfg.contrastive.hard:
            with torch.no_grad():
                return self.label_generator(image)
        return None

    def _covered(self, labels: Tensor, void: int) -> Tensor:
        """Labels with the classes that the label generator cannot tell set to void [R5]."""
        covered = getattr(self.label_generator, "covered", None)
        if covered is None:
            return labels
        known = torch.cat([covered, covered.new_ones(1)])
        return labels.masked_fill(~known[labels], void)

    def _contrast(
        self,
        features: Tensor,
        labels: Tensor,
        void: int,
        projection: Callable[[Tensor], Tensor] | None,
        logits: Tensor | None,
        step: int,
    ) -> Tensor:
        cfg = self.cfg.contrastive
        if projection is None:
            raise ConfigError(
                "loss.contrast is above 0 but the generator has no projection head "
                "(model.class_branch is off)"
            )
        size = (features.shape[2], features.shape[3])
        guess = None
        if cfg.hard and logits is not None:
            guess = resize_labels(logits.argmax(1), size)
        loss = contrast_loss(
            features,
            resize_labels(labels, size),
            projection,
            ignore_index=void,
            temperature=cfg.temperature,
            layouts=cfg.layouts,
            budget=cfg.budget,
            predictions=guess,
            across_ranks=cfg.source == "ranks",
            queue=self.queue if cfg.source == "queue" else None,
            queue_update=cfg.queue_update,
            sample=self.sample,
        )
        # Multiplied by zero, not left out, during warm-up: the projection head keeps a (zero)
        # gradient, which data-parallel training expects of every parameter.
        return self.cfg.contrast * float(step >= cfg.warmup_steps) * loss


def _reals(out: Synthesis, batch: Mapping[str, Any]) -> list[Tensor]:
    """Real edge map, where the generator makes one, and real image, three channels each."""
    image = batch["image"]
    return [image] if out.edge is None else [_rgb(batch["edge"]), image]


def _rgb(x: Tensor) -> Tensor:
    """One channel shown as three, without a copy."""
    return x.expand(-1, 3, -1, -1)


def _total(terms: Iterable[Tensor]) -> Tensor:
    return torch.stack(list(terms)).sum()


@contextmanager
def _frozen(module: nn.Module) -> Iterator[None]:
    """Forward passes inside build no graph for the module's parameters, only for its inputs."""
    trainable = [p for p in module.parameters() if p.requires_grad]
    for parameter in trainable:
        parameter.requires_grad_(False)
    try:
        yield
    finally:
        for parameter in trainable:
            parameter.requires_grad_(True)
