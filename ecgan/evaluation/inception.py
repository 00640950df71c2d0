"""The InceptionV3 that the FID is defined by, in plain PyTorch."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

Kernel = tuple[int, int]


class _Chain(NamedTuple):
    """A branch of a block: convolutions one after the other."""

    name: str
    layers: tuple[tuple[int, Kernel], ...]
    """Output channels and kernel of each."""
    split: bool = False
    """Whether the last layer is two side by side, of kernels 1x3 and 3x1."""


def _square(side: int) -> Kernel:
    return (side, side)


def _chain(name: str, *layers: tuple[int, int | Kernel], split: bool = False) -> _Chain:
    sized = tuple((w, _square(k) if isinstance(k, int) else k) for w, k in layers)
    return _Chain(name, sized, split)


def _block_a(pool: int) -> list[_Chain]:
    return [
        _chain("branch1x1", (64, 1)),
        _chain("branch5x5", (48, 1), (64, 5)),
        _chain("branch3x3dbl", (64, 1), (96, 3), (96, 3)),
        _chain("branch_pool", (pool, 1)),
    ]


def _block_c(width: int) -> list[_Chain]:
    across, down = (1, 7), (7, 1)
    return [
        _chain("branch1x1", (192, 1)),
        _chain("branch7x7", (width, 1), (width, across), (192, down)),
        _chain(
            "branch7x7dbl", (width, 1), (width, down), (width, across), (width, down), (192, across)
        ),
        _chain("branch_pool", (192, 1)),
    ]


_BLOCK_B = [_chain("branch3x3", (384, 3)), _chain("branch3x3dbl", (64, 1), (96, 3), (96, 3))]
_BLOCK_D = [
    _chain("branch3x3", (192, 1), (320, 3)),
    _chain("branch7x7x3", (192, 1), (192, (1, 7)), (192, (7, 1)), (192, 3)),
]
_BLOCK_E = [
    _chain("branch1x1", (320, 1)),
    _chain("branch3x3", (384, 1), (384, 3), split=True),
    _chain("branch3x3dbl", (448, 1), (384, 3), (384, 3), split=True),
    _chain("branch_pool", (192, 1)),
]
# Name, channels that enter, branches, pooling of the last branch. "halve" blocks have stride 2 in
# the last convolution of each branch and a plain max pooling as a further branch.
_BLOCKS = (
    ("Mixed_5b", 192, _block_a(32), "average"),
    ("Mixed_5c", 256, _block_a(64), "average"),
    ("Mixed_5d", 288, _block_a(64), "average"),
    ("Mixed_6a", 288, _BLOCK_B, "halve"),
    ("Mixed_6b", 768, _block_c(128), "average"),
    ("Mixed_6c", 768, _block_c(160), "average"),
    ("Mixed_6d", 768, _block_c(160), "average"),
    ("Mixed_6e", 768, _block_c(192), "average"),
    ("Mixed_7a", 768, _BLOCK_D, "halve"),
    ("Mixed_7b", 1280, _BLOCK_E, "average"),
    # The published network pools by maximum here alone; FIDs depend on it.
    ("Mixed_7c", 2048, _BLOCK_E, "max"),
)


class _Conv(nn.Module):
    """Convolution without bias, batch normalisation, ReLU."""

    def __init__(
        self, inputs: int, outputs: int, kernel: Kernel, stride: int = 1, padding: Kernel = (0, 0)
    ) -> None:
        super().__init__()
        self.conv = nn.Conv2d(inputs, outputs, kernel, stride, padding, bias=False)
        self.bn = nn.BatchNorm2d(outputs, eps=1e-3)

    def forward(self, x: Tensor) -> Tensor:
        return F.relu(self.bn(self.conv(x)))


class _Block(nn.Module):
    """Parallel branches, their outputs side by side."""

    def __init__(self, inputs: int, chains: list[_Chain], pooling: str) -> None:
        super().__init__()
        self.pooling = pooling
        self._chains: list[tuple[str, list[tuple[str, ...]]]] = []
        for chain in chains:
            steps, channels = [], inputs
            for number, (width, kernel) in enumerate(chain.layers, 1):
                last = number == len(chain.layers)
                stem = chain.name if len(chain.layers) == 1 else f"{chain.name}_{number}"
                layers = {stem: kernel}
                if last and chain.split:
                    layers = {f"{stem}a": (1, 3), f"{stem}b": (3, 1)}
                halve = last and pooling == "halve"
                for name, size in layers.items():
                    padding = (0, 0) if halve else (size[0] // 2, size[1] // 2)
                    conv = _Conv(channels, width, size, stride=2 if halve else 1, padding=padding)
                    self.add_module(name, conv)
                steps.append(tuple(layers))
                channels = width
            self._chains.append((chain.name, steps))

    def forward(self, x: Tensor) -> Tensor:
        outputs = []
        for name, steps in self._chains:
            y = self._pool(x) if name == "branch_pool" else x
            for step in steps:
                y = torch.cat([self.get_submodule(layer)(y) for layer in step], 1)
            outputs.append(y)
        if self.pooling == "halve":
            outputs.append(F.max_pool2d(x, 3, 2))
        return torch.cat(outputs, 1)

    def _pool(self, x: Tensor) -> Tensor:
        if self.pooling == "max":
            return F.max_pool2d(x, 3, 1, 1)
        # As TensorFlow: the margin is no pixel.
        return F.avg_pool2d(x, 3, 1, 1, count_include_pad=False)


class InceptionV3(nn.Module):
    """InceptionV3 (Szegedy et al., 2016) up to the pooled 2048 features, as FIDs take it.

    This is TensorFlow's network of 2015-12-05, which differs from torchvision's in its average
    pooling (without the margin) and in the last block's maximum. The names in its state dict are
    those of the published ``pt_inception-2015-12-05`` file.
    """

    def __init__(self) -> None:
        super().__init__()
        self.Conv2d_1a_3x3 = _Conv(3, 32, (3, 3), stride=2)
        self.Conv2d_2a_3x3 = _Conv(32, 32, (3, 3))
        self.Conv2d_2b_3x3 = _Conv(32, 64, (3, 3), padding=(1, 1))
        self.Conv2d_3b_1x1 = _Conv(64, 80, (1, 1))
        self.Conv2d_4a_3x3 = _Conv(80, 192, (3, 3))
        for name, inputs, chains, pooling in _BLOCKS:
            self.add_module(name, _Block(inputs, chains, pooling))

    def forward(self, image: Tensor) -> Tensor:
        """Features of images.

        Args:
            image: float [B, 3, H, W] in [-1, 1], resized to 299x299 bilinearly without
                antialiasing, as the published FIDs are.

        Returns:
            float [B, 2048].
        """
        x = image
        if x.shape[-2:] != (299, 299):
            x = F.interpolate(x, (299, 299), mode="bilinear", align_corners=False)
        x = self.Conv2d_2b_3x3(self.Conv2d_2a_3x3(self.Conv2d_1a_3x3(x)))
        x = self.Conv2d_4a_3x3(self.Conv2d_3b_1x1(F.max_pool2d(x, 3, 2)))
        x = F.max_pool2d(x, 3, 2)
        for name, *_ in _BLOCKS:
            x = self.get_submodule(name)(x)
        return x.mean((2, 3))
