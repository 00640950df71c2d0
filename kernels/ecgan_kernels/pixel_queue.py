"""A memory of past pixel embeddings, the contrast set of a batch too small to hold one."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ecgan_kernels._checks import (
    check_device,
    check_floating,
    check_int,
    check_labels,
    check_positive,
    check_shape,
)


class PixelQueue(nn.Module):
    r"""One ring buffer of embeddings for every class, all of the same capacity.

    The newest embeddings of a class replace its oldest, whatever the other classes do, so a rare
    class keeps as many as a frequent one. Used as the contrast set of `pixel_contrast`:

        queue = PixelQueue(num_classes=19, dim=256, megabytes=64)
        past, past_labels = queue.contents(ignore_index=255)
        loss = pixel_contrast(z, labels, contrast=past, contrast_labels=past_labels)
        queue.enqueue(z, labels)

    All of it is in the state_dict, as buffers. Nothing waits for the GPU: sizes do not depend on
    the labels. Every process of a distributed training has its own queue; enqueue what was gathered
    from all of them to keep the queues equal. Source: the pixel queue of Wang et al., Exploring
    Cross-Image Pixel Contrast for Semantic Segmentation, ICCV 2021, Section 3.3.

    Args:
        num_classes: classes N; labels outside [0, N) are not stored.
        dim: length D of an embedding.
        megabytes: most memory of the embeddings, in MiB; it decides the capacity of a class,
            ``megabytes * 2**20 // (N * D * bytes of dtype)``.
        dtype: float32, float16, bfloat16 or float64, what embeddings are stored in.

    Attributes:
        capacity: embeddings that a class can hold.
        embeddings: ``dtype`` [N * capacity + 1, D], class after class; the last row is scratch.
        counts: int64 [N], embeddings held of each class.
        cursors: int64 [N], slot that each class writes next.

    Raises:
        TypeError: a size is not an int or not a number, or ``dtype`` is not floating.
        ValueError: a size is out of range, or ``megabytes`` holds no embedding of each class.
    """

    embeddings: Tensor
    counts: Tensor
    cursors: Tensor

    def __init__(
        self,
        num_classes: int,
        dim: int,
        *,
        megabytes: float,
        dtype: torch.dtype = torch.float32,
    ) -> None:
        super().__init__()
        check_int("num_classes", num_classes, minimum=1)
        check_int("dim", dim, minimum=1)
        check_positive("megabytes", megabytes)
        known = (torch.float32, torch.float16, torch.bfloat16, torch.float64)
        if not isinstance(dtype, torch.dtype) or dtype not in known:
            found = dtype if isinstance(dtype, torch.dtype) else type(dtype).__name__
            raise TypeError(f"dtype must be a floating dtype of pixel_contrast, not {found}")
        row = dim * dtype.itemsize
        self.capacity = int(megabytes * 2**20) // (num_classes * row)
        if self.capacity < 1:
            least = num_classes * row / 2**20
            raise ValueError(
                f"megabytes must be at least {least:.3g} to hold one embedding of each of "
                f"{num_classes} classes, not {megabytes}"
            )
        self.num_classes = num_classes
        self.dim = dim
        rows = num_classes * self.capacity + 1
        self.register_buffer("embeddings", torch.zeros(rows, dim, dtype=dtype))
        self.register_buffer("counts", torch.zeros(num_classes, dtype=torch.int64))
        self.register_buffer("cursors", torch.zeros(num_classes, dtype=torch.int64))

    @torch.no_grad()
    def enqueue(self, embeddings: Tensor, labels: Tensor, *, normalize: bool = True) -> None:
        """Stores embeddings; of more than ``capacity`` of a class, the last ones.

        Args:
            embeddings: floating [K, D], oldest first; no gradient is kept.
            labels: integer [K]; a row whose label is outside [0, N) is not stored.
            normalize: whether rows are scaled to length 1 first, in float32 or better.

        Raises:
            TypeError: an argument has the wrong type or dtype.
            ValueError: a shape or a device does not fit.
        """
        check_floating("embeddings", embeddings, dims=2)
        check_shape("embeddings", embeddings, (embeddings.shape[0], self.dim), "[K, dim]")
        check_device("embeddings", embeddings, "the queue", self.embeddings)
        check_labels("labels", labels)
        check_shape("labels", labels, embeddings.shape[:1], "[K] of embeddings")
        check_device("labels", labels, "embeddings", embeddings)
        if normalize:
            wide = torch.promote_types(embeddings.dtype, torch.float32)
            embeddings = F.normalize(embeddings.to(wide), dim=1)
        none = self.num_classes
        values = labels.long()
        values = torch.where((values >= 0) & (values < none), values, none)
        order = values.argsort(stable=True)
        classes = values[order]
        added = F.pad(torch.zeros_like(self.counts), (0, 1))
        added.scatter_add_(0, classes, torch.ones_like(classes))
        start = added.cumsum(0) - added
        rank = torch.arange(len(classes), device=classes.device) - start[classes]
        stored = (classes < none) & (rank >= added[classes] - self.capacity)
        slot = (F.pad(self.cursors, (0, 1))[classes] + rank) % self.capacity
        # What is not stored goes to the scratch row: a mask would have a size that the host awaits.
        row = torch.where(stored, classes * self.capacity + slot, none * self.capacity)
        self.embeddings.index_copy_(0, row, embeddings[order].to(self.embeddings.dtype))
        self.cursors.copy_((self.cursors + added[:none]) % self.capacity)
        self.counts.copy_((self.counts + added[:none]).clamp(max=self.capacity))

    def contents(self, ignore_index: int = 255) -> tuple[Tensor, Tensor]:
        """What the queue holds, as `pixel_contrast` takes it.

        Args:
            ignore_index: label that marks the empty slots, which must take no part.

        Returns:
            embeddings: ``dtype`` [N * capacity, D], a view: not to be written to.
            labels: int64 [N * capacity].

        Raises:
            TypeError: ``ignore_index`` is not an int.
            ValueError: it is one of the classes.
        """
        check_int("ignore_index", ignore_index)
        if 0 <= ignore_index < self.num_classes:
            raise ValueError(
                f"ignore_index must be outside [0, {self.num_classes}), the classes, "
                f"not {ignore_index}"
            )
        device = self.counts.device
        slots = torch.arange(self.capacity, device=device)
        classes = torch.arange(self.num_classes, device=device)
        held = slots < self.counts[:, None]
        labels = torch.where(held, classes[:, None], ignore_index)
        return self.embeddings[:-1], labels.flatten()

    def extra_repr(self) -> str:
        """What ``repr`` shows."""
        return f"{self.num_classes}, {self.dim}, capacity={self.capacity}"
