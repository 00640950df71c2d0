"""The multi-modality discriminator D: one set of weights judges images and edges (Appendix A)."""

from __future__ import annotations

import itertools
from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ecgan.config import ModelConfig
from ecgan.models import resolve
from ecgan.models.branches import SLOPE
from ecgan.models.layout import AveragedLayout, Layout
from ecgan.models.weights import prepare


class PatchDiscriminator(nn.Module):
    """One scale of D: 4x4 convolutions that end in a map of patch logits.

    The widths are 1, 2, 4 and 8 (at most) times ndf. All but the last two convolutions halve the
    map. Every convolution but the first and the last is followed by instance normalisation, every
    one but the last by LeakyReLU.

    Args:
        layout_channels: channels of S.
        ndf: width of the first layer.
        layers: convolutions before the last.
    """

    def __init__(self, layout_channels: int, ndf: int, layers: int) -> None:
        super().__init__()
        widths = [ndf * min(2**level, 8) for level in range(layers)]
        self.layout_channels = layout_channels
        self.first = nn.Conv2d(layout_channels + 3, ndf, 4, stride=2, padding=2)
        # No bias in the middle: instance normalisation would take it away.
        self.middle = nn.ModuleList(
            nn.Conv2d(a, b, 4, stride=1 if b_at == layers - 1 else 2, padding=2, bias=False)
            for b_at, (a, b) in enumerate(itertools.pairwise(widths), start=1)
        )
        self.last = nn.Conv2d(widths[-1], 1, 4, padding=2)

    def forward(self, semantics: Layout | AveragedLayout, images: Tensor) -> list[Tensor]:
        """Judges K batches of images that share their layouts.

        Args:
            semantics: S or its reduced form, of layout_channels channels, at h x w.
            images: [K * B, 3, h, w], whole batch after whole batch.

        Returns:
            The output of every layer, [K * B, ...]; the last are the logits, one channel.
        """
        # conv(concat(S, image)) = conv_S(S) + conv_image(image): K batches share the part of S.
        weight = self.first.weight
        labels = semantics.conv2d(weight[:, : self.layout_channels], stride=2, padding=2)
        pixels = weight[:, self.layout_channels :]
        x = F.conv2d(images, pixels, self.first.bias, stride=2, padding=2)
        x = (x.unflatten(0, (-1, len(labels))) + labels).flatten(0, 1)
        outputs = [F.leaky_relu_(x, SLOPE)]
        for conv in self.middle:
            outputs.append(F.leaky_relu_(F.instance_norm(conv(outputs[-1])), SLOPE))
        return [*outputs, self.last(outputs[-1])]


class MultiModalityDiscriminator(nn.Module):
    """The multi-modality, multi-scale discriminator.

    The same weights judge pairs (S, edge map) and (S, image), with nothing that tells the modality.
    The scales differ in their input, halved again by 3x3 average pooling.

    Args:
        cfg: networks' settings, with num_classes, void_channel and instance_edges filled in.

    Raises:
        ConfigError: settings contradict each other.
    """

    def __init__(self, cfg: ModelConfig) -> None:
        super().__init__()
        resolve.check(cfg)
        channels = resolve.layout_channels(cfg)
        scales = [
            PatchDiscriminator(channels, cfg.ndf, cfg.d_layers)
            for _ in range(cfg.num_discriminators)
        ]
        self.scales = nn.ModuleList(scales)
        prepare(self, cfg.spectral, official=[conv for scale in scales for conv in scale.middle])

    def forward(self, layout: Layout, images: Sequence[Tensor]) -> list[list[list[Tensor]]]:
        """Judges several batches, which share their layouts, in one pass.

        Args:
            layout: S of the batch, [B, H, W]; its noise is not looked at.
            images: edge maps and images, each [B, 3, H, W].

        Returns:
            For each of ``images``, for each scale, the output of each layer; the last layer's are
            the patch logits [B, 1, h, w].
        """
        x = torch.cat(list(images))
        semantics: Layout | AveragedLayout = layout
        judged: list[list[list[Tensor]]] = [[] for _ in images]
        for level, scale in enumerate(self.scales):
            if level > 0:
                x = F.avg_pool2d(x, 3, stride=2, padding=1, count_include_pad=False)
                semantics = semantics.halve()
            split = [output.chunk(len(images)) for output in scale(semantics, x)]
            for at, outputs in enumerate(judged):
                outputs.append([layer[at] for layer in split])
        return judged
