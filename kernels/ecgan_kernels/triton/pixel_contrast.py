"""Triton kernels of `ecgan_kernels.pixel_contrast`: two passes forward and one backward.

Each forms the products <z_i, c_j> anew; what is kept between them is a few numbers an anchor.
"""

# mypy: disable-error-code="no-untyped-def"
# Triton reads the annotations of its kernels: constexpr, or none.

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from ecgan_kernels.triton.pairwise import (
    block_sizes,
    precisions,
    products,
    vectors,
    weighted_sum,
)


@triton.jit
def _masks(mine, other, i, j, none, SAME_SET: tl.constexpr):
    """Which pairs are positives and which negatives, [R, C] each."""
    counts = (mine != none)[:, None] & (other != none)[None, :]
    same = mine[:, None] == other[None, :]
    positive = same & counts
    if SAME_SET:
        positive = positive & (i[:, None] != j[None, :])
    return positive, counts & ~same


@triton.jit
def _pull(d):
    """Computes sigmoid(d); neither overflows nor cancels."""
    e = tl.exp(-tl.abs(d))
    return tl.where(d < 0.0, e, 1.0) / (1.0 + e)


@triton.jit
def negatives_kernel(
    anchors,  # [P, D] by strides
    labels,  # [P] int64
    contrast,  # [Q, D] by strides
    contrast_labels,  # [Q] int64
    negatives,  # [P] float32: log sum_n exp s_in
    count,
    contrast_count,
    dim,
    row_stride,
    column_stride,
    contrast_row_stride,
    contrast_column_stride,
    inverse_temperature,
    none,
    PRODUCTS: tl.constexpr,
    BLOCK: tl.constexpr,
    WIDTH: tl.constexpr,
):
    """Streams the log-sum-exp of each anchor's logits with its negatives; -inf without any."""
    lane = tl.arange(0, BLOCK)
    i = tl.program_id(0) * BLOCK + lane
    mine = tl.load(labels + i, mask=i < count, other=none)
    rows = vectors(anchors, i, mine != none, row_stride, column_stride, dim, WIDTH)
    largest = tl.full([BLOCK], float("-inf"), tl.float32)
    total = tl.zeros([BLOCK], tl.float32)
    for start in range(0, contrast_count, BLOCK):
        j = start + lane
        other = tl.load(contrast_labels + j, mask=j < contrast_count, other=none)
        columns = vectors(
            contrast, j, other != none, contrast_row_stride, contrast_column_stride, dim, WIDTH
        )
        _, negative = _masks(mine, other, i, j, none, False)
        s = products(rows, columns, PRODUCTS) * inverse_temperature
        s = tl.where(negative, s, float("-inf"))
        new = tl.maximum(largest, tl.max(s, axis=1))
        base = tl.where(new == float("-inf"), 0.0, new)
        total = total * tl.exp(largest - base) + tl.sum(tl.exp(s - base[:, None]), axis=1)
        largest = new
    base = tl.where(largest == float("-inf"), 0.0, largest)
    tl.store(negatives + i, base + tl.log(total), mask=i < count)


@triton.jit
def positives_kernel(
    anchors,  # [P, D] by strides
    labels,  # [P] int64
    contrast,  # [Q, D] by strides
    contrast_labels,  # [Q] int64
    negatives,  # [P] float32
    loss,  # [P] float32: mean over positives of softplus(negatives - s_ip)
    positives,  # [P] int64: how many
    pull,  # [P] float32: mean over positives of sigmoid(negatives - s_ip)
    count,
    contrast_count,
    dim,
    row_stride,
    column_stride,
    contrast_row_stride,
    contrast_column_stride,
    inverse_temperature,
    none,
    SAME_SET: tl.constexpr,
    PRODUCTS: tl.constexpr,
    BLOCK: tl.constexpr,
    WIDTH: tl.constexpr,
):
    """Sums up each anchor's positives; 0 without any."""
    lane = tl.arange(0, BLOCK)
    i = tl.program_id(0) * BLOCK + lane
    mine = tl.load(labels + i, mask=i < count, other=none)
    level = tl.load(negatives + i, mask=i < count, other=0.0)
    rows = vectors(anchors, i, mine != none, row_stride, column_stride, dim, WIDTH)
    loss_sum = tl.zeros([BLOCK], tl.float64)
    pull_sum = tl.zeros([BLOCK], tl.float64)
    number = tl.zeros([BLOCK], tl.int32)
    for start in range(0, contrast_count, BLOCK):
        j = start + lane
        other = tl.load(contrast_labels + j, mask=j < contrast_count, other=none)
        columns = vectors(
            contrast, j, other != none, contrast_row_stride, contrast_column_stride, dim, WIDTH
        )
        positive, _ = _masks(mine, other, i, j, none, SAME_SET)
        d = level[:, None] - products(rows, columns, PRODUCTS) * inverse_temperature
        q = _pull(d)
        # softplus(d) = max(d, 0) - log sigmoid(|d|); a series where 1 + e^-|d| has no digit of e
        e = tl.exp(-tl.abs(d))
        small = e * (1.0 - e * (0.5 - e * 0.3333333333))
        softplus = tl.maximum(d, 0.0) + tl.where(e < 0.004, small, tl.log(1.0 + e))
        loss_sum += tl.sum(tl.where(positive, softplus, 0.0), axis=1).to(tl.float64)
        pull_sum += tl.sum(tl.where(positive, q, 0.0), axis=1).to(tl.float64)
        number += tl.sum(positive.to(tl.int32), axis=1)
    some = tl.maximum(number, 1).to(tl.float64)
    tl.store(loss + i, (loss_sum / some).to(tl.float32), mask=i < count)
    tl.store(pull + i, (pull_sum / some).to(tl.float32), mask=i < count)
    tl.store(positives + i, number.to(tl.int64), mask=i < count)


@triton.jit
def gradient_kernel(
    x,  # [P, D] by strides: the set whose gradient is wanted
    labels,  # [P] int64
    others,  # [Q, D] by strides: the other set
    other_labels,  # [Q] int64
    statistics,  # [3, anchors] float32: negatives_a, grad_a / |P_a|, grad_a pull_a
    grad,  # [P, D] contiguous float32
    count,
    other_count,
    dim,
    row_stride,
    column_stride,
    other_row_stride,
    other_column_stride,
    inverse_temperature,
    none,
    ROWS_ARE_ANCHORS: tl.constexpr,
    COLUMNS_ARE_ANCHORS: tl.constexpr,  # both: same_set, x and others are one
    PRODUCTS: tl.constexpr,
    WEIGHTS: tl.constexpr,
    BLOCK: tl.constexpr,
    WIDTH: tl.constexpr,
):
    """Computes grad_i = (1 / temperature) sum_j g_ij y_j, g a sum over the anchors a of the pair.

    Each adds -(grad_a / |P_a|) sigmoid(negatives_a - s_ij) to a positive's g, and
    grad_a pull_a e^(s_ij - negatives_a) to a negative's.
    """
    lane = tl.arange(0, BLOCK)
    i = tl.program_id(0) * BLOCK + lane
    mine = tl.load(labels + i, mask=i < count, other=none)
    rows = vectors(x, i, mine != none, row_stride, column_stride, dim, WIDTH)
    if ROWS_ARE_ANCHORS:
        level = tl.load(statistics + i, mask=i < count, other=float("inf"))
        attract = tl.load(statistics + count + i, mask=i < count, other=0.0)
        repel = tl.load(statistics + 2 * count + i, mask=i < count, other=0.0)
    sums = tl.zeros([BLOCK, WIDTH], tl.float32)
    for start in range(0, other_count, BLOCK):
        j = start + lane
        inside = j < other_count
        other = tl.load(other_labels + j, mask=inside, other=none)
        columns = vectors(
            others, j, other != none, other_row_stride, other_column_stride, dim, WIDTH
        )
        both: tl.constexpr = ROWS_ARE_ANCHORS and COLUMNS_ARE_ANCHORS
        positive, negative = _masks(mine, other, i, j, none, both)
        s = products(rows, columns, PRODUCTS) * inverse_temperature
        g = tl.zeros([BLOCK, BLOCK], tl.float32)
        if ROWS_ARE_ANCHORS:
            d = level[:, None] - s
            g += tl.where(positive, -attract[:, None] * _pull(d), 0.0)
            g += tl.where(negative, repel[:, None] * tl.exp(tl.where(negative, -d, 0.0)), 0.0)
        if COLUMNS_ARE_ANCHORS:
            other_level = tl.load(statistics + j, mask=inside, other=float("inf"))
            other_attract = tl.load(statistics + other_count + j, mask=inside, other=0.0)
            other_repel = tl.load(statistics + 2 * other_count + j, mask=inside, other=0.0)
            d = other_level[None, :] - s
            g += tl.where(positive, -other_attract[None, :] * _pull(d), 0.0)
            g += tl.where(negative, other_repel[None, :] * tl.exp(tl.where(negative, -d, 0.0)), 0.0)
        sums = weighted_sum(sums, g, columns, WEIGHTS)
    k = tl.arange(0, WIDTH)
    at = i.to(tl.int64)[:, None] * dim + k[None, :]
    inside = (i < count)[:, None] & (k < dim)[None, :]
    sums = tl.where((mine != none)[:, None], sums * inverse_temperature, 0.0)
    tl.store(grad + at, sums, mask=inside)


def forward(
    embeddings: Tensor,
    labels: Tensor,
    contrast: Tensor,
    contrast_labels: Tensor,
    same_set: bool,
    temperature: float,
    ignore_index: int,
    need_grad: bool,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Computes each anchor's loss, and what `backward` needs of it.

    Args:
        embeddings: anchors [P, D] float32, float16 or bfloat16, any strides, D up to 512; taken as
            they are, not normalised.
        labels: integer [P].
        contrast: [Q, D]; looked at unless ``same_set``.
        contrast_labels: integer [Q], likewise.
        same_set: whether the anchors are the contrast set, self pairs left out.
        temperature: what products are divided by.
        ignore_index: label of what does not count.
        need_grad: whether the last result is wanted; else it has size 0.

    Returns:
        [P] each: the loss float32 (0 without positives), the number of positives int64, log sum_n
        exp s_in over the negatives float32, and the mean over positives of sigmoid(that - s_ip).
    """
    x, y, columns, column_labels = _sets(embeddings, labels, contrast, contrast_labels, same_set)
    count = len(x)
    negatives, loss, pull = (x.new_empty(count, dtype=torch.float32) for _ in range(3))
    positives = y.new_empty(count)
    if count > 0:
        block, width = block_sizes(x.shape[1])
        wide = {
            "PRODUCTS": precisions(x.dtype, True)["PRODUCTS"],
            "BLOCK": block,
            "WIDTH": width,
        }
        sets = (x, y, columns, column_labels)
        sizes = (count, len(columns), x.shape[1], *x.stride(), *columns.stride())
        grid = (triton.cdiv(count, block),)
        negatives_kernel[grid](*sets, negatives, *sizes, 1 / temperature, ignore_index, **wide)
        positives_kernel[grid](
            *sets,
            negatives,
            loss,
            positives,
            pull,
            *sizes,
            1 / temperature,
            ignore_index,
            SAME_SET=same_set,
            **wide,
        )
    return loss, positives, negatives, pull if need_grad else pull.new_empty(0)


def backward(
    grad: Tensor,
    embeddings: Tensor,
    labels: Tensor,
    contrast: Tensor,
    contrast_labels: Tensor,
    same_set: bool,
    temperature: float,
    ignore_index: int,
    positives: Tensor,
    negatives: Tensor,
    pull: Tensor,
    need_embeddings: bool,
    need_contrast: bool,
) -> tuple[Tensor | None, Tensor | None]:
    """Computes the gradients of `forward`'s embeddings from that of its losses.

    Args:
        grad: [P] float32, any strides.
        embeddings: As in `forward`, and so on.
        labels: integer [P].
        contrast: [Q, D].
        contrast_labels: integer [Q].
        same_set: Both roles' gradients come in the first result.
        temperature: what products are divided by.
        ignore_index: label of what does not count.
        positives: What `forward` returned, and the next two.
        negatives: [P].
        pull: [P].
        need_embeddings: Whether the gradient of ``embeddings`` is wanted.
        need_contrast: Whether that of ``contrast`` is.

    Returns:
        float32 [P, D] and [Q, D]; None where not wanted.
    """
    x, y, columns, column_labels = _sets(embeddings, labels, contrast, contrast_labels, same_set)
    some = positives > 0
    statistics = torch.stack(
        [
            negatives.where(some, torch.inf),
            (grad / positives.clamp(min=1)).where(some, 0),
            (grad * pull).where(some, 0),
        ]
    )
    shared = (statistics, 1 / temperature, ignore_index)
    grad_embeddings = grad_contrast = None
    if need_embeddings:
        grad_embeddings = _gradient((x, y), (columns, column_labels), *shared, True, same_set)
    if need_contrast and not same_set:
        grad_contrast = _gradient((columns, column_labels), (x, y), *shared, False, True)
    return grad_embeddings, grad_contrast


def _sets(
    embeddings: Tensor, labels: Tensor, contrast: Tensor, contrast_labels: Tensor, same_set: bool
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    y = labels.long().contiguous()
    if same_set:
        return embeddings, y, embeddings, y
    dtype = torch.promote_types(embeddings.dtype, contrast.dtype)
    return embeddings.to(dtype), y, contrast.to(dtype), contrast_labels.long().contiguous()


def _gradient(
    rows: tuple[Tensor, Tensor],
    columns: tuple[Tensor, Tensor],
    statistics: Tensor,
    inverse_temperature: float,
    ignore_index: int,
    rows_are_anchors: bool,
    columns_are_anchors: bool,
) -> Tensor:
    (x, _), (others, _) = rows, columns
    grad = torch.empty(x.shape, dtype=torch.float32, device=x.device)
    if grad.numel() > 0:
        block, width = block_sizes(x.shape[1])
        gradient_kernel[(triton.cdiv(len(x), block),)](
            *rows,
            *columns,
            statistics,
            grad,
            len(x),
            len(others),
            x.shape[1],
            *x.stride(),
            *others.stride(),
            inverse_temperature,
            ignore_index,
            ROWS_ARE_ANCHORS=rows_are_anchors,
            COLUMNS_ARE_ANCHORS=columns_are_anchors,
            **precisions(x.dtype, True),
            BLOCK=block,
            WIDTH=width,
        )
    return grad
