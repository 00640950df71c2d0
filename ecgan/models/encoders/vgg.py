"""A VGG-shaped network with a decoder back to full resolution as shared encoder E."""

from __future__ import annotations

from itertools import islice
from typing import cast

from torch import Tensor, nn
from torch.nn import functional as F

from ecgan.config import ModelConfig
from ecgan.models import resolve
from ecgan.models.encoders.base import Encoder, FeatureFusion
from ecgan.models.layout import Layout

# VGG16's five stages: convolutions, and width in units of ngf.
_STAGES = ((2, 1), (2, 2), (3, 4), (3, 8), (3, 8))


class VGGEncoder(Encoder):
    """VGG16's thirteen 3x3 convolutions, then a 3x3 convolution after each of four doublings.

    Widths are 1, 2, 4, 8 and 8 times ngf and back. Instance normalisation and ReLU follow every
    convolution but the last, whose raw output is F. With ``fuse_features`` F also takes in the
    first three stages, which carry the layout's detail past the pooling. A style code of either
    kind is concatenated to the layout as constant (or, for 3D noise, as given) channels.

    Args:
        cfg: networks' settings.

    Raises:
        ConfigError: height or width is not a multiple of 16.
    """

    def __init__(self, cfg: ModelConfig) -> None:
        super().__init__(cfg, multiple=2 ** (len(_STAGES) - 1))
        channels = resolve.layout_channels(cfg) + resolve.style_length(cfg)
        self.convs = nn.ModuleList()
        for convolutions, factor in _STAGES:
            for _ in range(convolutions):
                self.convs.append(nn.Conv2d(channels, cfg.ngf * factor, 3, padding=1, bias=False))
                channels = cfg.ngf * factor
        widths = [cfg.ngf * factor for _, factor in _STAGES]
        # Only the last one has a bias: normalisation would take any other away.
        self.up = nn.ModuleList(
            nn.Conv2d(widths[level], widths[level - 1], 3, padding=1, bias=level == 1)
            for level in range(len(_STAGES) - 1, 0, -1)
        )
        self.fusion = FeatureFusion(widths[:3], cfg.ngf) if cfg.fuse_features else None

    def forward(self, layout: Layout, z: Tensor | None = None) -> Tensor:
        """See ``Encoder.forward``."""
        self.check_size(layout.size)
        if z is not None:
            layout = layout.with_noise(z)
        first, *rest = self.convs
        x = F.instance_norm(layout.conv2d(cast(nn.Conv2d, first).weight, padding=1)).relu()
        convs = iter(rest)
        stages: list[Tensor] = []
        for convolutions, _ in _STAGES:
            if stages:
                x = F.max_pool2d(x, 2)
            for conv in islice(convs, convolutions - (not stages)):
                x = F.instance_norm(conv(x)).relu()
            stages.append(x)
        *inner, last = self.up
        for conv in inner:
            x = F.instance_norm(conv(F.interpolate(x, scale_factor=2.0, mode="nearest"))).relu()
        x = last(F.interpolate(x, scale_factor=2.0, mode="nearest"))
        return x if self.fusion is None else self.fusion(x, stages[:3])

    def residual_convolutions(self) -> list[nn.Module]:
        """None: VGG has no residual blocks."""
        return []
