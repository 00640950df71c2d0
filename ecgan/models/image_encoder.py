"""The image encoder of multi-modal synthesis (setting "encoder" of Table 4, SPADE's VAE)."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ecgan.config import ModelConfig, parse_size
from ecgan.models import resolve
from ecgan.models.branches import SLOPE
from ecgan.models.weights import prepare

# Widths of the stride-2 convolutions in units of ngf; the sixth only serves 256x256.
_WIDTHS = (1, 2, 4, 8, 8, 8)


class ImageEncoder(nn.Module):
    """Maps a photo to the mean and log-variance of its style code.

    The photo is resized to 256x256 (to 128x128 where the model's images are smaller than 256),
    and 3x3 convolutions of stride 2, each with instance normalisation, then LeakyReLU, bring it to
    4x4 pixels, of which two linear layers read the two vectors.

    Args:
        cfg: networks' settings, with size filled in.
    """

    def __init__(self, cfg: ModelConfig) -> None:
        super().__init__()
        self.side = 256 if min(parse_size(cfg.size)) >= 256 else 128
        widths = [cfg.ngf * factor for factor in _WIDTHS[: 6 if self.side == 256 else 5]]
        # No biases: instance normalisation would take them away.
        self.convs = nn.ModuleList(
            nn.Conv2d(a, b, 3, stride=2, padding=1, bias=False)
            for a, b in zip([3, *widths], widths, strict=False)
        )
        code = resolve.style_length(cfg)
        self.fc_mu = nn.Linear(widths[-1] * 16, code)
        self.fc_var = nn.Linear(widths[-1] * 16, code)
        prepare(self, cfg.spectral, official=self.convs)

    def forward(self, image: Tensor) -> tuple[Tensor, Tensor]:
        """Encodes photos [B, 3, H, W] in [-1, 1] to mu and logvar, each [B, Z]."""
        if image.shape[-2:] != (self.side, self.side):
            image = F.interpolate(image, (self.side, self.side), mode="bilinear")
        x = image
        for conv in self.convs:
            x = F.leaky_relu(F.instance_norm(conv(x)), SLOPE)
        x = x.flatten(1)
        return self.fc_mu(x), self.fc_var(x)

    @staticmethod
    def reparameterize(
        mu: Tensor, logvar: Tensor, generator: torch.Generator | None = None
    ) -> Tensor:
        """Draws z = mu + exp(logvar / 2) * eps, eps from N(0, 1), differentiably; [B, Z]."""
        noise = torch.randn(mu.shape, dtype=mu.dtype, device=mu.device, generator=generator)
        return mu + torch.exp(logvar / 2) * noise
