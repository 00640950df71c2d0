"""The heads on the shared feature F: G_e, G_i, G_s and the class-specific decoder."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Sequence
from typing import cast

import torch
from ecgan_kernels import class_conv2d, edge_transfer, edge_transfer_lrelu
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
        """Runs the stack and returns its features.

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

    def last_output(self, activated: Tensor) -> Tensor:
        """The output before Tanh alone; keeps no feature but for the backward pass."""
        *inner, last = self.convs
        for conv in inner:
            activated = F.leaky_relu_(conv(activated), SLOPE)
        return last(activated)


def transfer_stacks(image: ConvStack, edge: ConvStack, activated: Tensor) -> tuple[Tensor, Tensor]:
    """G_i and G_e with G_t at feature level, side by side; keeps activated features only.

    Args:
        image: G_i.
        edge: G_e.
        activated: LeakyReLU(F), [B, C, H, W].

    Returns:
        The last outputs of G_i and G_e before Tanh, [B, 3, H, W] each.
    """
    x = e = activated
    *inner, last = zip(image.convs, edge.convs, strict=True)
    for image_conv, edge_conv in inner:
        x, e = edge_transfer_lrelu(image_conv(x), edge_conv(e), negative_slope=SLOPE)
    return last[0](x), last[1](e)


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
        self,
        activated: Tensor,
        image: Tensor,
        edge: Tensor | None,
        layout: Layout,
        inspect: bool = True,
        means: Tensor | None = None,
    ) -> tuple[Tensor, Tensor | None]:
        """Refines I' to I''.

        Args:
            activated: LeakyReLU(F), [B, C, H, W].
            image: I', [B, 3, H, W].
            edge: I'_e, [B, 3, H, W], or None where the edge branch is off.
            layout: S, at the same height and width.
            inspect: whether to return F', too, which training need not keep.
            means: mean of F_c over the whole image, [B, N, 1, 1], where this is a part of it; None
                takes the mean over what is here.

        Returns:
            I'' in (-1, 1), [B, 3, H, W], and F', [B, C + 6 + channels of S, H, W], or None.
        """
        classes = self.class_features(activated, image, edge, layout)
        if means is None:
            means = classes.mean((2, 3), keepdim=True)
        classes = F.leaky_relu_(classes * (1 + means.sigmoid()), SLOPE)
        preserved = self.to_features(classes)
        # In place where nobody asks for F': it is the widest tensor of all.
        refine = F.leaky_relu(preserved, SLOPE) if inspect else F.leaky_relu_(preserved, SLOPE)
        return torch.tanh(self.to_image(refine)), preserved if inspect else None

    def class_features(
        self, activated: Tensor, image: Tensor, edge: Tensor | None, layout: Layout
    ) -> Tensor:
        """F_c before its amplification, [B, N, H, W]; arguments as of :meth:`forward`."""
        contents = image if edge is None else torch.cat([image, edge], 1)
        # conv(concat(x, y, S)) = conv_x(x) + conv_y(y) + conv_S(S), and nothing is concatenated but
        # the six channels; S, being >= 0, needs no LeakyReLU either.
        weight, wide = self.to_classes.weight, activated.shape[1]
        classes = F.conv2d(activated, weight[:, :wide], padding=1)
        classes += F.conv2d(
            F.leaky_relu(contents, SLOPE), weight[:, wide : self.generated], padding=1
        )
        classes += layout.conv2d(weight[:, self.generated :], self.to_classes.bias, padding=1)
        return classes


class ClassDecoder(nn.Module):
    """Class-specific pixel generation with one decoder shared by all classes (Section 3.3).

    Stands for N decoder passes (:meth:`passes`), each on F masked by one class, the mask put on
    again before every layer, whose outputs (masked) are added up to I_g [R20]. A pixel then only
    ever meets pixels of its own class, so that one pass of class-gated convolutions gives the very
    same image. At a boundary this means that the other side counts as zero, as padding does; were
    the masks not put on again, pixels within three of a boundary would see the other class's
    features of the layers before.

    Args:
        channels: channels C of F.
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.convs = stack(channels)

    def forward(self, activated: Tensor, layout: Layout) -> Tensor:
        """Decodes LeakyReLU(F) [B, C, H, W] to I_g [B, 3, H, W] in (-1, 1), 0 at void pixels."""
        for level, conv in enumerate(self._layers()):
            activated = class_conv2d(
                activated,
                layout.labels,
                conv.weight,
                conv.bias,
                negative_slope=SLOPE if level else None,
            )
        return torch.tanh(activated) * layout.valid.unsqueeze(1)

    def passes(self, activated: Tensor, layout: Layout, classes: Iterable[int]) -> Tensor:
        """The same by one pass a class: the specification, which keeps every pass's layers.

        Args:
            activated: LeakyReLU(F), [B, C, H, W].
            layout: S, at the same height and width.
            classes: the classes to decode; all N of them give what :meth:`forward` gives.
        """
        total = activated.new_zeros(len(layout), 3, *layout.size)
        for label in classes:
            mask = (layout.labels == label).unsqueeze(1).to(activated.dtype)
            x = activated * mask
            for level, conv in enumerate(self._layers()):
                x = conv(x if level == 0 else F.leaky_relu(x, SLOPE)) * mask
            total = total + torch.tanh(x)
        return total

    def _layers(self) -> Iterable[nn.Conv2d]:
        return cast(Iterable[nn.Conv2d], self.convs)


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
