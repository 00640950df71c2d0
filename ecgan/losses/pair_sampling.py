"""The similarity loss estimated from a sample of the pairs of pixels, without bias."""

from __future__ import annotations

import torch
from torch import Tensor

from ecgan.losses.precision import full


def sampled_similarity(
    probs: Tensor,
    labels: Tensor,
    pairs: int,
    *,
    ignore_index: int,
    eps: float = 1e-6,
    generator: torch.Generator | None = None,
) -> Tensor:
    r"""Unbiased estimate of ``similarity_bce(probs, labels)`` and of its gradient.

    All pairs of V valid pixels fall into n_same pairs of one class and n_diff of two. From either
    kind half of the sample is drawn. What is known of all pairs is taken out first, so that only
    the remainder is sampled: with m_c the sum of the probabilities of class c (V_c pixels) and
    :math:`\bar p_c = \|m_c\|^2 / V_c^2`, the mean of p over the pairs inside c, as a constant,

    .. math::
        -V^2 L = \sum_{same} \big[ \log \bar p_c + p / \bar p_c - 1 \big] - \sum_{diff} p
          + \sum_{same} \big[ \log p - \log \bar p_c - p / \bar p_c + 1 \big]
          + \sum_{diff} \big[ \log(1 - p) + p \big]

    where the first two sums follow from :math:`\sum_{same} p = \sum_c \|m_c\|^2` and
    :math:`\sum_{diff} p = \|\sum_c m_c\|^2 - \sum_c \|m_c\|^2`. The last two are
    sampled; they are of second order in p and vanish for an undecided segmenter, whose pairs are
    all alike.
    Costs O(B N (M + pairs)) time and memory. As in `similarity_bce` the gradient of
    log max(x, eps) is 1 / max(x, eps), and x = 0 has one.

    Args:
        probs: class probabilities, float [B, N, *S].
        labels: int64 [B, *S] in [0, N) or ``ignore_index``.
        pairs: pairs drawn from each image, at least 2.
        ignore_index: label of pixels that take part in no pair.
        eps: lower bound inside the logarithm.
        generator: random generator on the device of the labels.

    Returns:
        Scalar, float32 (float64 for float64): mean over the images that have a valid pixel.
    """
    batch, width = probs.shape[:2]
    s = full(probs).flatten(2).transpose(1, 2)  # [B, M, N]
    y = labels.flatten(1)
    y = torch.where(y == ignore_index, width, y)
    y, order = y.sort(dim=1, stable=True)  # class after class, void last
    sizes = torch.zeros(batch, width + 1, dtype=torch.int64, device=y.device)
    sizes = sizes.scatter_add_(1, y, torch.ones_like(y))[:, :width]  # V_c, [B, N]
    valid = sizes.sum(1, keepdim=True)  # V, [B, 1]

    sums = s.new_zeros(batch, width + 1, width)
    source = labels.flatten(1)
    source = torch.where(source == ignore_index, width, source)
    sums = sums.scatter_add(1, source[:, :, None].expand_as(s), s)[:, :width]  # m_c, [B, N, N]
    squares = sums.square().sum(2)
    inside = squares / sizes.square().clamp(min=1)  # mean p of the pairs inside c, [B, N]
    between = sums.sum(1).square().sum(1) - squares.sum(1)
    mean = inside.detach().clamp(min=eps)
    known = (sizes.square() * (mean.log() + inside / mean - 1)).sum(1) - between

    def remainder(weights: Tensor, same: bool) -> Tensor:
        """Estimated sum of a bracket over the pairs that ``weights`` [B, N] counts by class."""
        count = pairs // 2
        first, second, chosen = _draw(sizes, weights, count, same, generator)
        rows = [order.gather(1, at)[:, :, None].expand(-1, -1, width) for at in (first, second)]
        p = (s.gather(1, rows[0]) * s.gather(1, rows[1])).sum(2)  # [B, count]
        if same:
            centre = mean.gather(1, chosen)
            values = _log(p, eps) - centre.log() - p / centre + 1
        else:
            values = _log(1 - p, eps) + p
        # A kind without pairs has no weight, but its values may be anything.
        total = weights.sum(1)
        return torch.where(total > 0, total * values.mean(1), 0)

    same = remainder(sizes.square(), same=True)
    different = remainder(sizes * (valid - sizes), same=False)
    loss = -(known + same + different) / valid[:, 0].square().clamp(min=1)
    return loss.sum() / (valid > 0).sum().clamp(min=1)


def _draw(
    sizes: Tensor, weights: Tensor, count: int, same: bool, generator: torch.Generator | None
) -> tuple[Tensor, Tensor, Tensor]:
    """Draws pairs of positions among pixels sorted by class.

    Args:
        sizes: int64 [B, N], pixels of each class.
        weights: int64 [B, N], pairs that begin in each class.
        count: pairs to draw from each image.
        same: whether the second pixel is of the first one's class, else of any other.
        generator: random generator.

    Returns:
        Positions of both pixels and the class of the first, int64 [B, count] each.
    """

    def below(limit: Tensor) -> Tensor:
        u = torch.rand(limit.shape, dtype=torch.float64, device=limit.device, generator=generator)
        return (u * limit).long()

    starts = sizes.cumsum(1) - sizes
    cumulative = weights.cumsum(1)
    ticket = below(cumulative[:, -1:].expand(-1, count))
    chosen = torch.searchsorted(cumulative, ticket, right=True).clamp(max=sizes.shape[1] - 1)
    size, start = sizes.gather(1, chosen), starts.gather(1, chosen)
    first = start + below(size)
    if same:
        return first, start + below(size), chosen
    rest = sizes.sum(1, keepdim=True) - size
    second = below(rest)
    second = second + torch.where(second >= start, size, 0)
    last = sizes.sum(1, keepdim=True).clamp(min=1) - 1
    return torch.minimum(first, last), torch.minimum(second, last), chosen


def _log(x: Tensor, eps: float) -> Tensor:
    """Logarithm of max(x, eps), whose gradient is 1 / max(x, eps) below eps too."""
    bounded = x.detach().clamp(min=eps)
    return bounded.log() + (x - x.detach()) / bounded
