"""A generator of plain operators only, for tools that know none of ours.

`ecgan.inference.export` traces it. Weights are shared with the generator it is made of; layers over
label maps are swapped for what specifies them: one-hot channels, convolutions, masks.
"""

from __future__ import annotations

import copy
from typing import Any, cast

import ecgan_kernels
import torch
from ecgan_kernels.nn import LabelSPADE
from ecgan_kernels.reference.label_index import one_hot, resize_nearest
from ecgan_kernels.reference.label_spade import label_spade
from torch import Tensor, nn
from torch.nn import functional as F

from ecgan.config import ModelConfig
from ecgan.models import Generator
from ecgan.models.branches import SLOPE, ClassDecoder
from ecgan.models.resolve import style_length


class PlainLayout:
    """What the networks ask of a `Layout`, as channels; sizes may be symbolic.

    Args:
        labels: int64 [B, H, W], 0 to N - 1; anything else is void.
        cfg: networks' settings.
        edges: [B, 1, H, W], nonzero at the boundaries of instances, with ``instance_edges``.
        noise: [B, Z, H, W], with ``style: noise``.
    """

    def __init__(
        self, labels: Tensor, cfg: ModelConfig, edges: Tensor | None, noise: Tensor | None
    ) -> None:
        # A void channel shows N alone; without one every void label has a zero column.
        void = (labels < 0) | (labels > cfg.num_classes)
        self.labels = torch.where(void, cfg.num_classes, labels)
        self.cfg = cfg
        self.edges = edges
        self.noise = noise
        self._columns: Tensor | None = None

    @property
    def size(self) -> tuple[int, int]:
        """As `Layout.size`."""
        return self.labels.shape[1], self.labels.shape[2]

    @property
    def channels(self) -> int:
        """As `Layout.channels`."""
        return self.cfg.num_classes + self.cfg.void_channel + (self.edges is not None)

    @property
    def valid(self) -> Tensor:
        """As `Layout.valid`."""
        return self.labels < self.cfg.num_classes

    def __len__(self) -> int:
        return self.labels.shape[0]

    def index(self) -> PlainLayout:
        """As `Layout.index`."""
        return self

    def with_noise(self, noise: Tensor) -> PlainLayout:
        """As `Layout.with_noise`."""
        return PlainLayout(self.labels, self.cfg, self.edges, noise)

    def resize(self, size: tuple[int, int]) -> PlainLayout:
        """As `Layout.resize`."""
        edges, noise = self.edges, self.noise
        if edges is not None:
            edges = F.interpolate(edges, size, mode="nearest")
        if noise is not None:
            noise = F.interpolate(noise, size, mode="nearest")
        return PlainLayout(resize_nearest(self.labels, size), self.cfg, edges, noise)

    def columns(self) -> Tensor:
        """Float [B, channels (+ Z), H, W]; made once."""
        if self._columns is None:
            classes = one_hot(self.labels, self.cfg.num_classes + self.cfg.void_channel)
            more = [part for part in (self.edges, self.noise) if part is not None]
            self._columns = torch.cat([classes, *more], 1) if more else classes
        return self._columns

    def conv2d(self, weight: Tensor, bias: Tensor | None = None, **how: int) -> Tensor:
        """As `Layout.conv2d`."""
        columns = self.columns()[:, : weight.shape[1]]
        return F.conv2d(columns, weight, bias, **how)


class PlainSPADE(nn.Module):
    """`LabelSPADE` in its dense form.

    Args:
        layer: the layer, whose weights are shared.
    """

    def __init__(self, layer: LabelSPADE) -> None:
        super().__init__()
        self.layer = layer

    def forward(self, x: Tensor, layout: PlainLayout, noise: Tensor | None) -> Tensor:
        """Maps [B, C, h, w] to the same shape; layout and noise are at h x w."""
        norm = self.layer.param_free_norm
        if isinstance(norm, nn.InstanceNorm2d):
            x = F.instance_norm(x, eps=norm.eps)
        else:
            norm = cast(nn.BatchNorm2d, norm)
            x = F.batch_norm(x, norm.running_mean, norm.running_var, eps=norm.eps)
        return label_spade(x, layout.columns(), *self.layer._weights(), self.layer.negative_slope)


class PlainClassDecoder(nn.Module):
    """`ClassDecoder` by masks: three times a layer, a row of three taps sees its own class only.

    A depthwise convolution with ones and zeros brings a row's taps into channels of their own, the
    mask clears those of other classes, and a 1x1 convolution weighs the rest. All nine taps at once
    would be fewer nodes, but nine times the feature map.

    Args:
        decoder: the decoder, whose weights are shared.
    """

    def __init__(self, decoder: ClassDecoder) -> None:
        super().__init__()
        self.decoder = decoder
        picks = torch.eye(9).view(3, 3, 1, 3, 3)
        self.register_buffer("picks", picks, persistent=False)
        """float [3 rows, 3 taps, 1, 3, 3]."""

    def forward(self, activated: Tensor, layout: PlainLayout) -> Tensor:
        """Decodes LeakyReLU(F) [B, C, H, W] to I_g [B, 3, H, W]."""
        picks = cast(Tensor, self.picks)
        labels = layout.labels[:, None].float() + 1  # 0 is outside
        same = [(F.conv2d(labels, row, padding=1) == labels).float() for row in picks]
        x = activated
        for level, conv in enumerate(self.decoder._layers()):
            x = F.leaky_relu(x, SLOPE) if level else x
            channels = conv.in_channels
            total = cast(Tensor, conv.bias)[:, None, None]
            for i, mask in enumerate(same):
                taps = F.conv2d(x, picks[i].repeat(channels, 1, 1, 1), padding=1, groups=channels)
                weight = conv.weight[:, :, i].flatten(1)[..., None, None]
                total = total + F.conv2d(taps * mask.repeat(1, channels, 1, 1), weight)
            x = total
        return torch.tanh(x) * layout.valid[:, None]


class PlainGenerator(nn.Module):
    """A generator whose forward takes and gives tensors: what is exported.

    Inputs, in this order: labels; with ``instance_edges`` their map; with a style the code. See
    `ecgan.inference.export.inputs`.

    Args:
        generator: in evaluation mode.
    """

    def __init__(self, generator: Generator) -> None:
        super().__init__()
        self.cfg = generator.cfg
        self.generator = copy.deepcopy(generator)
        self.generator.projection = None
        for module in list(self.generator.modules()):
            for name, child in list(module.named_children()):
                if isinstance(child, LabelSPADE):
                    setattr(module, name, PlainSPADE(child))
                elif isinstance(child, ClassDecoder):
                    setattr(module, name, PlainClassDecoder(child))

    def forward(self, labels: Tensor, *more: Tensor) -> tuple[Tensor, ...]:
        """The final image and, where there is one, the edge map, [B, 3, H, W] in [-1, 1]."""
        given = list(more)
        edges = given.pop(0) if self.cfg.instance_edges else None
        z = given.pop(0) if style_length(self.cfg) else None
        noise = z if self.cfg.style == "noise" else None
        layout: Any = PlainLayout(labels, self.cfg, edges, noise)
        with ecgan_kernels.implementation("reference"):
            out = self.generator(layout, z)
        image = out.final.clamp(-1, 1)
        return (image,) if out.edge is None else (image, out.edge)
