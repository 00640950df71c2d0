"""The projection head of the pixel-wise contrastive loss (Section 3.3)."""

from __future__ import annotations

from torch import Tensor, nn
from torch.nn import functional as F


class ProjectionHead(nn.Module):
    """Maps features to the embedding space of the contrastive loss: 1x1, ReLU, 1x1 [R15, R16].

    The embeddings are not normalised: ``ecgan_kernels.pixel_contrast`` does that.

    Args:
        in_channels: channels C of the features.
        dim: width D of the embeddings.
    """

    def __init__(self, in_channels: int, dim: int) -> None:
        super().__init__()
        self.hidden = nn.Conv2d(in_channels, in_channels, 1)
        self.out = nn.Conv2d(in_channels, dim, 1)

    def forward(self, features: Tensor) -> Tensor:
        """Embeds a map [B, C, H, W] -> [B, D, H, W], or sampled pixels [P, C] -> [P, D]."""
        if features.dim() == 2:
            hidden = F.linear(features, self.hidden.weight.flatten(1), self.hidden.bias)
            return F.linear(hidden.relu(), self.out.weight.flatten(1), self.out.bias)
        return self.out(self.hidden(features).relu())
