"""Class-balanced sampling of pixels in plain PyTorch: the specification of sample_pixels."""

from __future__ import annotations

import torch
from torch import Tensor


def sample_pixels(
    labels: Tensor,
    budget: int,
    *,
    per_class: int | None = None,
    predictions: Tensor | None = None,
    generator: torch.Generator | None = None,
    ignore_index: int = 255,
) -> Tensor:
    """Draws up to ``budget`` pixels of a batch, in equal shares for the classes present.

    The classes are dealt pixels in rounds, one pixel to each class that has one left; a round that
    the budget cannot complete goes to classes drawn at random. That is an equal share for all, with
    what small classes leave shared equally by the others. Within a class pixels come in random
    order; with ``predictions`` wrong and right ones take turns as long as there are both.

    Everything is ranks and sorts over all pixels, of sizes that do not depend on the labels; only
    the last line does.

    Args:
        labels: integer [B, *S].
        budget: most pixels to draw.
        per_class: most pixels to draw of one class; None: no such limit.
        predictions: integer [B, *S], predicted labels.
        generator: source of randomness; None: torch's default of the labels' device.
        ignore_index: label of the pixels that are never drawn.

    Returns:
        int64 [K], K <= budget: indices into ``labels.flatten()``, ascending.
    """
    flat = labels.reshape(-1).long()
    device = flat.device
    source = device if generator is None else generator.device
    # Random order without ties, in which every ranking below finds the pixels.
    shuffle = torch.randperm(flat.numel(), generator=generator, device=source).to(device)
    shuffled = flat[shuffle]
    valid = shuffled != ignore_index
    turn = None
    if predictions is not None:
        right = (predictions.reshape(-1).long()[shuffle] == shuffled).long()
        rank, _ = _rank_within(2 * shuffled + right)
        turn = 2 * rank + right
    round_, class_id = _rank_within(shuffled, turn)
    draw = torch.randperm(flat.numel(), generator=generator, device=source).to(device)[class_id]
    if per_class is not None:
        valid = valid & (round_ < per_class)
    last = torch.iinfo(torch.int64).max
    key = torch.where(valid, round_ * flat.numel() + draw, last)
    first = key.topk(min(budget, flat.numel()), largest=False).indices
    return shuffle[first[valid[first]]].sort().values


def _rank_within(groups: Tensor, priority: Tensor | None = None) -> tuple[Tensor, Tensor]:
    """Ranks each element among those of its group by priority, then by position.

    Returns:
        Ranks from 0, and a number of the group, below the number of elements; both int64 [n].
    """
    if priority is None:
        order = groups.argsort(stable=True)
    else:
        order = priority.argsort(stable=True)
        order = order[groups[order].argsort(stable=True)]
    sorted_groups = groups[order]
    starts = sorted_groups != sorted_groups.roll(1)
    starts[:1] = True
    position = torch.arange(groups.numel(), device=groups.device)
    start = torch.where(starts, position, 0).cummax(0).values
    rank, group = torch.empty_like(groups), torch.empty_like(groups)
    rank[order], group[order] = position - start, start
    return rank, group
