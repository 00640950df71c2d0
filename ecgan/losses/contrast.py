"""Pixel-wise contrastive loss across layouts (Section 3.3)."""

from __future__ import annotations

from collections.abc import Callable

import torch
from ecgan_kernels import PixelQueue, pixel_contrast, sample_pixels
from torch import Tensor
from torch.nn import functional as F

from ecgan.losses.gather import gather_rows, scale_gradient, world


def contrast_loss(
    features: Tensor,
    labels: Tensor,
    projection: Callable[[Tensor], Tensor],
    *,
    ignore_index: int,
    temperature: float = 0.07,
    layouts: int = 8,
    budget: int = 4096,
    predictions: Tensor | None = None,
    generator: torch.Generator | None = None,
    across_ranks: bool = False,
    queue: PixelQueue | None = None,
    queue_update: int = 10,
    sample: Callable[..., Tensor] = sample_pixels,
) -> Tensor:
    """Pulls embeddings of one class together and pushes classes apart, across layouts.

    The batch is divided into groups of at most ``layouts`` layouts. From each group a
    class-balanced sample of pixels is drawn (all pairs of pixels of eight layouts would be
    terabytes [R18]); its features are projected, normalised and compared, anchors, positives and
    negatives coming from any layout of the group.

    Where a process has fewer layouts than make a group, ``across_ranks`` makes the groups of
    several processes: eight GPUs with one layout each compare the paper's eight. ``queue`` compares
    with layouts of the past instead: the loss is then the mean of the group's own and of that
    against the queue, and the sampled pixels, at most ``queue_update`` of each class, enter the
    queue (those of all processes, so that their queues stay equal).

    Args:
        features: F, float [B, C, H, W].
        labels: int64 [B, H, W], same grid.
        projection: maps features [P, C] to embeddings [P, D].
        ignore_index: label of void pixels, which are never drawn.
        temperature: tau.
        layouts: most layouts in one group.
        budget: most pixels drawn from one group; processes that share one draw equal parts.
        predictions: int64 [B, H, W]; with them half of each class is drawn where they are wrong.
        generator: random generator of the sampler, on the device of the labels.
        across_ranks: whether groups span processes. All processes must have batches of one size.
            Gradients go to the process's own embeddings and are scaled so that their average over
            the processes, as data-parallel training takes it, is that of the joined batch.
        queue: memory of past embeddings, of D channels.
        queue_update: most pixels of one class that enter the queue from each group.
        sample: draws the pixels; of the signature of ``sample_pixels``.

    Returns:
        Scalar, float32 or float64: mean over the groups; over the group of this process with
        ``across_ranks`` where groups span processes.
    """
    ranks = min(world()[1], max(1, layouts // len(labels))) if across_ranks else 1
    groups = -(-len(labels) // layouts)
    predicted = [None] * groups if predictions is None else predictions.chunk(groups)
    losses = []
    for part, target, guess in zip(
        features.chunk(groups), labels.chunk(groups), predicted, strict=True
    ):
        index = sample(
            target,
            budget // ranks,
            predictions=guess,
            generator=generator,
            ignore_index=ignore_index,
        )
        pixels = target[0].numel()
        # [b, C, HW] picked at (image, pixel) gives [K, C] without a channels-last copy of F.
        embeddings = projection(part.flatten(2)[index // pixels, :, index % pixels])
        classes = target.flatten()[index]

        def compare(z: Tensor, y: Tensor, past: tuple[Tensor, Tensor] | None = None) -> Tensor:
            contrast, contrast_labels = past or (None, None)
            return pixel_contrast(
                z,
                y,
                contrast=contrast,
                contrast_labels=contrast_labels,
                temperature=temperature,
                ignore_index=ignore_index,
            )

        if ranks > 1:
            loss = compare(*_joined(embeddings, classes, budget // ranks, ranks, ignore_index))
        else:
            loss = compare(embeddings, classes)
        if queue is not None:
            loss = (loss + compare(embeddings, classes, queue.contents(ignore_index))) / 2
            _remember(queue, embeddings, classes, queue_update, ignore_index, generator, sample)
        losses.append(loss)
    return torch.stack(losses).mean()


def _joined(
    embeddings: Tensor, labels: Tensor, size: int, ranks: int, ignore_index: int
) -> tuple[Tensor, Tensor]:
    """Embeddings and labels of the ``ranks`` processes whose group this one belongs to.

    Data-parallel training averages gradients over W processes. Each group's loss L_g has its
    gradient spread over its processes, so the average is sum_g dL_g / W, where the joined batch has
    sum_g dL_g / (number of groups): hence the factor.
    """
    z, y = _gathered(embeddings, labels, size, ignore_index)
    rank, count = world()
    groups = -(-count // ranks)
    own = slice(rank // ranks * ranks * size, (rank // ranks + 1) * ranks * size)
    return scale_gradient(z[own], count / groups), y[own]


def _gathered(
    embeddings: Tensor, labels: Tensor, size: int, ignore_index: int
) -> tuple[Tensor, Tensor]:
    """Rows of all processes, each filled up to ``size`` with ignored ones."""
    missing = size - len(labels)
    return (
        gather_rows(F.pad(embeddings, (0, 0, 0, missing))),
        gather_rows(F.pad(labels, (0, missing), value=ignore_index)),
    )


@torch.no_grad()
def _remember(
    queue: PixelQueue,
    embeddings: Tensor,
    labels: Tensor,
    update: int,
    ignore_index: int,
    generator: torch.Generator | None,
    sample: Callable[..., Tensor],
) -> None:
    """Lets at most ``update`` random embeddings of each class enter the queue."""
    size = update * queue.num_classes
    chosen = sample(
        labels[None], size, per_class=update, generator=generator, ignore_index=ignore_index
    )
    queue.enqueue(*_gathered(embeddings[chosen], labels[chosen], size, ignore_index))
