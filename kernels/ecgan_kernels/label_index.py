"""One label map, indexed once and shared by every layer that is conditioned on it."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, fields
from typing import Any

import torch
from torch import Tensor

from ecgan_kernels import _windows
from ecgan_kernels._checks import check_dense, check_device, check_int, check_labels, check_shape
from ecgan_kernels.reference import label_index as reference

_MOST_CLASSES = 2**30 - 2  # codes of void, outside and edges fit 32 bits
_LARGEST_KERNEL = 255  # kMaxWindow of csrc/cpu/label_index.h


@dataclass
class NestedPatches:
    """What two convolutions of size k, one after the other, see of a batch of label maps."""

    patches: Tensor
    """int32 [U, k * k]: the distinct k x k neighbourhoods, as `LabelIndex.neighbourhoods` gives."""
    members: Tensor
    """int32 [V, k * k]: the distinct (2k-1) x (2k-1) neighbourhoods, each as the rows of
    ``patches`` around its k x k middle pixels, -1 for a pixel outside the map."""
    inverse: Tensor
    """int32 [B, H, W]: the row of ``members`` that each pixel's neighbourhood is."""
    walk: Tensor | None = None
    """How the device's kernels walk the pixels. CPU: int32 [S, 2], runs of one neighbourhood and
    mixtures, as first pixel in the image and length, negative of a mixture. GPU: int32 [B * H * W],
    the batch's pixels sorted by ``inverse``."""
    bounds: Tensor | None = None
    """CPU: int64 [B + 1], each image's first row of ``walk``. GPU: int32 [V + 1], where each
    neighbourhood's pixels begin in it."""

    def map(self, function: Callable[[Tensor], Tensor]) -> NestedPatches:
        """The same with ``function`` of each tensor."""
        tensors = (getattr(self, field.name) for field in fields(self))
        return NestedPatches(*(None if t is None else function(t) for t in tensors))  # type: ignore[arg-type]


class LabelIndex:
    """A batch of label maps at any resolution, with what the label-map operators derive from it.

    Everything is computed when first asked for and kept: a generator resizes its label map once
    per resolution, however many layers read it. `prepare` computes it beforehand, in a worker that
    loads data: an index pickles, and its tensors travel between processes in shared memory.

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
        ValueError: a shape or a device does not fit, or ``num_classes`` is less than 1 or more
            than 2**30 - 2.
    """

    labels: Tensor
    edges: Tensor | None
    num_classes: int

    def __init__(self, labels: Tensor, num_classes: int, *, edges: Tensor | None = None) -> None:
        check_labels("labels", labels, dims=3)
        check_int("num_classes", num_classes, minimum=1, maximum=_MOST_CLASSES)
        if edges is not None:
            check_dense("edges", edges)
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
        self._nested: dict[int, NestedPatches] = {}

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
            found = type(size).__name__
            raise TypeError(f"size must be two ints, (height, width), not {found}")
        if len(size) != 2:
            raise ValueError(f"size must be two ints, (height, width), not {len(size)}")
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
        on an instance edge: ``label = code % (N + 2)``, ``edge = code // (N + 2)``. Their order is
        that of their first pixels on the CPU, and sorted by code on a GPU.

        Args:
            kernel_size: odd side length k of the square neighbourhood.

        Returns:
            patches: int32 [U, k * k], distinct rows in row-major order of the taps.
            inverse: int32 [B, H, W]; ``patches[inverse]`` is [B, H, W, k * k].

        Raises:
            TypeError: ``kernel_size`` is not an int.
            ValueError: ``kernel_size`` is even, less than 1 or more than 255.
        """
        _check_kernel_size(kernel_size)
        if kernel_size not in self._neighbourhoods:
            self._find_neighbourhoods(kernel_size)
        return self._neighbourhoods[kernel_size]

    def nested(self, kernel_size: int) -> NestedPatches:
        """The distinct neighbourhoods of two convolutions of one size in a row; cached.

        Raises:
            TypeError: ``kernel_size`` is not an int.
            ValueError: ``kernel_size`` is even, less than 1 or more than 255.
        """
        _check_kernel_size(kernel_size)
        if kernel_size not in self._nested:
            self._find_nested(kernel_size)
        return self._nested[kernel_size]

    def prepare(
        self, sizes: Iterable[tuple[int, int]], kernel_sizes: Iterable[int] = (3,)
    ) -> LabelIndex:
        """Computes now what `nested` gives at each of ``sizes``, and returns this index.

        A data loader's collate function does this in its worker process, so that a training step
        finds its index ready: ``LabelIndex(labels, N).prepare([(256, 256), (128, 128)])``.

        Args:
            sizes: (height, width) of each resolution that layers work at.
            kernel_sizes: their kernel sizes.

        Raises:
            TypeError: a size is not an int.
            ValueError: a size is out of range.
        """
        kernel_sizes = tuple(kernel_sizes)
        for size in sizes:
            for kernel_size in kernel_sizes:
                self.resize(size).nested(kernel_size)
        return self

    def to(self, device: torch.device | str, *, non_blocking: bool = False) -> LabelIndex:
        """A copy on ``device`` of this index and of all it holds; itself where it is there already.

        Args:
            device: where to.
            non_blocking: whether copies from pinned memory may run beside the host.
        """
        device = torch.empty(0, device=device).device  # with its number, where it has one
        if self.labels.device == device:
            return self
        copy = self.map(lambda tensor: tensor.to(device, non_blocking=non_blocking))
        if device.type != self.labels.device.type:
            for index in (copy, *copy._resized.values()):
                for places in index._nested.values():
                    places.walk, places.bounds = _windows.walk(places.inverse, len(places.members))
        return copy

    def pin_memory(self) -> LabelIndex:
        """A copy in page-locked memory, as a ``DataLoader(pin_memory=True)`` asks for."""
        return self.map(Tensor.pin_memory)

    def map(self, function: Callable[[Tensor], Tensor]) -> LabelIndex:
        """The same index with ``function`` of each tensor that it holds, but for one-hot forms."""
        copy = object.__new__(LabelIndex)
        copy.labels = function(self.labels)
        copy.edges = None if self.edges is None else function(self.edges)
        copy.num_classes = self.num_classes
        copy._resized = {size: index.map(function) for size, index in self._resized.items()}
        copy._one_hot = {}
        copy._neighbourhoods = {
            size: (function(patches), function(inverse))
            for size, (patches, inverse) in self._neighbourhoods.items()
        }
        copy._nested = {size: places.map(function) for size, places in self._nested.items()}
        return copy

    # The numbers of neighbourhoods are read from the maps: not for a graph of torch.compile.
    @torch.compiler.disable
    def _find_neighbourhoods(self, kernel_size: int) -> None:
        found = _windows.find(self._codes(), self.num_classes + 1, kernel_size)
        self._neighbourhoods[kernel_size] = found

    @torch.compiler.disable
    def _find_nested(self, kernel_size: int) -> None:
        found = NestedPatches(
            *_windows.find_nested(self._codes(), self.num_classes + 1, kernel_size)
        )
        found.walk, found.bounds = _windows.walk(found.inverse, len(found.members))
        self._nested[kernel_size] = found

    def _codes(self) -> Tensor:
        codes = self.labels
        if self.edges is not None:
            codes = codes + (self.num_classes + 2) * self.edges[:, 0]
        return codes.int().contiguous()

    def __getstate__(self) -> dict[str, Any]:
        # The one-hot forms are large, and quickly made again.
        return {**self.__dict__, "_one_hot": {}}

    def __len__(self) -> int:
        return self.labels.shape[0]

    def __repr__(self) -> str:
        batch, height, width = self.labels.shape
        edges = "" if self.edges is None else ", edges"
        return f"LabelIndex({batch} x {height} x {width}, {self.num_classes} classes{edges})"


def _check_kernel_size(kernel_size: int) -> None:
    check_int("kernel_size", kernel_size, minimum=1)
    if kernel_size % 2 == 0 or kernel_size > _LARGEST_KERNEL:
        raise ValueError(
            f"kernel_size must be odd and at most {_LARGEST_KERNEL}, not {kernel_size}"
        )
