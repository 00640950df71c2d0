"""HED: holistically-nested edge detection, the alternative to Canny for real edge maps."""

from __future__ import annotations

import re
from collections.abc import Callable

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ecgan.models.pretrained import FrozenNetwork, load_exactly, read_state_dict

# Output channels and number of the convolutions of VGG16's five stages.
_STAGES = ((64, 2), (128, 2), (256, 3), (512, 3), (512, 3))
# Mean colour, red, green and blue of 0..255, that VGG16 was trained with.
_MEAN = (122.67891434, 116.66876762, 104.00698793)

_ORDINALS = {"One": 0, "Two": 1, "Thr": 2, "Fou": 3, "Fiv": 4}


class HED(FrozenNetwork):
    """VGG16 with a side output on each of its five stages (Xie & Tu, 2015).

    The side outputs, resized to the image, are fused by a learned 1x1 convolution.
    """

    mean: Tensor

    def __init__(self) -> None:
        super().__init__()
        stages = []
        channels = 3
        for depth, (width, count) in enumerate(_STAGES):
            layers: list[nn.Module] = [nn.MaxPool2d(2)] if depth > 0 else []
            for _ in range(count):
                layers += [nn.Conv2d(channels, width, 3, padding=1), nn.ReLU(inplace=True)]
                channels = width
            stages.append(nn.Sequential(*layers))
        self.stages = nn.ModuleList(stages)
        self.sides = nn.ModuleList(nn.Conv2d(width, 1, 1) for width, _ in _STAGES)
        self.fuse = nn.Conv2d(len(_STAGES), 1, 1)
        self.register_buffer("mean", torch.tensor(_MEAN).view(1, 3, 1, 1), persistent=False)

    def forward(self, image: Tensor) -> Tensor:
        """Probability of an edge at each pixel.

        Args:
            image: RGB, float [B, 3, H, W] in 0..255, H and W at least 16.

        Returns:
            Float [B, 1, H, W] in 0..1.
        """
        x = image - self.mean
        sides = []
        for stage, side in zip(self.stages, self.sides, strict=True):
            x = stage(x)
            sides.append(
                F.interpolate(side(x), image.shape[2:], mode="bilinear", align_corners=False)
            )
        return self.fuse(torch.cat(sides, 1)).sigmoid()


def load_hed(weights: str) -> HED:
    """Loads HED from a weights file.

    Args:
        weights: state dict with the names of ``network-bsds500.pytorch``, the common PyTorch
            conversion of the authors' Caffe model (``moduleVggOne.0.weight``, ...,
            ``moduleScoreOne.weight``, ``moduleCombine.0.weight``; ``net`` for ``module`` will do),
            whose first convolution takes blue, green, red.

    Raises:
        WeightsError: the file is missing or is not HED's.
    """
    network = HED()
    state: dict[str, Tensor] = {}
    for key, tensor in read_state_dict(weights, "HED").items():
        state[_rename(key)] = tensor
    load_exactly(network, state, f"HED ({weights})")
    first = network.get_parameter("stages.0.0.weight")
    first.data = first.data.flip(1)
    return network.freeze()


def build_hed(weights: str) -> Callable[[npt.NDArray[np.uint8]], npt.NDArray[np.float32]]:
    """Edge extractor for the data pipeline.

    Args:
        weights: see :func:`load_hed`.

    Returns:
        Function from an RGB image, uint8 [H, W, 3], to edge strengths, float32 [H, W] in 0..1. It
        runs on the CPU and can be pickled, so data-loading processes may take it along.

    Raises:
        WeightsError: the file is missing or is not HED's.
    """
    return _Extractor(load_hed(weights))


class _Extractor:
    """HED as a function of numpy arrays."""

    def __init__(self, network: HED) -> None:
        self.network = network

    def __call__(self, image: npt.NDArray[np.uint8]) -> npt.NDArray[np.float32]:
        shape = list(image.shape)
        if image.dtype != np.uint8 or len(shape) != 3 or shape[2] != 3 or min(shape[:2]) < 16:
            raise ValueError(
                f"image must be uint8 [H, W, 3] of at least 16x16, not {image.dtype} {shape}"
            )
        pixels = torch.from_numpy(np.ascontiguousarray(image)).permute(2, 0, 1).float()
        with torch.inference_mode():
            return self.network(pixels.unsqueeze(0))[0, 0].numpy()


def _rename(key: str) -> str:
    """Our name of a tensor of ``network-bsds500.pytorch``; an unknown one is left as it is."""
    match = re.fullmatch(
        r"(?:module|net)(Vgg|Score|Combine)(One|Two|Thr|Fou|Fiv)?(?:\.(\d))?\.(weight|bias)", key
    )
    if match is None:
        return key
    part, ordinal, position, kind = match.groups()
    if part == "Combine":
        return f"fuse.{kind}"
    stage = _ORDINALS.get(ordinal, -1)
    if part == "Score":
        return f"sides.{stage}.{kind}"
    return f"stages.{stage}.{position}.{kind}"
