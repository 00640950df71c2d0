"""Triton kernels of `ecgan_kernels.edge_transfer`: one pass forward, one backward."""

# mypy: disable-error-code="no-untyped-def"
# Triton reads the annotations of its kernels: constexpr, or none.

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

_BLOCK = 1024  # elements of a program: 16 bytes of a half type for each of 128 threads
_INT32 = 2**31 - _BLOCK  # up to here an element's number fits 32 bits


@triton.jit
def _sigmoid(x):
    """sigmoid(x) and its slope; neither overflows nor cancels."""
    e = tl.exp(-tl.abs(x))
    r = 1.0 / (1.0 + e)
    return tl.where(x < 0.0, e * r, r), e * r * r


@triton.jit
def _tanh(x):
    """tanh(x): a Taylor polynomial where the exponential form would cancel."""
    square = x * x
    small = x + x * square * (
        -0.3333333333 + square * (0.1333333333 + square * (-0.0539682540 + square * 0.0218694885))
    )
    e = tl.exp(-2.0 * tl.abs(x))
    large = (1.0 - e) / (1.0 + e)
    return tl.where(square < 0.0625, small, tl.where(x < 0.0, -large, large))


@triton.jit
def _offset(index, sizes, strides, NDIM: tl.constexpr):
    """Offset of each element of ``index`` in a tensor of ``sizes`` and ``strides``."""
    offset = index
    if NDIM > 0:
        offset = tl.zeros_like(index).to(tl.int64)
        for d in tl.static_range(NDIM - 1):
            offset += (index % sizes[d]).to(tl.int64) * strides[d]
            index = index // sizes[d]
        offset += index.to(tl.int64) * strides[NDIM - 1]
    return offset


@triton.jit
def _elements(numel, BLOCK: tl.constexpr, WIDE: tl.constexpr):
    """Numbers of this program's elements, and which of them exist."""
    program = tl.program_id(0)
    if WIDE:
        program = program.to(tl.int64)
    index = program * BLOCK + tl.arange(0, BLOCK)
    return index, index < numel


@triton.jit
def forward_kernel(
    image,  # [*S]
    edge,  # [*S]
    out,  # [*S]
    numel,
    sizes,  # [NDIM], dimension 0 the fastest
    image_strides,  # [NDIM]
    edge_strides,  # [NDIM]
    out_strides,  # [NDIM]
    TANH: tl.constexpr,
    NDIM: tl.constexpr,  # 0: all three are dense and alike, and the tuples are empty
    WIDE: tl.constexpr,  # element numbers need 64 bits
    BLOCK: tl.constexpr,
):
    """Computes out = a(image) (1 + sigmoid(a(edge))), with a = tanh or the identity."""
    index, inside = _elements(numel, BLOCK, WIDE)
    image_at = _offset(index, sizes, image_strides, NDIM)
    edge_at = _offset(index, sizes, edge_strides, NDIM)
    out_at = _offset(index, sizes, out_strides, NDIM)
    x = tl.load(image + image_at, mask=inside).to(tl.float32)
    e = tl.load(edge + edge_at, mask=inside).to(tl.float32)
    if TANH:
        x = _tanh(x)
        e = _tanh(e)
    s, _ = _sigmoid(e)
    tl.store(out + out_at, (x * (1.0 + s)).to(out.dtype.element_ty), mask=inside)


@triton.jit
def backward_kernel(
    grad,  # [*S]
    image,  # [*S]
    edge,  # [*S]
    grad_image,  # [*S], or None: not wanted
    grad_edge,  # [*S], or None: not wanted
    numel,
    sizes,  # [NDIM], dimension 0 the fastest
    grad_strides,  # [NDIM]
    image_strides,  # [NDIM]
    edge_strides,  # [NDIM]
    grad_image_strides,  # [NDIM]
    grad_edge_strides,  # [NDIM]
    TANH: tl.constexpr,
    NEED_IMAGE: tl.constexpr,
    NEED_EDGE: tl.constexpr,
    NDIM: tl.constexpr,  # 0: all five are dense and alike, and the tuples are empty
    WIDE: tl.constexpr,  # element numbers need 64 bits
    BLOCK: tl.constexpr,
):
    """Computes the gradients of forward_kernel's inputs.

    grad_image = grad (1 + s) a'(image), grad_edge = grad a(image) s (1 - s) a'(edge), with
    s = sigmoid(a(edge)) and a' = 1 - tanh^2 or 1.
    """
    index, inside = _elements(numel, BLOCK, WIDE)
    grad_at = _offset(index, sizes, grad_strides, NDIM)
    image_at = _offset(index, sizes, image_strides, NDIM)
    edge_at = _offset(index, sizes, edge_strides, NDIM)
    grad_image_at = _offset(index, sizes, grad_image_strides, NDIM)
    grad_edge_at = _offset(index, sizes, grad_edge_strides, NDIM)
    g = tl.load(grad + grad_at, mask=inside).to(tl.float32)
    e = tl.load(edge + edge_at, mask=inside).to(tl.float32)
    if NEED_EDGE or TANH:
        x = tl.load(image + image_at, mask=inside).to(tl.float32)
        if TANH:
            x = _tanh(x)
    if TANH:
        e = _tanh(e)
    s, slope = _sigmoid(e)
    if NEED_IMAGE:
        dx = g * (1.0 + s)
        if TANH:
            dx *= 1.0 - x * x
        tl.store(grad_image + grad_image_at, dx.to(grad_image.dtype.element_ty), mask=inside)
    if NEED_EDGE:
        de = g * x * slope
        if TANH:
            de *= 1.0 - e * e
        tl.store(grad_edge + grad_edge_at, de.to(grad_edge.dtype.element_ty), mask=inside)


def forward(image: Tensor, edge: Tensor, activation: str) -> Tensor:
    """Computes ``a(image) * (1 + sigmoid(a(edge)))`` in float32, rounded once.

    Args:
        image: [*S] float32, float16 or bfloat16, any strides.
        edge: [*S] of the same dtype, any strides; 0 where it is expanded.
        activation: "tanh" for a = tanh, "none" for the identity.

    Returns:
        [*S] in ``image``'s dtype and memory format.
    """
    out = torch.empty_like(image)
    sizes, strides = _collapse([image, edge, out])
    forward_kernel[_grid(out)](
        image,
        edge,
        out,
        out.numel(),
        sizes,
        *strides,
        TANH=activation == "tanh",
        NDIM=len(sizes),
        WIDE=out.numel() > _INT32,
        BLOCK=_BLOCK,
    )
    return out


def backward(
    grad: Tensor, image: Tensor, edge: Tensor, activation: str, need_image: bool, need_edge: bool
) -> tuple[Tensor | None, Tensor | None]:
    """Computes the gradients of `forward`'s inputs from the gradient of its output.

    Args:
        grad: [*S] like ``image``, any strides; 0 where it is expanded.
        image: [*S] as in `forward`.
        edge: [*S] as in `forward`.
        activation: As in `forward`.
        need_image: Whether ``image``'s gradient is wanted.
        need_edge: Whether ``edge``'s gradient is wanted.

    Returns:
        The gradients of ``image`` and ``edge``, [*S] in their memory formats; None if not wanted.
    """
    grad_image = torch.empty_like(image) if need_image else None
    grad_edge = torch.empty_like(edge) if need_edge else None
    wanted = grad_image if grad_image is not None else grad_edge
    if wanted is None:
        return None, None
    sizes, strides = _collapse(
        [
            grad,
            image,
            edge,
            wanted if grad_image is None else grad_image,
            wanted if grad_edge is None else grad_edge,
        ]
    )
    backward_kernel[_grid(wanted)](
        grad,
        image,
        edge,
        grad_image,
        grad_edge,
        wanted.numel(),
        sizes,
        *strides,
        TANH=activation == "tanh",
        NEED_IMAGE=need_image,
        NEED_EDGE=need_edge,
        NDIM=len(sizes),
        WIDE=wanted.numel() > _INT32,
        BLOCK=_BLOCK,
    )
    return grad_image, grad_edge


def _grid(tensor: Tensor) -> tuple[int]:
    return (max(1, triton.cdiv(tensor.numel(), _BLOCK)),)  # of an empty tensor: one idle program


def _collapse(tensors: list[Tensor]) -> tuple[tuple[int, ...], list[tuple[int, ...]]]:
    """Merges dimensions that all tensors of one shape step through as one.

    Returns the sizes, fastest dimension of the last tensor first, and each tensor's strides; all
    empty where every tensor is one dense run in the same order.
    """
    dims = [d for d in range(tensors[0].dim()) if tensors[0].size(d) != 1]
    dims.sort(key=lambda d: (tensors[-1].stride(d), -d))
    sizes: list[int] = []
    strides: list[list[int]] = [[] for _ in tensors]
    for d in dims:
        steps = [tensor.stride(d) for tensor in tensors]
        if sizes and all(s[-1] * sizes[-1] == step for s, step in zip(strides, steps, strict=True)):
            sizes[-1] *= tensors[0].size(d)
            continue
        sizes.append(tensors[0].size(d))
        for s, step in zip(strides, steps, strict=True):
            s.append(step)
    if len(sizes) <= 1 and all(step == 1 for s in strides for step in s):
        return (), [() for _ in tensors]
    return tuple(sizes), [tuple(s) for s in strides]
