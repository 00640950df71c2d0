"""Backbones of the shared encoder E behind one interface."""

from __future__ import annotations

from ecgan.config import ModelConfig
from ecgan.models.encoders.base import Encoder
from ecgan.models.encoders.resnet import ResNetEncoder
from ecgan.models.encoders.spade import SPADEEncoder
from ecgan.models.encoders.vgg import VGGEncoder

__all__ = ["Encoder", "ResNetEncoder", "SPADEEncoder", "VGGEncoder", "build_encoder"]

_BACKBONES: dict[str, type[SPADEEncoder | ResNetEncoder | VGGEncoder]] = {
    "spade": SPADEEncoder,
    "resnet": ResNetEncoder,
    "vgg": VGGEncoder,
}


def build_encoder(cfg: ModelConfig) -> Encoder:
    """The backbone that ``cfg.encoder`` names.

    Raises:
        ConfigError: ``cfg.size`` does not suit it.
    """
    return _BACKBONES[cfg.encoder](cfg)
