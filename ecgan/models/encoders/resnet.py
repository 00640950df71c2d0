"""A residual network in the manner of pix2pixHD's global generator as shared encoder E."""

from __future__ import annotations

import itertools

from torch import Tensor, nn
from torch.nn import functional as F

from ecgan.config import ModelConfig
from ecgan.models import resolve
from ecgan.models.encoders.base import Encoder, FeatureFusion
from ecgan.models.layout import Layout
from ecgan.models.recompute import recomputed

_HALVINGS = 4
_BLOCKS = 9


class ResidualBlock(nn.Module):
    """x + norm(conv_1(relu(norm(conv_0(x))))), 3x3 convolutions, instance normalisation.

    Args:
        channels: channels of input and output.
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv_0 = nn.Conv2d(channels, channels, 3, padding=1, bias=False)
        self.conv_1 = nn.Conv2d(channels, channels, 3, padding=1, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        """Maps [B, channels, h, w] to the same shape."""
        y = F.instance_norm(self.conv_0(x)).relu()
        return x + F.instance_norm(self.conv_1(y))


class ResNetEncoder(Encoder):
    """7x7 convolution, four halvings, nine residual blocks, four doublings; ngf channels out.

    Widths are ngf, 2, 4, 8 and 16 * ngf and back. Instance normalisation and ReLU follow every
    convolution but the last, whose raw output is F. A style code of either kind is concatenated to
    the layout as constant (or, for 3D noise, as given) channels.

    Args:
        cfg: networks' settings.

    Raises:
        ConfigError: height or width is not a multiple of 16.
    """

    def __init__(self, cfg: ModelConfig) -> None:
        super().__init__(cfg, multiple=2**_HALVINGS)
        widths = [cfg.ngf * 2**level for level in range(_HALVINGS + 1)]
        in_channels = resolve.layout_channels(cfg) + resolve.style_length(cfg)
        self.stem = nn.Conv2d(in_channels, widths[0], 7, padding=3, bias=False)
        self.down = nn.ModuleList(
            nn.Conv2d(a, b, 3, stride=2, padding=1, bias=False)
            for a, b in itertools.pairwise(widths)
        )
        self.blocks = nn.Sequential(*(ResidualBlock(widths[-1]) for _ in range(_BLOCKS)))
        # Only the last one has a bias: normalisation would take any other away.
        self.up = nn.ModuleList(
            nn.Conv2d(widths[level], widths[level - 1], 3, padding=1, bias=level == 1)
            for level in range(_HALVINGS, 0, -1)
        )
        fused = [widths[2], widths[1]]
        self.fusion = FeatureFusion(fused, cfg.ngf) if cfg.fuse_features else None

    def forward(self, layout: Layout, z: Tensor | None = None) -> Tensor:
        """See ``Encoder.forward``."""
        self.check_size(layout.size)
        if z is not None:
            layout = layout.with_noise(z)
        x = F.instance_norm(layout.conv2d(self.stem.weight, padding=3)).relu()
        for conv in self.down:
            x = F.instance_norm(conv(x)).relu()
        for block in self.blocks:
            x = recomputed(self.checkpointing, block, block, x)
        *inner, last = self.up
        intermediate = []
        for conv in inner:
            x = F.instance_norm(conv(F.interpolate(x, scale_factor=2.0, mode="nearest"))).relu()
            intermediate.append(x)
        x = last(F.interpolate(x, scale_factor=2.0, mode="nearest"))
        return x if self.fusion is None else self.fusion(x, intermediate[-2:])

    def residual_convolutions(self) -> list[nn.Module]:
        """Both convolutions of every residual block."""
        return [m for m in self.blocks.modules() if isinstance(m, nn.Conv2d)]
