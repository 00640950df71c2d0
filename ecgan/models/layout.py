"""The semantic layout S: one conditioning input, at any resolution, computed once."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterable
from typing import NamedTuple

import torch
from ecgan_kernels import LabelIndex, label_conv2d
from torch import Tensor
from torch.nn import functional as F

Size = tuple[int, int]


class LabelPart(NamedTuple):
    """One summand of an averaged layout: a label map whose pixels count ``scale`` times."""

    labels: Tensor
    """int64 [B, h, w]."""
    edges: Tensor | None
    """bool [B, 1, h, w] or None."""
    scale: Tensor | None
    """float [1, h, w]; None: once."""


class AveragedLayout:
    """A layout under repeated 3x3 average pooling with stride 2, as the lower scales of D see it.

    The average over a window is the sum of nine label maps, shifted by one pixel each, whose pixels
    count one over the number of pixels in the window (fewer at the border). So nothing but integers
    is kept, where pooling the one-hot form keeps N numbers a pixel.

    Args:
        parts: label maps that add up to this layout, all of one size.
        void: label of void, which has no channel.
    """

    def __init__(self, parts: list[LabelPart], void: int) -> None:
        self.parts = parts
        self.void = void
        self._halved: AveragedLayout | None = None

    def halve(self) -> AveragedLayout:
        """As ``avg_pool2d(x, 3, stride=2, padding=1, count_include_pad=False)``; kept."""
        if self._halved is None:
            parts = [part for whole in self.parts for part in _windows(whole, self.void)]
            self._halved = AveragedLayout(parts, self.void)
        return self._halved

    def conv2d(
        self, weight: Tensor, bias: Tensor | None = None, *, stride: int = 1, padding: int = 0
    ) -> Tensor:
        """Convolution of the channels, as :meth:`Layout.conv2d` without noise."""
        total = None
        for labels, edges, scale in self.parts:
            x = label_conv2d(
                labels,
                weight,
                bias if total is None else None,
                stride=stride,
                padding=padding,
                ignore_index=self.void,
                edges=edges,
                scale=scale,
            )
            total = x if total is None else total + x
        assert total is not None
        return total


def _windows(part: LabelPart, void: int) -> list[LabelPart]:
    """The nine shifted label maps of 3x3 windows with stride 2 and padding 1."""
    labels, edges, scale = part
    height, width = labels.shape[1:]
    rows, columns = (height + 1) // 2, (width + 1) // 2
    weight = torch.ones(1, height, width, device=labels.device) if scale is None else scale
    ones = torch.ones(1, 1, height, width, device=labels.device)
    share = F.avg_pool2d(ones, 3, stride=2, padding=1, divisor_override=1)[0].reciprocal()
    labels = F.pad(labels, (1, 1, 1, 1), value=void)
    weight = F.pad(weight, (1, 1, 1, 1))
    edges = None if edges is None else F.pad(edges, (1, 1, 1, 1))
    parts = []
    for dy in range(3):
        for dx in range(3):
            at = (
                ...,
                slice(dy, dy + 2 * rows - 1, 2),
                slice(dx, dx + 2 * columns - 1, 2),
            )
            parts.append(
                LabelPart(labels[at], None if edges is None else edges[at], weight[at] * share)
            )
    return parts


class Layout:
    """A batch of semantic layouts, with what every network derives from them.

    The label map is kept as integers. Its resized and averaged forms and its ``LabelIndex`` are
    made on first use and kept, so that all layers and all discriminators share them. The channels
    are, in this order, the classes, void (if ``void_channel``) and the instance edges (if given),
    as of the map's one-hot form, which nothing here ever builds: :meth:`conv2d` convolves them from
    the integers. A void pixel without a channel of its own is a zero column.

    Args:
        labels: integer tensor [B, H, W], classes 0 to num_classes - 1; anything else is void.
        num_classes: number of classes N.
        void_channel: whether void is a channel of its own.
        instance_edges: [B, 1, H, W], nonzero at the boundaries of instances.
        noise: 3D noise, [B, Z] (the same everywhere) or [B, Z, H, W].

    Raises:
        ValueError: a shape does not fit.
        TypeError: labels are not integers.
    """

    def __init__(
        self,
        labels: Tensor,
        num_classes: int,
        *,
        void_channel: bool = False,
        instance_edges: Tensor | None = None,
        noise: Tensor | None = None,
    ) -> None:
        if labels.is_floating_point() or labels.is_complex() or labels.dtype == torch.bool:
            raise TypeError(f"labels must be an integer tensor, not {labels.dtype}")
        if labels.dim() != 3:
            raise ValueError(f"labels must be [B, H, W], not {list(labels.shape)}")
        if instance_edges is not None:
            expected = (labels.shape[0], 1, *labels.shape[1:])
            if tuple(instance_edges.shape) != expected:
                raise ValueError(
                    f"instance_edges must be {list(expected)} to fit labels, "
                    f"not {list(instance_edges.shape)}"
                )
            instance_edges = instance_edges != 0
        self.num_classes = num_classes
        self.void_channel = void_channel
        labels = labels.long()
        labels = torch.where((labels < 0) | (labels > num_classes), num_classes, labels)
        self._index = LabelIndex(labels, num_classes + void_channel, edges=instance_edges)
        self._resized: dict[Size, Layout] = {}
        self._halved: AveragedLayout | None = None
        self._noise = None if noise is None else self._checked_noise(noise)

    @property
    def labels(self) -> Tensor:
        """Labels, int64 [B, H, W], 0 to num_classes; void = num_classes."""
        return self._index.labels

    @property
    def instance_edges(self) -> Tensor | None:
        """Boundaries of instances, bool [B, 1, H, W], or None."""
        return self._index.edges

    @property
    def size(self) -> Size:
        """Height and width in pixels."""
        return self.labels.shape[1], self.labels.shape[2]

    @property
    def channels(self) -> int:
        """Channels of the one-hot form, without noise."""
        return self.num_classes + self.void_channel + (self.instance_edges is not None)

    @property
    def valid(self) -> Tensor:
        """Pixels that carry a class, bool [B, H, W]."""
        return self.labels < self.num_classes

    @property
    def noise(self) -> Tensor | None:
        """3D noise [B, Z, H, W] (an expanded view where it is the same everywhere), or None."""
        if self._noise is None:
            return None
        return self._noise.expand(-1, -1, *self.size)

    def __len__(self) -> int:
        return self.labels.shape[0]

    def index(self) -> LabelIndex:
        """The index that ``LabelSPADE`` takes, of num_classes (+1 for a void channel) classes."""
        return self._index

    def resize(self, size: Size) -> Layout:
        """The layout at another height and width, by nearest neighbour; kept for the next call."""
        size = (int(size[0]), int(size[1]))
        if size == self.size:
            return self
        if size not in self._resized:
            noise = self._noise
            if noise is not None and noise.shape[-2:] != (1, 1):
                noise = F.interpolate(noise, size, mode="nearest")
            self._resized[size] = self._derived(self._index.resize(size), noise)
        return self._resized[size]

    def halve(self) -> AveragedLayout:
        """The layout halved as D's scales are, by 3x3 average pooling; kept for the next call."""
        if self._halved is None:
            part = LabelPart(self.labels, self.instance_edges, None)
            self._halved = AveragedLayout([part], self._index.num_classes).halve()
        return self._halved

    def conv2d(
        self, weight: Tensor, bias: Tensor | None = None, *, stride: int = 1, padding: int = 0
    ) -> Tensor:
        """Convolution of the layout's channels and, where the weight has channels for it, noise.

        Args:
            weight: [O, channels, k, k], or [O, channels + Z, k, k].
            bias: [O] or None.
            stride: step between outputs in pixels.
            padding: zero margin in pixels.

        Returns:
            [B, O, h, w], as of ``F.conv2d`` of the one-hot form followed by the noise.
        """
        columns = self.channels
        x = label_conv2d(
            self.labels,
            weight[:, :columns],
            bias,
            stride=stride,
            padding=padding,
            ignore_index=self._index.num_classes,
            edges=self.instance_edges,
        )
        noise = self.noise
        if noise is None or weight.shape[1] == columns:
            return x
        noise = noise.to(weight.dtype)
        return x + F.conv2d(noise, weight[:, columns:], stride=stride, padding=padding)

    def with_noise(self, noise: Tensor) -> Layout:
        """The same layout with other noise, [B, Z] or [B, Z, H, W]; the label index is shared."""
        return self._derived(self._index, self._checked_noise(noise))

    def prepare(self, sizes: Iterable[Size]) -> Layout:
        """Computes now what SPADE layers at ``sizes`` ask of the label index; returns itself.

        In a data-loading process: a layout pickles with all that it holds.
        """
        self._index.prepare(sizes)
        return self

    def to(self, device: torch.device | str, *, non_blocking: bool = False) -> Layout:
        """The layout on another device, with what its label index holds."""
        noise = self._noise
        return self._derived(
            self._index.to(device, non_blocking=non_blocking),
            None if noise is None else noise.to(device, non_blocking=non_blocking),
        )

    def pin_memory(self) -> Layout:
        """A copy in page-locked memory, as ``DataLoader(pin_memory=True)`` asks for."""
        return self.map(Tensor.pin_memory)

    def map(self, function: Callable[[Tensor], Tensor]) -> Layout:
        """The layout with ``function`` of each tensor that it and its label index hold."""
        noise = self._noise
        return self._derived(self._index.map(function), None if noise is None else function(noise))

    def repeat(self, times: int) -> Layout:
        """The batch ``times`` times over: [times * B], whole batch after whole batch."""
        edges = self.instance_edges
        repeated = Layout(
            self.labels.repeat(times, 1, 1),
            self.num_classes,
            void_channel=self.void_channel,
            instance_edges=None if edges is None else edges.repeat(times, 1, 1, 1),
        )
        if self._noise is not None:
            repeated._noise = self._noise.repeat(times, 1, 1, 1)
        return repeated

    def _derived(self, index: LabelIndex, noise: Tensor | None) -> Layout:
        layout = copy.copy(self)
        layout._index, layout._noise, layout._resized = index, noise, {}
        layout._halved = None
        return layout

    def _checked_noise(self, noise: Tensor) -> Tensor:
        if noise.dim() == 2 and noise.shape[0] == len(self):
            return noise[:, :, None, None]
        if noise.dim() == 4 and (noise.shape[0], *noise.shape[2:]) == (len(self), *self.size):
            return noise
        b, (h, w) = len(self), self.size
        raise ValueError(f"noise must be [{b}, Z] or [{b}, Z, {h}, {w}], not {list(noise.shape)}")
