"""The heads on the shared feature F: G_e, G_i, G_s and the class-specific decoder."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Sequence
from typing import cast

import torch
from ecgan_kernels import class_conv2d, edge_transfer
from torch import Tensor, nn
from torch.nn import functional as F

from ecgan.models.layout import Layout

SLOPE = 0.2
"""Negative slope of every LeakyReLU of G and D."""


def stack(channels: int) -> nn.ModuleList:
    """The 3x3 convolutions of G_e, G_i and the class decoder: C, C/2, C/4, C/8, 3 channels."""
    widths = [channels, channels // 2, channels // 4, channels // 8, 3]
    return nn.ModuleList(nn.Conv2d(a, b, 3, padding=1) for a, b in itertools.pairwise(widths))


class ConvStack(nn.Module):
    """The edge generator G_e or the image generator G_i: n = 3 convolutions and a last one.

    LeakyReLU stands before each convolution, so the features F_e^j and F_i^j are the raw outputs
    of the convolutions, and the Tanh of the last one is left to the content-level transfer.

    Args:
        channels: channels C of F.
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.convs = stack(channels)

    def forward(
        self, activated: Tensor, guides: Sequence[Tensor] | None = None
    ) -> tuple[list[Tensor], Tensor]:
        """Runs the stack.

        Args:
            activated: LeakyReLU(F), [B, C, H, W].
            guides: edge features F_e^j of G_t at feature level: each F_i^j becomes
                sigmoid(F_e^j) * F_i^j + F_i^j and goes on to the next convolution; None: no G_t.

        Returns:
            The features, [B, C/2, H, W], [B, C/4, H, W] and [B, C/8, H, W], and the last
            convolution's output [B, 3, H, W] before Tanh.
        """
        *inner, last = self.convs
        features: list[Tensor] = []
        for level, conv in enumerate(inner):
            feature = conv(activated)
            if guides is not None:
                feature = edge_transfer(feature, guides[level])
            features.append(feature)
            activated = F.leaky_relu(feature, SLOPE)
        return features, last(activated)


class SemanticPreserving(nn.Module):
    """The semantic preserving module G_s (Section 3.2, Figure 3).

    Highlights class-dependent feature maps by a factor a class and image, learned from the
    concatenation of F, I', I'_e and S. LeakyReLU stands before each of the three convolutions, as
    in the authors' code, hence also on the concatenation.

    Args:
        channels: channels C of F.
        num_classes: number of classes N, the width of F_c.
        layout_channels: channels of S.
        edge: whether I'_e is a part of the concatenation.
    """

    def __init__(self, channels: int, num_classes: int, layout_channels: int, edge: bool) -> None:
        super().__init__()
        self.generated = channels + (6 if edge else 3)
        width = self.generated + layout_channels
        self.to_classes = nn.Conv2d(width, num_classes, 3, padding=1)
        self.to_features = nn.Conv2d(num_classes, width, 3, padding=1)
        self.to_image = nn.Conv2d(width, 3, 3, padding=1)

    def forward(
        self, activated: Tensor, image: Tensor, edge: Tensor | None, layout: Layout
    ) -> tuple[Tensor, Tensor]:
        """Refines I' to I''.

        Args:
            activated: LeakyReLU(F), [B, C, H, W].
            image: I', [B, 3, H, W].
            edge: I'_e, [B, 3, H, W], or None where the edge branch is off.
            layout: S, at the same height and width.

        Returns:
            I'' in (-1, 1), [B, 3, H, W], and F', [B, C + 6 + channels of S, H, W].
        """
        contents = [image] if edge is None else [image, edge]
        generated = [activated, *(F.leaky_relu(content, SLOPE) for content in contents)]
        # conv(concat(x, S)) = conv_x(x) + conv_S(S); S, being >= 0, needs no LeakyReLU either.
        weight = self.to_classes.weight
        one_hot = layout.one_hot(activated.dtype)
        classes = F.conv2d(one_hot, weight[:, self.generated :], self.to_classes.bias, padding=1)
        classes = classes + F.conv2d(
            torch.cat(generated, 1), weight[:, : self.generated], padding=1
        )
        factors = classes.mean((2, 3), keepdim=True).sigmoid()
        classes = classes * (1 + factors)
        preserved = self.to_features(F.leaky_relu(classes, SLOPE))
        return torch.tanh(self.to_image(F.leaky_relu(preserved, SLOPE))), preserved


class ClassDecoder(nn.Module):
    """Class-specific pixel generation with one decoder shared by all classes (Section 3.3).

    Stands for N decoder passes, each on F masked by one class, the mask put on again before every
    layer, whose outputs (masked) are added up to I_g [R20]. A pixel then only ever meets pixels of
    its own class, so that one pass of class-gated convolutions gives the very same image.

    Args:
        channels: channels C of F.
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.convs = stack(channels)

    def forward(self, activated: Tensor, layout: Layout) -> Tensor:
        """Decodes LeakyReLU(F) [B, C, H, W] to I_g [B, 3, H, W] in (-1, 1), 0 at void pixels."""
        for level, conv in enumerate(cast(Iterable[nn.Conv2d], self.convs)):
            if level > 0:
                activated = F.leaky_relu(activated, SLOPE)
            activated = class_conv2d(activated, layout.labels, conv.weight, conv.bias)
        return torch.tanh(activated) * layout.valid.unsqueeze(1)


class ClassFusion(nn.Module):
    """Fuses the class-specific image I_g into the image of G_s [R21].

    Args:
        channels: channels C of F.
        mode: ``mean``: both count alike; ``attention``: a weight a pixel, learned from F.
    """

    def __init__(self, channels: int, mode: str) -> None:
        super().__init__()
        self.attention = nn.Conv2d(channels, 1, 3, padding=1) if mode == "attention" else None

    def forward(
        self, activated: Tensor, image: Tensor, class_image: Tensor, layout: Layout
    ) -> Tensor:
        """The fused image [B, 3, H, W]; a void pixel, which I_g leaves empty, stays ``image``'s."""
        share = layout.valid.unsqueeze(1).to(image.dtype)
        share = share * (0.5 if self.attention is None else self.attention(activated).sigmoid())
        return image + share * (class_image - image)
