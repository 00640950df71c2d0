"""Class-balanced sampling of pixels for the contrastive loss."""

from __future__ import annotations

import torch
from torch import Tensor

from ecgan_kernels._checks import check_device, check_int, check_labels, check_shape
from ecgan_kernels.reference.sample_pixels import sample_pixels as _reference


def sample_pixels(
    labels: Tensor,
    budget: int,
    *,
    per_class: int | None = None,
    predictions: Tensor | None = None,
    generator: torch.Generator | None = None,
    ignore_index: int = 255,
) -> Tensor:
    """Draws pixels of a batch, without replacement, balanced over the classes present in it.

    Every class gets an equal share of the budget; what small classes leave is shared equally by
    the others, so that the shares of any two classes differ by one at most unless the smaller
    class is used up. Within a class the draw is uniform. With ``predictions``, half of each class's
    share, rounded up, goes to wrongly predicted pixels where there are enough; both halves are
    uniform. Pixels of all images count alike: positives and negatives of the contrastive loss
    (ECGAN, Section 3.3) need not share a layout. Not differentiable; the number of indices depends
    on the labels, so torch.compile breaks the graph here.

    Args:
        labels: uint8, int16, int32 or int64 [B, *S]. Any value but ``ignore_index`` is a class.
        budget: most pixels to draw, at least 0.
        per_class: most pixels to draw of one class, at least 1; None: no such limit.
        predictions: predicted labels, integer [B, *S].
        generator: source of randomness, on the CPU or on the device of ``labels``; None: torch's
            default generator of that device. The same state gives the same sample.
        ignore_index: label of the pixels that are never drawn.

    Returns:
        int64 [K] on the device of ``labels``: distinct ascending indices into ``labels.flatten()``,
        K = ``budget`` or all there are. On CUDA the host waits once, to read K.

    Raises:
        TypeError: an argument is no tensor, int or generator where one is expected, or has an
            unsupported dtype.
        ValueError: a shape, a device or a value does not fit.
    """
    check_labels("labels", labels)
    if labels.dim() < 1:
        raise ValueError("labels must have shape [B, *S], not ()")
    check_int("budget", budget, minimum=0)
    if per_class is not None:
        check_int("per_class", per_class, minimum=1)
    if predictions is not None:
        check_labels("predictions", predictions)
        check_shape("predictions", predictions, labels.shape, "that of labels")
        check_device("predictions", predictions, "labels", labels)
    if generator is not None:
        if not isinstance(generator, torch.Generator):
            found = type(generator).__name__
            raise TypeError(f"generator must be a torch.Generator or None, not {found}")
        if generator.device.type not in ("cpu", labels.device.type):
            raise ValueError(
                f"generator must be on the CPU or on {labels.device} as labels are, "
                f"not on {generator.device}"
            )
    check_int("ignore_index", ignore_index)
    return _reference(
        labels,
        budget,
        per_class=per_class,
        predictions=predictions,
        generator=generator,
        ignore_index=ignore_index,
    )
