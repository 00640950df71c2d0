"""VGG19 in plain PyTorch, as far as the perceptual loss needs it."""

from __future__ import annotations

from torch import Tensor, nn

# Output channels of the convolutions up to conv5_1; "M" is max pooling.
_LAYERS: tuple[int | str, ...] = (
    *(64, 64, "M"),
    *(128, 128, "M"),
    *(256, 256, 256, 256, "M"),
    *(512, 512, 512, 512, "M"),
    512,
)
# Positions of relu1_1, relu2_1, relu3_1, relu4_1 and relu5_1.
_TAPS = (1, 6, 11, 20, 29)


class VGG19Features(nn.Module):
    """VGG19 (Simonyan & Zisserman, 2015) up to relu5_1.

    The names in its state dict, ``features.0.weight`` and so on, are torchvision's.
    """

    def __init__(self) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        channels = 3
        for entry in _LAYERS:
            if isinstance(entry, str):
                layers.append(nn.MaxPool2d(2))
            else:
                layers += [nn.Conv2d(channels, entry, 3, padding=1), nn.ReLU(inplace=True)]
                channels = entry
        self.features = nn.Sequential(*layers)

    def forward(self, x: Tensor) -> list[Tensor]:
        """Features of relu1_1, relu2_1, relu3_1, relu4_1 and relu5_1.

        Args:
            x: image, float [B, 3, H, W] with H and W at least 16.

        Returns:
            Five tensors with 64, 128, 256, 512 and 512 channels at 1, 1/2, 1/4, 1/8 and 1/16 of
            the resolution.
        """
        taps = []
        for index, layer in enumerate(self.features):
            x = layer(x)
            if index in _TAPS:
                taps.append(x)
        return taps
