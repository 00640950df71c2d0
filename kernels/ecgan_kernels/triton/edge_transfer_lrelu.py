"""Triton kernels of `ecgan_kernels.edge_transfer_lrelu`: one pass forward, one backward."""

# mypy: disable-error-code="no-untyped-def"
# Triton reads the annotations of its kernels: constexpr, or none.

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from ecgan_kernels.triton.edge_transfer import (
    _BLOCK,
    _INT32,
    _collapse,
    _elements,
    _grid,
    _offset,
)


@triton.jit
def _gate(x):
    """1 + sigmoid(x) and its logarithm's derivative; neither overflows nor cancels."""
    e = tl.exp(-tl.abs(x))
    denominator = 1.0 + e
    numerator = denominator + tl.where(x < 0.0, e, 1.0)
    r = 1.0 / (denominator * numerator)
    return numerator * numerator * r, e * r


@triton.jit
def _slope(y, negative_slope):
    """LeakyReLU's derivative by its result or input: ``negative_slope`` at 0 too."""
    return tl.where(y > 0.0, 1.0, negative_slope)


@triton.jit
def forward_kernel(
    image,  # [*S]
    edge,  # [*S]
    image_out,  # [*S]
    edge_out,  # [*S]
    negative_slope,
    numel,
    sizes,  # [NDIM], dimension 0 the fastest
    image_strides,  # [NDIM]
    edge_strides,  # [NDIM]
    image_out_strides,  # [NDIM]
    edge_out_strides,  # [NDIM]
    NDIM: tl.constexpr,  # 0: all four are dense and alike, and the tuples are empty
    WIDE: tl.constexpr,  # element numbers need 64 bits
    BLOCK: tl.constexpr,
):
    """Computes image_out = lrelu(image (1 + sigmoid(edge))) and edge_out = lrelu(edge)."""
    index, inside = _elements(numel, BLOCK, WIDE)
    image_at = _offset(index, sizes, image_strides, NDIM)
    edge_at = _offset(index, sizes, edge_strides, NDIM)
    image_out_at = _offset(index, sizes, image_out_strides, NDIM)
    edge_out_at = _offset(index, sizes, edge_out_strides, NDIM)
    x = tl.load(image + image_at, mask=inside).to(tl.float32)
    e = tl.load(edge + edge_at, mask=inside).to(tl.float32)
    gain, _ = _gate(e)
    y = x * gain
    y *= _slope(y, negative_slope)
    f = e * _slope(e, negative_slope)
    tl.store(image_out + image_out_at, y.to(image_out.dtype.element_ty), mask=inside)
    tl.store(edge_out + edge_out_at, f.to(edge_out.dtype.element_ty), mask=inside)


@triton.jit
def backward_kernel(
    grad_image_out,  # [*S], or None: zero
    grad_edge_out,  # [*S], or None: zero
    image_out,  # [*S]
    edge_out,  # [*S]
    grad_image,  # [*S], or None: not wanted
    grad_edge,  # [*S], or None: not wanted
    negative_slope,
    inverse_slope,
    numel,
    sizes,  # [NDIM], dimension 0 the fastest
    grad_image_out_strides,  # [NDIM]
    grad_edge_out_strides,  # [NDIM]
    image_out_strides,  # [NDIM]
    edge_out_strides,  # [NDIM]
    grad_image_strides,  # [NDIM]
    grad_edge_strides,  # [NDIM]
    FROM_IMAGE: tl.constexpr,  # grad_image_out is there
    FROM_EDGE: tl.constexpr,  # grad_edge_out is there
    NEED_IMAGE: tl.constexpr,
    NEED_EDGE: tl.constexpr,
    NDIM: tl.constexpr,  # 0: all six are dense and alike, and the tuples are empty
    WIDE: tl.constexpr,  # element numbers need 64 bits
    BLOCK: tl.constexpr,
):
    """Computes the gradients of forward_kernel's inputs from its results.

    grad_image = gx l(image_out) (1 + s), grad_edge = gx image_out s (1 - s) / (1 + s)
    + ge l(edge_out), with l(y) = 1 where y > 0 and else the slope, s = sigmoid(edge_out /
    l(edge_out)); gx, ge: the incoming gradients.
    """
    index, inside = _elements(numel, BLOCK, WIDE)
    f = tl.load(edge_out + _offset(index, sizes, edge_out_strides, NDIM), mask=inside)
    f = f.to(tl.float32)
    if FROM_IMAGE:
        grad_image_out_at = _offset(index, sizes, grad_image_out_strides, NDIM)
        image_out_at = _offset(index, sizes, image_out_strides, NDIM)
        gx = tl.load(grad_image_out + grad_image_out_at, mask=inside).to(tl.float32)
        y = tl.load(image_out + image_out_at, mask=inside).to(tl.float32)
        gain, rate = _gate(f * _slope(f, inverse_slope))
        if NEED_IMAGE:
            dx = gx * _slope(y, negative_slope) * gain
            grad_image_at = _offset(index, sizes, grad_image_strides, NDIM)
            tl.store(grad_image + grad_image_at, dx.to(grad_image.dtype.element_ty), mask=inside)
    if NEED_EDGE:
        de = tl.zeros_like(f)
        if FROM_IMAGE:
            de = gx * y * rate
        if FROM_EDGE:
            grad_edge_out_at = _offset(index, sizes, grad_edge_out_strides, NDIM)
            ge = tl.load(grad_edge_out + grad_edge_out_at, mask=inside).to(tl.float32)
            de += ge * _slope(f, negative_slope)
        grad_edge_at = _offset(index, sizes, grad_edge_strides, NDIM)
        tl.store(grad_edge + grad_edge_at, de.to(grad_edge.dtype.element_ty), mask=inside)


def forward(image: Tensor, edge: Tensor, negative_slope: float) -> tuple[Tensor, Tensor]:
    """Computes both results in float32, rounded once.

    Args:
        image: [*S] float32, float16 or bfloat16, any strides.
        edge: [*S] of the same dtype, any strides; 0 where it is expanded.
        negative_slope: In (0, 1].

    Returns:
        ``lrelu(image * (1 + sigmoid(edge)))`` and ``lrelu(edge)``, [*S] each in the inputs' dtype
        and the memory formats of ``image`` and ``edge``.
    """
    image_out, edge_out = torch.empty_like(image), torch.empty_like(edge)
    sizes, strides = _collapse([image, edge, image_out, edge_out])
    forward_kernel[_grid(image_out)](
        image,
        edge,
        image_out,
        edge_out,
        negative_slope,
        image_out.numel(),
        sizes,
        *strides,
        NDIM=len(sizes),
        WIDE=image_out.numel() > _INT32,
        BLOCK=_BLOCK,
    )
    return image_out, edge_out


def backward(
    grad_image_out: Tensor | None,
    grad_edge_out: Tensor | None,
    image_out: Tensor,
    edge_out: Tensor,
    negative_slope: float,
    need_image: bool,
    need_edge: bool,
) -> tuple[Tensor | None, Tensor | None]:
    """Computes the gradients of `forward`'s inputs from its results and their gradients.

    Args:
        grad_image_out: [*S] like ``image_out``, any strides; 0 where it is expanded. None: zero.
        grad_edge_out: [*S] like ``edge_out``, as ``grad_image_out``.
        image_out: [*S] from `forward`.
        edge_out: [*S] from `forward`.
        negative_slope: As in `forward`.
        need_image: Whether ``image``'s gradient is wanted.
        need_edge: Whether ``edge``'s gradient is wanted.

    Returns:
        The gradients of ``image`` and ``edge``, [*S] in the results' memory formats; None if not
        wanted.
    """
    grad_image = torch.empty_like(image_out) if need_image else None
    grad_edge = torch.empty_like(edge_out) if need_edge else None
    wanted = grad_image if grad_image is not None else grad_edge
    if wanted is None:
        return None, None
    # What is not there or not wanted stands in the layout with another's strides.
    sizes, strides = _collapse(
        [
            image_out if grad_image_out is None else grad_image_out,
            edge_out if grad_edge_out is None else grad_edge_out,
            image_out,
            edge_out,
            wanted if grad_image is None else grad_image,
            wanted if grad_edge is None else grad_edge,
        ]
    )
    backward_kernel[_grid(wanted)](
        grad_image_out,
        grad_edge_out,
        image_out,
        edge_out,
        grad_image,
        grad_edge,
        negative_slope,
        1 / max(negative_slope, 1e-38),  # finite in float32: 0 times infinity would be NaN
        wanted.numel(),
        sizes,
        *strides,
        FROM_IMAGE=grad_image_out is not None,
        FROM_EDGE=grad_edge_out is not None,
        NEED_IMAGE=need_image,
        NEED_EDGE=need_edge,
        NDIM=len(sizes),
        WIDE=wanted.numel() > _INT32,
        BLOCK=_BLOCK,
    )
    return grad_image, grad_edge
