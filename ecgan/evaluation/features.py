"""Networks whose features distances between sets of images are taken in."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ecgan.config import PerceptualConfig
from ecgan.errors import WeightsError
from ecgan.evaluation.inception import InceptionV3
from ecgan.models.perceptual import EfficientNetLite0, build_perceptual
from ecgan.models.pretrained import FrozenNetwork, file_sha256, load_exactly, read_state_dict

# As pytorch-fid and torch-fidelity leave it in torch's hub folder; both hold the same tensors.
_HUB_FILES = (
    "pt_inception-2015-12-05-6726825d.pth",
    "weights-inception-2015-12-05-6726825d.pth",
)
_PUBLISHED_SHA256 = "6726825d"
_LITE_SIDE = 224


class FeatureNetwork(FrozenNetwork):
    """A frozen network that gives one feature vector an image.

    Attributes:
        name: ``inception_v3`` or ``efficientnet_lite0``.
        weights: SHA-256 of the weights file, in hexadecimal.
        dimension: features D.
        prepares: how an image is resized for it, in words.
        frechet_name: what Frechet's distance in these features is called: ``fid`` for the FID's
            own network alone.
        kernel_name: the same for the kernel distance: ``kid``.
        remark: what a reader of the numbers must know; may be empty.
    """

    def __init__(
        self,
        name: str,
        weights: str,
        dimension: int,
        prepares: str,
        network: nn.Module,
        extract: Callable[[Tensor], Tensor],
        remark: str = "",
    ) -> None:
        """Wraps a loaded network and freezes it.

        Args:
            name: see the class.
            weights: see the class.
            dimension: see the class.
            prepares: see the class.
            network: the network; all its weights are loaded.
            extract: from images in [-1, 1] to features.
            remark: see the class.
        """
        super().__init__()
        self.name = name
        self.weights = weights
        self.dimension = dimension
        self.prepares = prepares
        own = name != "inception_v3"
        self.frechet_name = f"frechet_{name}" if own else "fid"
        self.kernel_name = f"kernel_distance_{name}" if own else "kid"
        self.remark = remark
        self.network = network
        self._extract = extract
        self.freeze()

    def forward(self, image: Tensor) -> Tensor:
        """Features, float [B, D], of images, float [B, 3, H, W] in [-1, 1]."""
        return self._extract(image)


def build_features(inception: str = "") -> FeatureNetwork:
    """The network for distances between sets of images.

    InceptionV3 with the FID's weights where ``inception`` names their file or torch's hub folder
    holds it (both pytorch-fid and torch-fidelity leave it there), else EfficientNet-Lite0, whose
    distances go under names of their own.

    Args:
        inception: weights file ``pt_inception-2015-12-05``; a file that is named is used or
            refused, never replaced.

    Raises:
        WeightsError: the file cannot be used, or there are no weights at all.
    """
    if inception:
        return _inception(Path(inception).expanduser())
    for name in _HUB_FILES:
        path = Path(torch.hub.get_dir()) / "checkpoints" / name
        if path.is_file():
            return _inception(path)
    return _efficientnet_lite0()


def _inception(path: Path) -> FeatureNetwork:
    state = read_state_dict(path, "InceptionV3")
    head = state.get("fc.weight")
    if head is not None and tuple(head.shape) != (1008, 2048):
        raise WeightsError(
            f"{path} holds another InceptionV3 (fc.weight is {list(head.shape)}): the FID is "
            "defined by pt_inception-2015-12-05, whose fc.weight is [1008, 2048]"
        )
    network = InceptionV3()
    # The classifier has no part in it; the counter of batches is absent from converted files.
    state = {key: value for key, value in state.items() if not key.startswith("fc.")}
    for key, value in network.state_dict().items():
        if key.endswith("num_batches_tracked"):
            state[key] = value
    load_exactly(network, state, f"InceptionV3 ({path})")
    digest = file_sha256(path)
    remark = ""
    if not digest.startswith(_PUBLISHED_SHA256):
        remark = "the weights file is not byte for byte the published pt_inception-2015-12-05"
    prepares = "bilinear to 299x299, not antialiased"
    return FeatureNetwork("inception_v3", digest, 2048, prepares, network, network, remark)


def _efficientnet_lite0() -> FeatureNetwork:
    perceptual = build_perceptual(PerceptualConfig(network="efficientnet_lite0"))
    network = perceptual.backbone
    assert isinstance(network, EfficientNetLite0)

    def extract(image: Tensor) -> Tensor:
        side = (_LITE_SIDE, _LITE_SIDE)
        x = F.interpolate(image, side, mode="bilinear", align_corners=False, antialias=True)
        x = network.conv_head(network.features(x)[-1])
        return F.relu6(network.bn1(x)).mean((2, 3))

    return FeatureNetwork(
        "efficientnet_lite0",
        perceptual.weights,
        1280,
        f"bilinear to {_LITE_SIDE}x{_LITE_SIDE}, antialiased",
        network,
        extract,
        "no FID: without Inception's weights this is the same distance in other features",
    )
