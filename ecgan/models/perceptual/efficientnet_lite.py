"""EfficientNet-Lite0 in plain PyTorch."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils.fusion import fuse_conv_bn_eval

# (kernel, stride, output channels, blocks) of the seven stages; the first does not expand.
_STAGES = (
    (3, 1, 16, 1),
    (3, 2, 24, 2),
    (5, 2, 40, 2),
    (3, 2, 80, 3),
    (5, 1, 112, 3),
    (5, 2, 192, 4),
    (3, 1, 320, 1),
)
_EXPANSION = 6
# Last block at each of the resolutions 1/2, 1/4, 1/8, 1/16 and 1/32.
_TAPS = (0, 2, 4, 10, 15)


class _Conv(nn.Conv2d):
    """Convolution with TensorFlow's SAME padding: the odd pixel goes below and to the right."""

    def forward(self, x: Tensor) -> Tensor:
        pad: list[int] = []
        for size, kernel, stride in zip(
            reversed(x.shape[2:]), self.kernel_size, self.stride, strict=True
        ):
            total = max((-(-size // stride) - 1) * stride + kernel - size, 0)
            pad += [total // 2, total - total // 2]
        if pad[0] == pad[1] and pad[2] == pad[3]:
            return F.conv2d(
                x, self.weight, self.bias, self.stride, (pad[2], pad[0]), 1, self.groups
            )
        return F.conv2d(F.pad(x, pad), self.weight, self.bias, self.stride, 0, 1, self.groups)


def _conv(inputs: int, outputs: int, kernel: int, stride: int = 1, groups: int = 1) -> _Conv:
    return _Conv(inputs, outputs, kernel, stride, groups=groups, bias=False)


def _norm(channels: int) -> nn.BatchNorm2d:
    return nn.BatchNorm2d(channels, eps=1e-3)


def _fold(module: nn.Module, conv: str, norm: str) -> None:
    merged = fuse_conv_bn_eval(getattr(module, conv), getattr(module, norm))
    setattr(module, conv, merged)
    setattr(module, norm, nn.Identity())


class _Block(nn.Module):
    """Inverted bottleneck: 1x1 expansion, depthwise convolution, linear 1x1 projection."""

    def __init__(self, inputs: int, outputs: int, kernel: int, stride: int, expand: bool) -> None:
        super().__init__()
        width = inputs * _EXPANSION if expand else inputs
        self.expand = expand
        self.residual = stride == 1 and inputs == outputs
        if expand:
            self.expand_conv = _conv(inputs, width, 1)
            self.bn0 = _norm(width)
        self.depthwise_conv = _conv(width, width, kernel, stride, groups=width)
        self.bn1 = _norm(width)
        self.project_conv = _conv(width, outputs, 1)
        self.bn2 = _norm(outputs)

    def forward(self, x: Tensor) -> Tensor:
        y = F.relu6(self.bn0(self.expand_conv(x))) if self.expand else x
        y = F.relu6(self.bn1(self.depthwise_conv(y)))
        y = self.bn2(self.project_conv(y))
        return x + y if self.residual else y


class EfficientNetLite0(nn.Module):
    """ImageNet classifier without squeeze-and-excitation, ReLU6 activations.

    Architecture: Tan & Le, EfficientNet (2019), in its Lite variant; 4.65 million parameters. The
    state dict is the published one without the underscores that start its names. Trained on images
    in [-1, 1] (mean and deviation 127.5), not on ImageNet's mean and deviation.
    """

    def __init__(self) -> None:
        super().__init__()
        channels = 32
        self.conv_stem = _conv(3, channels, 3, 2)
        self.bn0 = _norm(channels)
        blocks = []
        for stage, (kernel, stride, outputs, count) in enumerate(_STAGES):
            for index in range(count):
                step = stride if index == 0 else 1
                blocks.append(_Block(channels, outputs, kernel, step, expand=stage > 0))
                channels = outputs
        self.blocks = nn.ModuleList(blocks)
        self.conv_head = _conv(channels, 1280, 1)
        self.bn1 = _norm(1280)
        self.fc = nn.Linear(1280, 1000)

    def fold(self) -> None:
        """Merges each batch normalisation into the convolution before it, for evaluation only.

        A pass with gradients to the image then keeps one tensor a layer instead of two.
        """
        _fold(self, "conv_stem", "bn0")
        _fold(self, "conv_head", "bn1")
        for block in self.blocks:
            if block.expand:
                _fold(block, "expand_conv", "bn0")
            _fold(block, "depthwise_conv", "bn1")
            _fold(block, "project_conv", "bn2")

    def features(self, x: Tensor) -> list[Tensor]:
        """Outputs of the last block at 1/2, 1/4, 1/8, 1/16 and 1/32 of the resolution.

        Args:
            x: image in [-1, 1], float [B, 3, H, W].

        Returns:
            Five tensors with 16, 24, 40, 112 and 320 channels; sizes are rounded up.
        """
        taps = []
        x = F.relu6(self.bn0(self.conv_stem(x)))
        for index, block in enumerate(self.blocks):
            x = block(x)
            if index in _TAPS:
                taps.append(x)
        return taps

    def forward(self, x: Tensor) -> Tensor:
        """Logits [B, 1000] of ImageNet's classes for images [B, 3, H, W] in [-1, 1]."""
        x = F.relu6(self.bn1(self.conv_head(self.features(x)[-1])))
        return self.fc(x.mean((2, 3)))
