"""Diversity of the images that a model makes of one label map: the paper's Table 4."""

from __future__ import annotations

import importlib.util
from collections.abc import Sequence
from pathlib import Path
from typing import Literal, cast

import torch
from torch import Tensor, nn

from ecgan.config import PerceptualConfig
from ecgan.errors import ConfigError, WeightsError
from ecgan.models.perceptual import build_perceptual
from ecgan.models.pretrained import FrozenNetwork, file_sha256, load_exactly, read_state_dict

Backbone = Literal["alex", "vgg"]

# LPIPS' own shift and scale of images in [-1, 1].
_SHIFT = (-0.030, -0.088, -0.188)
_SCALE = (0.458, 0.448, 0.450)
_EPS = 1e-10
# Widths of the five layers that LPIPS compares.
_WIDTHS: dict[Backbone, tuple[int, ...]] = {
    "alex": (64, 192, 384, 256, 256),
    "vgg": (64, 128, 256, 512, 512),
}
_HUB_FILES: dict[Backbone, str] = {
    "alex": "alexnet-owt-7be5be79.pth",
    "vgg": "vgg16-397923af.pth",
}
# Positions of the ReLUs after which features are compared.
_TAPS: dict[Backbone, tuple[int, ...]] = {"alex": (1, 4, 7, 9, 11), "vgg": (3, 8, 15, 22, 29)}
# Packages that carry LPIPS' linear weights, and where.
_CARRIERS = (("lpips", "weights/v0.1"), ("torchmetrics", "functional/image/lpips_models"))


class PerceptualDistance(FrozenNetwork):
    """A distance of images: weighted squared differences of unit-normalised features.

    ``d(x, y) = sum_l mean_hw sum_c w_lc (f_lc(x) - f_lc(y))^2`` with f_l of length 1 at every
    pixel: LPIPS (Zhang et al., 2018) with its published weights, and with all w = 1 the same on
    another backbone, which is not called LPIPS.

    Attributes:
        name: ``lpips_alex``, ``lpips_vgg`` or ``perceptual_distance_BACKBONE``.
        weights: SHA-256 of the weights files by role.
    """

    def __init__(
        self,
        name: str,
        weights: dict[str, str],
        backbone: nn.Module,
        layer_weights: Sequence[Tensor] | None,
    ) -> None:
        """Wraps a loaded backbone and freezes it.

        Args:
            name: see the class.
            weights: see the class.
            backbone: from images in [-1, 1] to a list of features [B, C_l, H_l, W_l].
            layer_weights: w_l [C_l] of each layer; None: all 1.
        """
        super().__init__()
        self.name = name
        self.weights = weights
        self.backbone = backbone
        self.layers = 0 if layer_weights is None else len(layer_weights)
        for index, weight in enumerate(layer_weights or ()):
            self.register_buffer(f"weight_{index}", weight)
        self.freeze()

    def features(self, image: Tensor) -> list[Tensor]:
        """Unit-normalised features of images, float [B, 3, H, W] in [-1, 1]."""
        taps = cast("list[Tensor]", self.backbone(image))
        return [tap / (tap.square().sum(1, keepdim=True).sqrt() + _EPS) for tap in taps]

    def weigh(self, squares: Sequence[Tensor]) -> Tensor:
        """``sum_l mean_hw sum_c w_lc`` of squared differences [B, C_l, H_l, W_l]: float64 [B]."""
        total = torch.zeros(len(squares[0]), dtype=torch.float64)
        for index, square in enumerate(squares):
            means = square.mean((2, 3), dtype=torch.float64)
            if self.layers:
                means = means * self.get_buffer(f"weight_{index}")
            total += means.sum(1).cpu()
        return total

    def forward(self, x: Tensor, y: Tensor) -> Tensor:
        """Distances, float64 [B], of images [B, 3, H, W] in [-1, 1]."""
        pairs = zip(self.features(x), self.features(y), strict=True)
        return self.weigh([(a - b).square() for a, b in pairs])


class MeanPairwiseDistance:
    """Mean distance over all pairs of K images, one image at a time.

    The mean of ``(f_i - f_j)^2`` over all pairs is twice the unbiased variance of f, exactly. So
    one running mean of the features stands for K(K-1)/2 comparisons, and K costs no memory.

    Args:
        distance: the distance.
    """

    def __init__(self, distance: PerceptualDistance) -> None:
        self.distance = distance
        self.count = 0
        self._means: list[Tensor] = []
        self._spread = torch.zeros(0, dtype=torch.float64)

    @torch.no_grad()
    def update(self, image: Tensor) -> None:
        """Adds one image for each of B label maps, float [B, 3, H, W] in [-1, 1]."""
        features = self.distance.features(image)
        self.count += 1
        if self.count == 1:
            self._means = [feature.clone() for feature in features]
            self._spread = torch.zeros(len(image), dtype=torch.float64)
            return
        deltas = [f - mean for f, mean in zip(features, self._means, strict=True)]
        for mean, delta in zip(self._means, deltas, strict=True):
            mean += delta / self.count
        share = (self.count - 1) / self.count
        self._spread += share * self.distance.weigh([delta.square_() for delta in deltas])

    def means(self) -> Tensor:
        """Mean pairwise distance of each label map's images, float64 [B].

        Raises:
            ConfigError: fewer than two images.
        """
        if self.count < 2:
            raise ConfigError(f"diversity needs at least 2 samples a label map, not {self.count}")
        return 2 * self._spread / (self.count - 1)


class LPIPSBackbone(nn.Module):
    """AlexNet or VGG16 up to the last layer that LPIPS compares; torchvision's names.

    Args:
        kind: which.
    """

    shift: Tensor
    scale: Tensor

    def __init__(self, kind: Backbone) -> None:
        super().__init__()
        self.taps = _TAPS[kind]
        self.features = _alexnet() if kind == "alex" else _vgg16()
        for name, values in (("shift", _SHIFT), ("scale", _SCALE)):
            self.register_buffer(name, torch.tensor(values).view(1, 3, 1, 1), persistent=False)

    def forward(self, image: Tensor) -> list[Tensor]:
        """Five feature maps of images [B, 3, H, W] in [-1, 1]."""
        x, taps = (image - self.shift) / self.scale, []
        for index, layer in enumerate(self.features):
            x = layer(x)
            if index in self.taps:
                taps.append(x)
        return taps


def build_distance(
    kind: Backbone = "alex", backbone: str = "", linear: str = ""
) -> PerceptualDistance:
    """The distance for diversity: LPIPS v0.1 where its weights are at hand.

    Args:
        kind: LPIPS' backbone.
        backbone: torchvision's weights file of it; empty: torch's hub folder.
        linear: LPIPS' linear weights (``alex.pth`` or ``vgg.pth``); empty: those that an installed
            torchmetrics or lpips carries.

    Returns:
        LPIPS; or, where neither file is named and one is not found, the unweighted distance on
        EfficientNet-Lite0, under its own name.

    Raises:
        WeightsError: a file that was named cannot be used, or its partner is missing.
    """
    named = bool(backbone or linear)
    first = Path(backbone).expanduser() if backbone else _hub_file(kind)
    second = Path(linear).expanduser() if linear else _carried_file(kind)
    if first is not None and second is not None:
        return _lpips(kind, first, second)
    if named:
        lacking = "backbone" if first is None else "linear weights"
        option = "diversity.backbone" if first is None else "diversity.linear"
        raise WeightsError(f"LPIPS' {lacking} for {kind} are not at hand: set {option}")
    network = build_perceptual(PerceptualConfig(network="efficientnet_lite0"))
    name = f"perceptual_distance_{network.name}"
    return PerceptualDistance(name, {"backbone": network.weights}, network, None)


def _lpips(kind: Backbone, backbone: Path, linear: Path) -> PerceptualDistance:
    network = LPIPSBackbone(kind)
    what = f"LPIPS' {'AlexNet' if kind == 'alex' else 'VGG16'}"
    state = read_state_dict(backbone, what)
    used = network.state_dict().keys()
    load_exactly(network, {k: v for k, v in state.items() if k in used}, f"{what} ({backbone})")
    lines = read_state_dict(linear, f"LPIPS' linear layers for {kind}")
    weights = []
    for index, width in enumerate(_WIDTHS[kind]):
        key = f"lin{index}.model.1.weight"
        if key not in lines or lines[key].shape != (1, width, 1, 1):
            raise WeightsError(
                f"{linear} are not LPIPS' linear weights for {kind}: expected {key!r} of shape "
                f"[1, {width}, 1, 1]"
            )
        weights.append(lines[key].flatten().float())
    hashes = {"backbone": file_sha256(backbone), "linear": file_sha256(linear)}
    return PerceptualDistance(f"lpips_{kind}", hashes, network, weights)


def _hub_file(kind: Backbone) -> Path | None:
    path = Path(torch.hub.get_dir()) / "checkpoints" / _HUB_FILES[kind]
    return path if path.is_file() else None


def _carried_file(kind: Backbone) -> Path | None:
    for package, folder in _CARRIERS:
        found = importlib.util.find_spec(package)  # does not import it
        for root in (found.submodule_search_locations or ()) if found else ():
            path = Path(root) / folder / f"{kind}.pth"
            if path.is_file():
                return path
    return None


def _alexnet() -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(3, 64, 11, stride=4, padding=2),
        nn.ReLU(),
        nn.MaxPool2d(3, 2),
        nn.Conv2d(64, 192, 5, padding=2),
        nn.ReLU(),
        nn.MaxPool2d(3, 2),
        nn.Conv2d(192, 384, 3, padding=1),
        nn.ReLU(),
        nn.Conv2d(384, 256, 3, padding=1),
        nn.ReLU(),
        nn.Conv2d(256, 256, 3, padding=1),
        nn.ReLU(),
    )


def _vgg16() -> nn.Sequential:
    layers: list[nn.Module] = []
    channels = 3
    for stage, (width, count) in enumerate(zip(_WIDTHS["vgg"], (2, 2, 3, 3, 3), strict=True)):
        if stage:
            layers.append(nn.MaxPool2d(2))
        for _ in range(count):
            layers += [nn.Conv2d(channels, width, 3, padding=1), nn.ReLU()]
            channels = width
    return nn.Sequential(*layers)
