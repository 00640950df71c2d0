"""Triton kernels of `ecgan_kernels.class_conv2d`: one product a tap over a block of pixels.

Products run on tensor cores: three TF32 products of float32 numbers ("tf32x3", float32 grade), one
of half types, whose own digits TF32 holds. No sum is atomic.
"""

# mypy: disable-error-code="no-untyped-def"
# Triton reads the annotations of its kernels: constexpr, or none.

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

_PIXELS = 128  # of a program
_PARTS = 64  # of the sum over pixels in the weights' gradient, each as large as the weights


@triton.jit
def _neighbours(labels, p, pixels, height, width, dy, dx):
    """Image, row and column of the pixels p + (dy, dx), and which of them count at p."""
    column = p % width
    row = p // width % height
    image = p // width // height
    y = row + dy
    x = column + dx
    inside = (p < pixels) & (y >= 0) & (y < height) & (x >= 0) & (x < width)
    own = tl.load(labels + p, mask=p < pixels, other=0)
    other = tl.load(labels + p + dy * width + dx, mask=inside, other=0)
    return image, y, x, inside & (own == other)


@triton.jit
def _gather(
    data, image, y, x, counts, channel, channels, s_image, s_channel, s_row, s_column, slope
):
    """Activated values [pixels, channels] in float32, 0 where they do not count."""
    at = image * s_image + y * s_row + x * s_column
    at = at[:, None] + (channel.to(tl.int64) * s_channel)[None, :]
    value = tl.load(data + at, mask=counts[:, None] & (channel < channels)[None, :], other=0.0)
    value = value.to(tl.float32)
    return tl.where(value > 0, value, value * slope)


@triton.jit
def product_kernel(
    x,  # [B, C, H, W] by strides
    labels,  # [B, H, W] int64
    weight,  # [9, C, O] float32
    bias,  # [O] float32, or None
    gate,  # [B, O, H, W] by strides, or None
    y,  # [B, O, H, W] contiguous
    pixels,
    height,
    width,
    channels,
    outputs,
    x_image,
    x_channel,
    x_row,
    x_column,
    gate_image,
    gate_channel,
    gate_row,
    gate_column,
    slope,
    gate_slope,
    HAS_BIAS: tl.constexpr,
    HAS_GATE: tl.constexpr,
    PRECISION: tl.constexpr,
    PIXELS: tl.constexpr,
    CHANNELS: tl.constexpr,
    OUTPUTS: tl.constexpr,
):
    """Computes y(p) = bias + sum_t W_t a(x(p + t)) [labels(p + t) == labels(p)].

    With a gate, y is multiplied by its LeakyReLU's derivative.
    """
    p = tl.program_id(0).to(tl.int64) * PIXELS + tl.arange(0, PIXELS)
    output = tl.program_id(1) * OUTPUTS + tl.arange(0, OUTPUTS)
    sums = tl.zeros([PIXELS, OUTPUTS], tl.float32)
    for tap in range(9):
        image, row, column, counts = _neighbours(
            labels, p, pixels, height, width, tap // 3 - 1, tap % 3 - 1
        )
        for first in range(0, channels, CHANNELS):
            c = first + tl.arange(0, CHANNELS)
            values = _gather(
                x, image, row, column, counts, c, channels, x_image, x_channel, x_row, x_column,
                slope,
            )  # fmt: skip
            w = tl.load(
                weight + (tap * channels + c)[:, None] * outputs + output[None, :],
                mask=(c < channels)[:, None] & (output < outputs)[None, :],
                other=0.0,
            )
            sums = tl.dot(values, w, acc=sums, input_precision=PRECISION)
    if HAS_BIAS:
        sums += tl.load(bias + output, mask=output < outputs, other=0.0)[None, :]
    image = p // width // height
    at = p % (height * width)
    stored = (p < pixels)[:, None] & (output < outputs)[None, :]
    if HAS_GATE:
        gate_at = image * gate_image + at // width * gate_row + at % width * gate_column
        gate_at = gate_at[:, None] + (output.to(tl.int64) * gate_channel)[None, :]
        open_gate = tl.load(gate + gate_at, mask=stored, other=0.0).to(tl.float32) > 0
        sums = tl.where(open_gate, sums, sums * gate_slope)
    to = (image * outputs * height * width + at)[:, None]
    to += (output.to(tl.int64) * height * width)[None, :]
    tl.store(y + to, sums.to(y.dtype.element_ty), mask=stored)


@triton.jit
def weight_kernel(
    grad,  # [B, O, H, W] by strides
    x,  # [B, C, H, W] by strides
    labels,  # [B, H, W] int64
    partial,  # [parts, 9, O, C] float32
    pixels,
    height,
    width,
    channels,
    outputs,
    blocks,
    grad_image,
    grad_channel,
    grad_row,
    grad_column,
    x_image,
    x_channel,
    x_row,
    x_column,
    slope,
    PRECISION: tl.constexpr,
    PIXELS: tl.constexpr,
    CHANNELS: tl.constexpr,
    OUTPUTS: tl.constexpr,
):
    """Sums dW_t = sum_p grad(p) a(x(p + t))^T [labels(p + t) == labels(p)] over a part's pixels."""
    part = tl.program_id(0)
    tap = tl.program_id(1) % 9
    output = tl.program_id(1) // 9 * OUTPUTS + tl.arange(0, OUTPUTS)
    c = tl.program_id(2) * CHANNELS + tl.arange(0, CHANNELS)
    sums = tl.zeros([OUTPUTS, CHANNELS], tl.float32)
    for block in range(part * blocks, (part + 1) * blocks):
        p = tl.cast(block, tl.int64) * PIXELS + tl.arange(0, PIXELS)
        image, row, column, counts = _neighbours(
            labels, p, pixels, height, width, tap // 3 - 1, tap % 3 - 1
        )
        values = _gather(
            x, image, row, column, counts, c, channels, x_image, x_channel, x_row, x_column, slope
        )
        g = _gather(
            grad, image, p // width % height, p % width, counts, output, outputs,
            grad_image, grad_channel, grad_row, grad_column, 1.0,
        )  # fmt: skip
        sums = tl.dot(tl.trans(g), values, acc=sums, input_precision=PRECISION)
    to = ((part * 9 + tap) * outputs + output).to(tl.int64)[:, None] * channels + c[None, :]
    tl.store(partial + to, sums, mask=(output < outputs)[:, None] & (c < channels)[None, :])


def _block(channels: int) -> int:
    return min(64, max(16, triton.next_power_of_2(channels)))  # 16: the least of a tensor core


def _precision(dtype: torch.dtype) -> str:
    return "tf32x3" if dtype == torch.float32 else "tf32"


def _product(
    x: Tensor, labels: Tensor, weight: Tensor, bias: Tensor | None, slope: float,
    gate: Tensor | None, gate_slope: float,
) -> Tensor:  # fmt: skip
    """``weight`` is [9, C, O] float32."""
    batch, channels, height, width = x.shape
    outputs = weight.shape[2]
    y = x.new_empty(batch, outputs, height, width)
    if y.numel() == 0:
        return y
    pixels = batch * height * width
    product_kernel[(triton.cdiv(pixels, _PIXELS), triton.cdiv(outputs, _block(outputs)))](
        x,
        labels.long().contiguous(),
        weight.contiguous(),
        None if bias is None else bias.float(),
        gate,
        y,
        pixels,
        height,
        width,
        channels,
        outputs,
        *x.stride(),
        *((0, 0, 0, 0) if gate is None else gate.stride()),
        slope,
        gate_slope,
        HAS_BIAS=bias is not None,
        HAS_GATE=gate is not None,
        PRECISION=_precision(x.dtype),
        PIXELS=_PIXELS,
        CHANNELS=_block(channels),
        OUTPUTS=_block(outputs),
    )
    return y


def forward(
    x: Tensor, labels: Tensor, weight: Tensor, bias: Tensor | None, negative_slope: float
) -> Tensor:
    """Computes ``y(p) = bias + sum_t W_t a(x(p + t)) [labels(p + t) == labels(p)]``.

    Args:
        x: [B, C, H, W] float32, float16 or bfloat16, any strides.
        labels: integer [B, H, W].
        weight: [O, C, 3, 3], any floating dtype.
        bias: [O] or None.
        negative_slope: of a; 1 is the identity.

    Returns:
        [B, O, H, W] in the dtype of ``x``.
    """
    kernel = weight.float().permute(2, 3, 1, 0).flatten(0, 1)
    return _product(x, labels, kernel, bias, negative_slope, None, 1.0)


def backward(
    grad: Tensor,
    x: Tensor,
    labels: Tensor,
    weight: Tensor,
    negative_slope: float,
    need_x: bool,
    need_weight: bool,
    need_bias: bool,
) -> tuple[Tensor | None, Tensor | None, Tensor | None]:
    """Computes the gradients of `forward`'s x, weight and bias; None where not wanted.

    Args:
        grad: [B, O, H, W] in the dtype of ``x``, any strides.
        x: As in `forward`.
        labels: As in `forward`.
        weight: As in `forward`.
        negative_slope: As in `forward`.
        need_x: Whether the gradient of ``x`` is wanted.
        need_weight: Whether the weight's is.
        need_bias: Whether the bias's is.

    Returns:
        The gradients, that of ``x`` in its dtype, the others in the dtype of ``weight``.
    """
    grad_x = grad_weight = grad_bias = None
    if need_x:
        kernel = weight.float().flip(2, 3).permute(2, 3, 0, 1).flatten(0, 1)
        gate = None if negative_slope == 1 else x
        grad_x = _product(grad, labels, kernel, None, 1.0, gate, negative_slope)
    if need_weight:
        grad_weight = _weight_gradient(grad, x, labels, negative_slope).to(weight.dtype)
    if need_bias:
        grad_bias = grad.sum((0, 2, 3), dtype=torch.float32).to(weight.dtype)
    return grad_x, grad_weight, grad_bias


def _weight_gradient(grad: Tensor, x: Tensor, labels: Tensor, slope: float) -> Tensor:
    batch, channels, height, width = x.shape
    outputs = grad.shape[1]
    pixels = batch * height * width
    blocks = max(1, triton.cdiv(triton.cdiv(pixels, _PIXELS), _PARTS))  # of a part
    parts = triton.cdiv(triton.cdiv(pixels, _PIXELS), blocks)
    partial = torch.empty(parts, 9, outputs, channels, dtype=torch.float32, device=x.device)
    if partial.numel() > 0:
        block_outputs, block_channels = _block(outputs), _block(channels)
        weight_kernel[
            (parts, 9 * triton.cdiv(outputs, block_outputs), triton.cdiv(channels, block_channels))
        ](
            grad,
            x,
            labels.long().contiguous(),
            partial,
            pixels,
            height,
            width,
            channels,
            outputs,
            blocks,
            *grad.stride(),
            *x.stride(),
            slope,
            PRECISION=_precision(x.dtype),
            PIXELS=_PIXELS,
            CHANNELS=block_channels,
            OUTPUTS=block_outputs,
        )
    return partial.sum(0).permute(1, 2, 0).reshape(outputs, channels, 3, 3)
