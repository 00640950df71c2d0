"""One label map, indexed once and shared by every layer that is conditioned on it."""

from __future__ import annotations

import torch
from torch import Tensor

from ecgan_kernels._checks import check_device, check_int, check_labels, check_shape
from ecgan_kernels.reference import label_index as reference


class LabelIndex:
    """A batch of label maps at any resolution, with what the label-map operators derive from it.

    Everything is computed when first asked for and kept: a generator resizes its label map once
    per resolution, however many layers read it.

    Args:
        labels: integer [B, H, W]. A label outside ``[0, num_classes)`` is void: it contributes
            nothing to any operator.
        num_classes: number of classes N.
        edges: instance edges [B, 1, H, W], bool or number, non-zero on an edge; one more channel of
            the conditioning. None: there is no such channel.

    Attributes:
        labels: int64 [B, H, W] in ``[0, num_classes]``; ``num_classes`` is void.
        edges: bool [B, 1, H, W] or None.
        num_classes: N.

    Raises:
        TypeError: ``labels`` is not an integer tensor, ``edges`` not a tensor, or ``num_classes``
            not an int.
        ValueError: a shape or a device does not fit, or ``num_classes`` is less than 1.
    """

    labels: Tensor
    edges: Tensor | None
    num_classes: int

    def __init__(self, labels: Tensor, num_classes: int, *, edges: Tensor | None = None) -> None:
        check_labels("labels", labels, dims=3)
        check_int("num_classes", num_classes, minimum=1)
        if edges is not None:
            if not isinstance(edges, Tensor):
                raise TypeError(f"edges must be a torch.Tensor or None, not {type(edges).__name__}")
            batch, height, width = labels.shape
            check_shape("edges", edges, (batch, 1, height, width), "[B, 1, H, W] of labels")
            check_device("edges", edges, "labels", labels)
        values = labels.long()
        known = (values >= 0) & (values < num_classes)
        self.labels = torch.where(known, values, num_classes)
        self.edges = None if edges is None else edges != 0
        self.num_classes = num_classes
        self._resized: dict[tuple[int, int], LabelIndex] = {}
        self._one_hot: dict[torch.dtype, Tensor] = {}
        self._neighbourhoods: dict[int, tuple[Tensor, Tensor]] = {}

    @property
    def channels(self) -> int:
        """Channels of the one-hot form: N, and one more with edges."""
        return self.num_classes + (self.edges is not None)

    @property
    def size(self) -> tuple[int, int]:
        """Height and width in pixels."""
        return self.labels.shape[1], self.labels.shape[2]

    def resize(self, size: tuple[int, int]) -> LabelIndex:
        """The same label map at ``size`` (height, width), resized to the nearest pixel; cached.

        The rule is that of ``F.interpolate(one_hot, size, mode="nearest")``, as in SPADE.

        Raises:
            TypeError: ``size`` is no pair, or not of ints.
            ValueError: a side is less than 1, or their number is not two.
        """
        if not isinstance(size, tuple | list):
            raise TypeError(f"size must be two ints, (height, width), not {size!r}")
        if len(size) != 2:
            raise ValueError(f"size must be two ints, (height, width), not {size!r}")
        height, width = size
        check_int("size[0]", height, minimum=1)
        check_int("size[1]", width, minimum=1)
        if (height, width) == self.size:
            return self
        if (height, width) not in self._resized:
            labels = reference.resize_nearest(self.labels, (height, width))
            edges = None
            if self.edges is not None:
                edges = reference.resize_nearest(self.edges[:, 0], (height, width))[:, None]
            self._resized[height, width] = LabelIndex(labels, self.num_classes, edges=edges)
        return self._resized[height, width]

    def one_hot(self, dtype: torch.dtype = torch.float32) -> Tensor:
        """The one-hot form [B, N (+1 with edges), H, W] in ``dtype``; cached.

        Void pixels are zero in all N class channels. The tensor is shared: do not write to it.
        """
        if dtype not in self._one_hot:
            self._one_hot[dtype] = reference.one_hot(
                self.labels, self.num_classes, self.edges, dtype
            )
        return self._one_hot[dtype]

    def neighbourhoods(self, kernel_size: int) -> tuple[Tensor, Tensor]:
        """The batch's distinct label neighbourhoods and where they stand; cached.

        A neighbourhood's codes are labels, with ``N`` for void and ``N + 1`` for pixels outside the
        map (zero padding, which a convolution further on tells apart from void), plus ``N + 2``
        on an instance edge: ``label = code % (N + 2)``, ``edge = code // (N + 2)``.

        Args:
            kernel_size: odd side length k of the square neighbourhood.

        Returns:
            patches: int64 [U, k * k], distinct rows in row-major order of the taps.
            inverse: int64 [B, H, W]; ``patches[inverse]`` is [B, H, W, k * k].

        Raises:
            TypeError: ``kernel_size`` is not an int.
            ValueError: ``kernel_size`` is even or less than 1.
        """
        check_int("kernel_size", kernel_size, minimum=1)
        if kernel_size % 2 == 0:
            raise ValueError(f"kernel_size must be odd, not {kernel_size}")
        if kernel_size not in self._neighbourhoods:
            self._neighbourhoods[kernel_size] = reference.neighbourhoods(
                self.labels, self.num_classes, self.edges, kernel_size
            )
        return self._neighbourhoods[kernel_size]

    def __len__(self) -> int:
        return self.labels.shape[0]

    def __repr__(self) -> str:
        batch, height, width = self.labels.shape
        edges = "" if self.edges is None else ", edges"
        return f"LabelIndex({batch} x {height} x {width}, {self.num_classes} classes{edges})"
