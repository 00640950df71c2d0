"""The semantic layout S: one conditioning input, at any resolution, computed once."""

from __future__ import annotations

import copy

import torch
from ecgan_kernels import LabelIndex
from torch import Tensor
from torch.nn import functional as F

Size = tuple[int, int]


class Layout:
    """A batch of semantic layouts, with what every network derives from them.

    The label map is kept as integers. Its resized forms, its one-hot form and its ``LabelIndex``
    are made on first use and kept, so that all layers and all discriminators share them. The
    channels of the one-hot form are, in this order, the classes, void (if ``void_channel``) and
    the instance edges (if given). A void pixel without a channel of its own is a zero column.

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

    def one_hot(self, dtype: torch.dtype = torch.float32) -> Tensor:
        """The one-hot form [B, channels, H, W]; kept for the next call."""
        return self._index.one_hot(dtype)

    def conditioning(self, dtype: torch.dtype = torch.float32) -> Tensor:
        """One-hot form and noise, concatenated: [B, channels + Z, H, W]."""
        noise = self.noise
        if noise is None:
            return self.one_hot(dtype)
        return torch.cat([self.one_hot(dtype), noise.to(dtype)], dim=1)

    def with_noise(self, noise: Tensor) -> Layout:
        """The same layout with other noise, [B, Z] or [B, Z, H, W]; the label index is shared."""
        return self._derived(self._index, self._checked_noise(noise))

    def to(self, device: torch.device | str) -> Layout:
        """The layout on another device; what was derived is derived anew there."""
        edges, noise = self.instance_edges, self._noise
        moved = Layout(
            self.labels.to(device),
            self.num_classes,
            void_channel=self.void_channel,
            instance_edges=None if edges is None else edges.to(device),
        )
        moved._noise = None if noise is None else noise.to(device)
        return moved

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
        return layout

    def _checked_noise(self, noise: Tensor) -> Tensor:
        if noise.dim() == 2 and noise.shape[0] == len(self):
            return noise[:, :, None, None]
        if noise.dim() == 4 and (noise.shape[0], *noise.shape[2:]) == (len(self), *self.size):
            return noise
        b, (h, w) = len(self), self.size
        raise ValueError(f"noise must be [{b}, Z] or [{b}, Z, {h}, {w}], not {list(noise.shape)}")
