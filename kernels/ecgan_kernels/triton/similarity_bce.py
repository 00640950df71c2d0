"""Triton kernel of `ecgan_kernels.similarity_bce`: loss and gradient in one pass over all pairs."""

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

_SMALLEST = 1.1754944e-38  # normal float32, below which a logarithm's exponent field is of no use


@triton.jit
def _multiply(a, b):
    return a * b


@triton.jit
def _sum_log2(x, COLUMNS: tl.constexpr):
    """Sums log2 x_ij over j, x > 0 [R, COLUMNS]: exponents add, mantissas multiply, one log a row.

    COLUMNS mantissas below 2 do not overflow up to 127 of them. An infinity or NaN gives NaN.
    """
    bits = x.to(tl.int32, bitcast=True)
    exponents = tl.sum((bits >> 23) & 0xFF, axis=1) - 127 * COLUMNS
    mantissas = ((bits & 0x7FFFFF) | 0x3F800000).to(tl.float32, bitcast=True)
    value = exponents.to(tl.float32) + tl.log2(tl.reduce(mantissas, 1, _multiply))
    finite = tl.max(bits & 0x7FFFFFFF, axis=1) < 0x7F800000
    return tl.where(finite, value, float("nan"))


@triton.jit
def kernel(
    probs,  # [B, N, M] by strides
    labels,  # [B, M] int32, -1 where a pixel does not count
    partial,  # [B, row blocks] float64: sums of log2 x
    grad,  # [B, N, M] contiguous float32, before 2 / V^2; or None: not wanted
    pixels,
    classes,
    image_stride,
    class_stride,
    pixel_stride,
    eps,
    NEED_GRAD: tl.constexpr,
    PRODUCTS: tl.constexpr,
    WEIGHTS: tl.constexpr,
    BLOCK: tl.constexpr,
    WIDTH: tl.constexpr,
):
    """Computes the sum of log max(x_ij, eps) and grad_i = sum_j -+ s_j / max(x_ij, eps).

    x_ij = p_ij where labels agree (and minus), 1 - p_ij elsewhere (and plus).
    """
    block = tl.program_id(0)
    image = tl.program_id(1).to(tl.int64)
    probs += image * image_stride
    labels += image * pixels
    lane = tl.arange(0, BLOCK)
    i = block * BLOCK + lane
    mine = tl.load(labels + i, mask=i < pixels, other=-1)
    rows = vectors(probs, i, mine >= 0, pixel_stride, class_stride, classes, WIDTH)
    logs = tl.zeros([BLOCK], tl.float64)
    sums = tl.zeros([BLOCK, WIDTH], tl.float32)
    first = 0
    if not NEED_GRAD:
        first = block * BLOCK  # the blocks below the diagonal equal those above
    for start in range(first, pixels, BLOCK):
        j = start + lane
        other = tl.load(labels + j, mask=j < pixels, other=-1)
        columns = vectors(probs, j, other >= 0, pixel_stride, class_stride, classes, WIDTH)
        p = products(rows, columns, PRODUCTS)
        same = mine[:, None] == other[None, :]
        counts = (mine >= 0)[:, None] & (other >= 0)[None, :]
        x = tl.where(same, p, 1.0 - p)
        x = tl.where(x < eps, eps, x)  # keeps a NaN
        x = tl.where(counts, x, 1.0)
        log = _sum_log2(x, BLOCK).to(tl.float64)
        if NEED_GRAD:
            logs += log
            slope = 1.0 / x
            g = tl.where(counts, tl.where(same, -slope, slope), 0.0)
            sums = weighted_sum(sums, g, columns, WEIGHTS)
        else:
            logs += tl.where(start > first, 2.0, 1.0) * log
    tl.store(partial + image * tl.num_programs(0) + block, tl.sum(logs, axis=0))
    if NEED_GRAD:
        k = tl.arange(0, WIDTH)
        at = image * pixels * classes + k.to(tl.int64)[None, :] * pixels + i[:, None]
        inside = (i < pixels)[:, None] & (k < classes)[None, :]
        tl.store(grad + at, tl.where((mine >= 0)[:, None], sums, 0.0), mask=inside)


def forward(
    probs: Tensor, labels: Tensor, ignore_index: int, eps: float, precision: str, need_grad: bool
) -> tuple[Tensor, Tensor, Tensor]:
    """Computes each image's mean loss over its pixel pairs, and that loss's gradient.

    Args:
        probs: [B, N, *S] float32, float16 or bfloat16, any strides, N up to 512.
        labels: integer [B, *S]; what is not in [0, N), or ``ignore_index``, does not count.
        ignore_index: label of pixels without influence.
        eps: lower bound inside the logarithm.
        precision: "exact": float32 grade; "fast": one TF32 product.
        need_grad: whether the gradient is wanted.

    Returns:
        The loss [B] float32, the pixels that count [B] int64, and the gradient [B, N, *S] float32
        of each image's own loss, of size 0 where not wanted.
    """
    batch, classes = probs.shape[:2]
    s = probs.reshape(batch, classes, -1)
    pixels = s.shape[2]
    flat = labels.reshape(batch, pixels).long()
    counts = (flat != ignore_index) & (flat >= 0) & (flat < classes)
    flat = flat.where(counts, -1).int()
    valid = counts.sum(1)
    block, width = block_sizes(classes)
    blocks = triton.cdiv(pixels, block)
    partial = torch.zeros(batch, blocks, dtype=torch.float64, device=probs.device)
    grad = torch.empty(s.shape if need_grad else 0, dtype=torch.float32, device=probs.device)
    if partial.numel() > 0:
        kernel[(blocks, batch)](
            s,
            flat,
            partial,
            grad if need_grad else None,
            pixels,
            classes,
            *s.stride(),
            max(eps, _SMALLEST),
            NEED_GRAD=need_grad,
            **precisions(probs.dtype, precision == "exact"),
            BLOCK=block,
            WIDTH=width,
        )
    pairs = valid.double().clamp(min=1) ** 2
    loss = (partial.sum(1) * -0.6931471805599453 / pairs).float()
    if need_grad:
        grad = grad.mul_((2 / pairs).float()[:, None, None]).reshape(probs.shape)
    return loss, valid, grad
