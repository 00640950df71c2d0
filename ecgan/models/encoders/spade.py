"""The SPADE (GauGAN) generator as shared encoder E, the backbone of the paper's experiments."""

from __future__ import annotations

from typing import cast

from ecgan_kernels.nn import LabelSPADE
from torch import Tensor, nn
from torch.nn import functional as F

from ecgan.config import ModelConfig, parse_size
from ecgan.errors import ConfigError
from ecgan.models import resolve
from ecgan.models.encoders.base import Encoder, FeatureFusion
from ecgan.models.layout import Layout
from ecgan.models.recompute import recomputed

# The blocks that a doubling may precede: k doublings precede the first k of these.
_DOUBLED = ("up_3", "up_2", "up_1", "up_0", "G_middle_0", "G_middle_1")


class SPADEResBlock(nn.Module):
    """SPADE's residual block: x_s + conv_1(act(norm_1(conv_0(act(norm_0(x)))))).

    The shortcut x_s is conv_s(norm_s(x)) where the width changes, else x itself.

    Args:
        in_channels: channels of the input.
        out_channels: channels of the output.
        cfg: networks' settings.
    """

    def __init__(self, in_channels: int, out_channels: int, cfg: ModelConfig) -> None:
        super().__init__()
        middle = min(in_channels, out_channels)
        learned = in_channels != out_channels
        self.conv_0 = nn.Conv2d(in_channels, middle, 3, padding=1)
        self.conv_1 = nn.Conv2d(middle, out_channels, 3, padding=1)
        self.conv_s = nn.Conv2d(in_channels, out_channels, 1, bias=False) if learned else None
        self.norm_0 = _spade(in_channels, cfg, negative_slope=0.2)
        self.norm_1 = _spade(middle, cfg, negative_slope=0.2)
        self.norm_s = _spade(in_channels, cfg, negative_slope=None) if learned else None

    def forward(self, x: Tensor, layout: Layout) -> Tensor:
        """Maps [B, in_channels, h, w] to [B, out_channels, h, w]; layout is at h x w."""
        index, noise = layout.index(), layout.noise
        shortcut = x
        if self.conv_s is not None and self.norm_s is not None:
            shortcut = self.conv_s(self.norm_s(x, index, noise))
        x = self.conv_0(self.norm_0(x, index, noise))
        return shortcut + self.conv_1(self.norm_1(x, index, noise))


class SPADEEncoder(Encoder):
    """SPADE's generator without its last convolution; F has ngf channels at full resolution.

    A 3x3 convolution of the layout, reduced by nearest neighbour, or with ``style: encoder`` a
    linear layer of z, gives 16 * ngf channels; seven residual blocks of 16, 16, 16, 8, 4, 2 and 1
    times ngf follow, with nearest-neighbour doublings between them: 6 ("more") or 5 ("normal")
    in the published models. Fewer leave out the first ones, for small images. The names of the
    parameters are the published ones. So are the biases that add the same to every pixel and that
    the next normalisation therefore takes away in training: of ``fc``, of every ``conv_0``, and,
    the last block's apart, of ``conv_1`` and ``norm_s.mlp_beta``.

    Args:
        cfg: networks' settings.

    Raises:
        ConfigError: the size is not a multiple of 2 to the number of doublings.
    """

    def __init__(self, cfg: ModelConfig) -> None:
        doublings = resolve.upsamplings(cfg)
        super().__init__(cfg, multiple=2**doublings)
        ngf, code = cfg.ngf, resolve.style_length(cfg)
        self.style = cfg.style
        self.doubled = frozenset(_DOUBLED[:doublings])
        if cfg.style == "encoder":
            height, width = parse_size(cfg.size)
            self.latent = (height // self.multiple, width // self.multiple)
            self.fc: nn.Module = nn.Linear(code, 16 * ngf * self.latent[0] * self.latent[1])
        else:
            self.fc = nn.Conv2d(resolve.layout_channels(cfg) + code, 16 * ngf, 3, padding=1)
        self.head_0 = SPADEResBlock(16 * ngf, 16 * ngf, cfg)
        self.G_middle_0 = SPADEResBlock(16 * ngf, 16 * ngf, cfg)
        self.G_middle_1 = SPADEResBlock(16 * ngf, 16 * ngf, cfg)
        self.up_0 = SPADEResBlock(16 * ngf, 8 * ngf, cfg)
        self.up_1 = SPADEResBlock(8 * ngf, 4 * ngf, cfg)
        self.up_2 = SPADEResBlock(4 * ngf, 2 * ngf, cfg)
        self.up_3 = SPADEResBlock(2 * ngf, ngf, cfg)
        self.fusion = FeatureFusion([4 * ngf, 2 * ngf], ngf) if cfg.fuse_features else None

    def forward(self, layout: Layout, z: Tensor | None = None) -> Tensor:
        """See ``Encoder.forward``; with ``style: encoder`` only ``cfg.size`` itself is accepted."""
        if self.style == "noise" and z is not None:
            layout = layout.with_noise(z)
        intermediate = []
        x = self._start(layout, z)
        for name, block in self._blocks():
            if name in self.doubled:
                x = F.interpolate(x, scale_factor=2.0, mode="nearest")
            at = layout.resize((x.shape[2], x.shape[3]))
            x = recomputed(self.checkpointing, block, block, x, at)
            if name in ("up_1", "up_2"):
                intermediate.append(x)
        return x if self.fusion is None else self.fusion(x, intermediate)

    def residual_convolutions(self) -> list[nn.Module]:
        """conv_0, conv_1 and, where the width changes, conv_s of every block."""
        return [
            conv
            for _, block in self._blocks()
            for conv in (block.conv_0, block.conv_1, block.conv_s)
            if conv is not None
        ]

    def _start(self, layout: Layout, z: Tensor | None) -> Tensor:
        self.check_size(layout.size)
        latent = (layout.size[0] // self.multiple, layout.size[1] // self.multiple)
        if self.style != "encoder":
            fc = cast(nn.Conv2d, self.fc)
            return layout.resize(latent).conv2d(fc.weight, fc.bias, padding=1)
        if latent != self.latent:
            height, width = (side * self.multiple for side in self.latent)
            raise ConfigError(
                f"a model with model.style encoder makes images of {height}x{width} only, "
                f"not {layout.size[0]}x{layout.size[1]}"
            )
        return self.fc(z).view(layout.labels.shape[0], -1, *latent)

    def _blocks(self) -> list[tuple[str, SPADEResBlock]]:
        return [(n, m) for n, m in self.named_children() if isinstance(m, SPADEResBlock)]


def _spade(channels: int, cfg: ModelConfig, negative_slope: float | None) -> LabelSPADE:
    return LabelSPADE(
        channels,
        resolve.label_classes(cfg),
        hidden=cfg.spade_hidden,
        norm=cfg.norm,
        negative_slope=negative_slope,
        edge_channel=cfg.instance_edges,
        noise_channels=resolve.style_length(cfg) if cfg.style == "noise" else 0,
    )
