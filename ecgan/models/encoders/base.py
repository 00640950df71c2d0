"""What every backbone of the shared encoder E offers."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence

from torch import Tensor, nn
from torch.nn import functional as F

from ecgan.config import ModelConfig, parse_size
from ecgan.errors import ConfigError
from ecgan.models.layout import Layout, Size


class Encoder(nn.Module, ABC):
    """The parameter-sharing encoder E (Section 3.1): S -> F, at the layout's own height and width.

    A subclass says in ``multiple`` what height and width must be multiples of, and has ``ngf``
    channels in F.

    Args:
        cfg: networks' settings.
        multiple: smallest height and width; both must be multiples of it.

    Raises:
        ConfigError: ``cfg.size`` is not a multiple.
    """

    def __init__(self, cfg: ModelConfig, multiple: int) -> None:
        super().__init__()
        self.name = cfg.encoder
        self.channels = cfg.ngf
        self.multiple = multiple
        self.checkpointing = cfg.checkpointing
        self.check_size(parse_size(cfg.size))

    @abstractmethod
    def forward(self, layout: Layout, z: Tensor | None = None) -> Tensor:
        """The shared feature F.

        Args:
            layout: S.
            z: style code [B, Z], or for 3D noise [B, Z] or [B, Z, H, W]; None without style.

        Returns:
            F, [B, ngf, H, W], not activated.

        Raises:
            ConfigError: the layout's height or width is not a multiple of ``multiple``.
        """

    @abstractmethod
    def residual_convolutions(self) -> list[nn.Module]:
        """Convolutions of the residual blocks, which ``spectral: official`` normalises."""

    def check_size(self, size: Size) -> None:
        """Refuses sizes that the backbone cannot halve or double evenly.

        Raises:
            ConfigError: height or width is not a multiple of ``multiple``.
        """
        if any(side % self.multiple for side in size):
            nearest = "x".join(str(max(1, round(s / self.multiple)) * self.multiple) for s in size)
            hint = ", or fewer model.num_upsamples" if self.name == "spade" else ""
            raise ConfigError(
                f"size {size[0]}x{size[1]} does not suit the {self.name} encoder: height and width "
                f"must be multiples of {self.multiple}, such as {nearest}{hint}"
            )


class FeatureFusion(nn.Module):
    """Adds intermediate feature maps of E to F, the paper's option in Section 3.1.

    Args:
        channels: channels of the intermediate maps.
        out_channels: channels C of F.
    """

    def __init__(self, channels: Sequence[int], out_channels: int) -> None:
        super().__init__()
        self.lateral = nn.ModuleList(nn.Conv2d(c, out_channels, 1) for c in channels)

    def forward(self, features: Tensor, intermediate: Sequence[Tensor]) -> Tensor:
        """F plus a 1x1 convolution of each map, enlarged to F's height and width [B, C, H, W]."""
        for conv, x in zip(self.lateral, intermediate, strict=True):
            lateral = conv(x)
            if lateral.shape[-2:] != features.shape[-2:]:
                lateral = F.interpolate(lateral, features.shape[-2:], mode="bilinear")
            features = features + lateral
        return features
