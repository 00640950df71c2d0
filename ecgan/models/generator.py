"""The generator G of ECGAN; the rows B1 to B6 of the paper's Table 3 are switches of it."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from ecgan_kernels import edge_transfer
from torch import Tensor, nn
from torch.nn import functional as F

from ecgan.config import ModelConfig
from ecgan.errors import ConfigError
from ecgan.models import resolve
from ecgan.models.branches import (
    SLOPE,
    ClassDecoder,
    ClassFusion,
    ConvStack,
    SemanticPreserving,
    transfer_stacks,
)
from ecgan.models.encoders import build_encoder
from ecgan.models.layout import Layout
from ecgan.models.projection import ProjectionHead
from ecgan.models.recompute import recomputed
from ecgan.models.weights import prepare


@dataclass
class Synthesis:
    """What one forward of the generator returns; None where the configuration has it off."""

    features: Tensor
    """F [B, C, H, W], the shared feature, not activated."""
    image: Tensor
    """I' [B, 3, H, W]: in (-1.74, 1.74) with edge transfer (Equation 1 adds up to 0.73 of I'_i), in
    (-1, 1) without. Losses take it as it is, only display clamps [R25]."""
    edge: Tensor | None
    """I'_e [B, 3, H, W] in (-1, 1); sigmoid(I'_e) is the attention map I'_a."""
    refined: Tensor | None
    """I'' [B, 3, H, W] in (-1, 1); with ``class_fuse`` I_g is fused into it."""
    class_image: Tensor | None
    """I_g [B, 3, H, W] in (-1, 1), 0 at void pixels."""
    raw_image: Tensor | None
    """I'_i [B, 3, H, W], I' before the content-level transfer; detached, for figures."""
    edge_features: list[Tensor]
    """F_e^j, j = 1 to 3; sigmoid(F_e^j) is the attention map F_a^j. Empty without edge branch and
    without ``inspect``."""
    image_features: list[Tensor]
    """F_i^j, j = 1 to 3, after the transfer. Empty without ``inspect``."""
    preserved: Tensor | None
    """F' [B, C + 6 + channels of S, H, W] of G_s; None without ``inspect``."""

    @property
    def final(self) -> Tensor:
        """The image to show: I'' where there is one, else I'."""
        return self.image if self.refined is None else self.refined


class Generator(nn.Module):
    """E, G_e, G_i, G_t, G_s and the class-specific decoder, as the configuration switches them.

    ``projection`` is the head of the contrastive loss; it belongs to the parameters of G but has
    no part in the forward. Weights are drawn by Xavier's normal rule with gain 0.02.

    Args:
        cfg: networks' settings, with num_classes, void_channel, instance_edges and size filled in.

    Raises:
        ConfigError: settings contradict each other or the size does not suit the encoder.
    """

    def __init__(self, cfg: ModelConfig) -> None:
        super().__init__()
        resolve.check(cfg)
        self.cfg = cfg
        self.style_length = resolve.style_length(cfg)
        channels, layout_channels = cfg.ngf, resolve.layout_channels(cfg)
        self.encoder = build_encoder(cfg)
        self.image_generator = ConvStack(channels)
        self.edge_generator = ConvStack(channels) if cfg.edge_branch else None
        self.semantic_preserving = (
            SemanticPreserving(channels, cfg.num_classes, layout_channels, cfg.edge_branch)
            if cfg.semantic_preserving
            else None
        )
        self.class_decoder = ClassDecoder(channels) if cfg.class_branch else None
        self.class_fusion = (
            ClassFusion(channels, cfg.class_fuse) if cfg.class_fuse != "none" else None
        )
        self.projection = ProjectionHead(channels, cfg.projection_dim) if cfg.class_branch else None
        prepare(self, cfg.spectral, official=self.encoder.residual_convolutions())

    def forward(
        self,
        layout: Layout,
        z: Tensor | None = None,
        *,
        inspect: bool = False,
        class_means: Tensor | None = None,
    ) -> Synthesis:
        """Synthesises edges and images for a batch of layouts.

        Args:
            layout: S, of any height and width that suit the encoder.
            z: style code. ``style: none`` ignores it; ``encoder`` takes [B, Z]; ``noise`` takes
                [B, Z], or [B, Z, H, W] to resample regions. Where it is needed and None, the
                layout's own noise is taken, else it is drawn from N(0, 1).
            inspect: whether to return the inner features that figures show. Training does not keep
                them, which makes it leaner.
            class_means: for a layout that is a part of a larger one: the mean of
                :meth:`class_features` over the whole, [B, N, 1, 1], the only number of an image
                that G_s asks for.

        Returns:
            All outputs that losses need, and the inner features asked for.

        Raises:
            ConfigError: the layout's channels or size do not fit the model.
        """
        features = self._encode(layout, z)
        activated = F.leaky_relu(features, SLOPE)

        again = self.cfg.checkpointing
        edge_features, image_features, image_raw, edge_raw = self._heads(activated, inspect)
        image, edge = self._contents(image_raw, edge_raw)

        refined, preserved, class_image = None, None, None
        if (preserving := self.semantic_preserving) is not None:
            refined, preserved = recomputed(
                again, preserving, preserving, activated, image, edge, layout, inspect, class_means
            )
        if (decoder := self.class_decoder) is not None:
            class_image = recomputed(again, decoder, decoder, activated, layout)
        if self.class_fusion is not None:
            coarse = image if refined is None else refined
            refined = self.class_fusion(activated, coarse, class_image, layout)
        return Synthesis(
            features=features,
            image=image,
            edge=edge,
            refined=refined,
            class_image=class_image,
            raw_image=torch.tanh(image_raw.detach()),
            edge_features=edge_features,
            image_features=image_features,
            preserved=preserved,
        )

    def class_features(self, layout: Layout, z: Tensor | None = None) -> Tensor:
        """F_c of G_s before its amplification, [B, N, H, W]; a model without G_s has none."""
        assert self.semantic_preserving is not None
        activated = F.leaky_relu(self._encode(layout, z), SLOPE)
        *_, image_raw, edge_raw = self._heads(activated, inspect=False)
        image, edge = self._contents(image_raw, edge_raw)
        return self.semantic_preserving.class_features(activated, image, edge, layout)

    def _encode(self, layout: Layout, z: Tensor | None) -> Tensor:
        if layout.channels != resolve.layout_channels(self.cfg):
            raise ConfigError(
                f"the model takes layouts of {resolve.layout_channels(self.cfg)} channels "
                f"(classes, void, instance edges), but this one has {layout.channels}"
            )
        return self.encoder(layout, self._style(layout, z))

    def _contents(self, image_raw: Tensor, edge_raw: Tensor | None) -> tuple[Tensor, Tensor | None]:
        """I' and I'_e from the last outputs of G_i and G_e."""
        if edge_raw is None:
            return torch.tanh(image_raw), None
        if not self.cfg.edge_transfer:
            return torch.tanh(image_raw), torch.tanh(edge_raw)
        return edge_transfer(image_raw, edge_raw, activation="tanh"), torch.tanh(edge_raw)  # Eq. 1

    def _heads(
        self, activated: Tensor, inspect: bool
    ) -> tuple[list[Tensor], list[Tensor], Tensor, Tensor | None]:
        """F_e^j, F_i^j and the last outputs of G_i and G_e (None where it is off)."""
        images, edges = self.image_generator, self.edge_generator
        if inspect:
            edge_features, edge_raw = ([], None) if edges is None else edges(activated)
            guides = edge_features if self.cfg.edge_transfer else None
            image_features, image_raw = images(activated, guides)
            return edge_features, image_features, image_raw, edge_raw
        again = self.cfg.checkpointing
        if edges is not None and self.cfg.edge_transfer:
            both = nn.ModuleList([images, edges])
            image_raw, edge_raw = recomputed(again, both, transfer_stacks, images, edges, activated)
            return [], [], image_raw, edge_raw
        image_raw = recomputed(again, images, images.last_output, activated)
        edge_raw = None
        if edges is not None:
            edge_raw = recomputed(again, edges, edges.last_output, activated)
        return [], [], image_raw, edge_raw

    def sample_style(
        self,
        batch: int,
        *,
        device: torch.device | None = None,
        generator: torch.Generator | None = None,
    ) -> Tensor | None:
        """Draws style codes [batch, Z] from N(0, 1); None for a model without style."""
        if self.style_length == 0:
            return None
        return torch.randn(batch, self.style_length, device=device, generator=generator)

    def _style(self, layout: Layout, z: Tensor | None) -> Tensor | None:
        if self.style_length == 0:
            return None
        if z is None and self.cfg.style == "noise":
            z = layout.noise
        if z is None:
            return self.sample_style(len(layout), device=layout.labels.device)
        batch = layout.labels.shape[0]  # len() would make a constant of a symbolic size
        shapes: list[tuple[int, ...]] = [(batch, self.style_length)]
        if self.cfg.style == "noise":
            shapes.append((*shapes[0], *layout.size))
        if tuple(z.shape) not in shapes:
            expected = " or ".join(str(list(shape)) for shape in shapes)
            raise ValueError(f"z must be {expected}, not {list(z.shape)}")
        return z
