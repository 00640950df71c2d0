"""The generators of SPADE and OASIS, written from their papers, with their published names."""

from __future__ import annotations

import re
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import TypeVar

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ecgan.config import ModelConfig, parse_size
from ecgan.errors import ConfigError, WeightsError
from ecgan.models import resolve
from ecgan.models.branches import SLOPE
from ecgan.models.encoders.spade import SPADEEncoder, SPADEResBlock
from ecgan.models.importers.state import (
    LabelOrder,
    fold_spectral_norms,
    label_channels,
    reorder_inputs,
)
from ecgan.models.layout import Layout
from ecgan.models.pretrained import load_exactly, read_state_dict

_OASIS_WIDTHS = (16, 16, 16, 8, 4, 2, 1)

Network = TypeVar("Network", bound=nn.Module)


@dataclass
class BaselineImage:
    """What a baseline makes."""

    final: Tensor
    """[B, 3, H, W] in (-1, 1)."""
    edge: Tensor | None = None
    """No baseline makes edges."""


class _Baseline(nn.Module):
    """Settings and styles of a baseline.

    Args:
        cfg: its size, widths and label channels.
    """

    def __init__(self, cfg: ModelConfig) -> None:
        super().__init__()
        self.cfg = cfg
        self.conv_img = nn.Conv2d(cfg.ngf, 3, 3, padding=1)

    def sample_style(
        self, batch: int, *, generator: torch.Generator | None = None
    ) -> Tensor | None:
        """Draws style codes [batch, Z] from N(0, 1); None for a network without style."""
        length = resolve.style_length(self.cfg)
        return torch.randn(batch, length, generator=generator) if length else None

    def _image(self, features: Tensor) -> BaselineImage:
        return BaselineImage(torch.tanh(self.conv_img(F.leaky_relu(features, SLOPE))))


class SPADEBaseline(_Baseline):
    """SPADE's generator (Park et al., CVPR 2019): our encoder E and its last convolution.

    Args:
        cfg: networks' settings; ``style: encoder`` for a model trained with the image encoder.
    """

    def __init__(self, cfg: ModelConfig) -> None:
        super().__init__(cfg)
        self.encoder = SPADEEncoder(cfg)

    def forward(self, layout: Layout, z: Tensor | None = None) -> BaselineImage:
        """Images of layouts; z is [B, Z] with ``style: encoder``."""
        return self._image(self.encoder(layout, z))


class OASISBaseline(_Baseline):
    """OASIS' generator (Sushko et al., ICLR 2021): six SPADE blocks that all see 3D noise.

    Args:
        cfg: networks' settings; ``style: noise``, or none for a model without noise.

    Raises:
        ConfigError: height or width is not a multiple of 32.
    """

    def __init__(self, cfg: ModelConfig) -> None:
        super().__init__(cfg)
        if any(side % 32 for side in parse_size(cfg.size)):
            raise ConfigError(f"OASIS needs height and width in multiples of 32, not {cfg.size}")
        widths = [factor * cfg.ngf for factor in _OASIS_WIDTHS]
        inputs = resolve.layout_channels(cfg) + resolve.style_length(cfg)
        self.fc = nn.Conv2d(inputs, widths[0], 3, padding=1)
        self.body = nn.ModuleList(SPADEResBlock(a, b, cfg) for a, b in pairwise(widths))

    def forward(self, layout: Layout, z: Tensor | None = None) -> BaselineImage:
        """Images of layouts; z is the noise, [B, Z] or [B, Z, H, W]."""
        if z is not None:
            layout = layout.with_noise(z)
        size = (layout.size[0] // 32, layout.size[1] // 32)
        x = layout.resize(size).conv2d(self.fc.weight, self.fc.bias, padding=1)
        for index, block in enumerate(self.body):
            if index:
                x = F.interpolate(x, scale_factor=2.0, mode="nearest")
            x = block(x, layout.resize((x.shape[2], x.shape[3])))
        return self._image(x)


def load_spade(
    path: str | Path,
    num_classes: int,
    size: str,
    *,
    label_order: LabelOrder = "auto",
) -> SPADEBaseline:
    """Loads a published generator of SPADE (``latest_net_G.pth``).

    Args:
        path: the file; read with ``weights_only``.
        num_classes: classes N of the data set.
        size: height x width that it makes.
        label_order: order of its label channels: none for Cityscapes, unshifted for ADE20K, shifted
            for COCO-Stuff.

    Raises:
        WeightsError: the file is no such checkpoint.
        ConfigError: it does not suit the data set or the size.
    """
    what = f"SPADE's generator ({path})"
    state = _read(path, "SPADE's generator")
    label_weight = _tensor(state, "head_0.norm_0.mlp_shared.0.weight", 4, what)
    fc = state.get("fc.weight")
    vae = fc is not None and fc.dim() == 2
    labels = label_channels(what, label_weight.shape[1], num_classes, label_order)
    cfg = ModelConfig(
        num_classes=num_classes,
        void_channel=labels.void_channel,
        instance_edges=labels.instance_edges,
        size=size,
        ngf=_tensor(state, "conv_img.weight", 4, what).shape[1],
        spade_hidden=label_weight.shape[0],
        norm="batch",
        style="encoder" if vae else "none",
        z_dim=fc.shape[1] if vae and fc is not None else 0,
    )
    endings = ["mlp_shared.0.weight", *([] if vae else ["fc.weight"])]
    state = reorder_inputs(state, endings, labels.columns)
    state = {k if k.startswith("conv_img.") else f"encoder.{k}": v for k, v in state.items()}
    return _load(SPADEBaseline(cfg), state, what)


def load_oasis(
    path: str | Path,
    num_classes: int,
    size: str,
    *,
    label_order: LabelOrder = "auto",
    z_dim: int = 64,
) -> OASISBaseline:
    """Loads a published generator of OASIS (``best_EMA.pth`` or ``best_G.pth``).

    Args:
        path: the file; read with ``weights_only``.
        num_classes: classes N of the data set.
        size: height x width that it makes.
        label_order: order of its label channels: none for Cityscapes, unshifted for ADE20K,
            coco_plus1 for COCO-Stuff.
        z_dim: channels of the 3D noise; 0 for a model without.

    Raises:
        WeightsError: the file is no such checkpoint.
        ConfigError: it does not suit the data set or the size.
    """
    what = f"OASIS' generator ({path})"
    state = _read(path, "OASIS' generator")
    state = {key.replace(".first_norm.", ".param_free_norm."): v for key, v in state.items()}
    label_weight = _tensor(state, "body.0.norm_0.mlp_shared.0.weight", 4, what)
    channels = label_weight.shape[1] - z_dim
    labels = label_channels(what, channels, num_classes, label_order)
    cfg = ModelConfig(
        num_classes=num_classes,
        void_channel=labels.void_channel,
        instance_edges=labels.instance_edges,
        size=size,
        ngf=_tensor(state, "conv_img.weight", 4, what).shape[1],
        spade_hidden=label_weight.shape[0],
        norm="batch",
        style="noise" if z_dim else "none",
        z_dim=z_dim,
    )
    # There the noise comes before the labels, here behind them.
    columns = [z_dim + column for column in labels.columns] + list(range(z_dim))
    state = reorder_inputs(state, ["mlp_shared.0.weight", "fc.weight"], columns)
    return _load(OASISBaseline(cfg), state, what)


def _read(path: str | Path, what: str) -> dict[str, Tensor]:
    # Some files were saved from within DataParallel.
    state = read_state_dict(path, what)
    return fold_spectral_norms({re.sub(r"^module\.", "", key): v for key, v in state.items()})


def _tensor(state: dict[str, Tensor], key: str, dims: int, what: str) -> Tensor:
    tensor = state.get(key)
    if tensor is None or tensor.dim() != dims:
        raise WeightsError(f"the weights are not those of {what}: they lack {key!r}")
    return tensor


def _load(network: Network, state: dict[str, Tensor], what: str) -> Network:
    # Some releases of torch did not save the counters, which evaluation mode does not read.
    for key, value in network.state_dict().items():
        if key.endswith("num_batches_tracked"):
            state[key] = value
    load_exactly(network, state, what)
    return network.eval().requires_grad_(False)
