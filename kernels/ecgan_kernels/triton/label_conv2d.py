"""Triton kernels of `ecgan_kernels.label_conv2d`: gathered rows forward, sorted sums backward."""

# mypy: disable-error-code="no-untyped-def"
# Triton reads the annotations of its kernels: constexpr, or none.

from __future__ import annotations

import torch
import torch.nn.functional as F
import triton
import triton.language as tl
from torch import Tensor

_PIXELS = 32  # outputs of a program: a full line of floats in each channel's plane
_CHANNELS = 64
_MOST_SPLITS = 32  # pieces that a label's pixels are cut into, for enough programs


@triton.jit
def forward_kernel(
    codes,  # [B, H, W] int32
    scale,  # [B, H, W] float32, or None: 1 everywhere
    table,  # [KH * KW, CODES, O] float32
    bias,  # [O], or None
    out,  # [B, O, OH, OW]
    tiles,  # programs an image; with SINGLE, of the batch
    outputs,  # of an image, OH * OW; with SINGLE, of the batch
    channels,  # O
    height,
    width,
    out_width,
    stride_height,
    stride_width,
    padding_height,
    padding_width,
    code_count,  # CODES
    KERNEL_HEIGHT: tl.constexpr,
    KERNEL_WIDTH: tl.constexpr,
    SINGLE: tl.constexpr,  # images have one output each
    PIXELS: tl.constexpr,
    CHANNELS: tl.constexpr,
):
    """Computes out_o(p) = bias_o + sum_t scale(p + t) table[t, code(p + t), o]."""
    # Outputs of a program are neighbours, so that stores run along a channel's plane.
    m = (tl.program_id(0) % tiles).to(tl.int64) * PIXELS + tl.arange(0, PIXELS)
    o = tl.program_id(1) * CHANNELS + tl.arange(0, CHANNELS)
    inside = m < outputs
    exists = o < channels
    if SINGLE:
        image = m
        row = tl.zeros_like(m)
        column = row
        place = m[:, None] * channels + o[None, :]
    else:
        image = (tl.program_id(0) // tiles).to(tl.int64)
        row = m // out_width
        column = m % out_width
        plane = tl.zeros_like(o).to(tl.int64) + outputs
        place = image * channels * outputs + m[:, None] + (o * plane)[None, :]
    total = tl.zeros((PIXELS, CHANNELS), dtype=tl.float32)
    if bias is not None:
        total += tl.load(bias + o, mask=exists, other=0.0).to(tl.float32)[None, :]
    for i in range(KERNEL_HEIGHT):
        for j in range(KERNEL_WIDTH):
            y = row * stride_height + i - padding_height
            x = column * stride_width + j - padding_width
            found = inside & (y >= 0) & (y < height) & (x >= 0) & (x < width)
            at = (image * height + y) * width + x
            code = tl.load(codes + at, mask=found, other=0)
            line = (i * KERNEL_WIDTH + j) * code_count + code.to(tl.int64)
            add = tl.load(
                table + line[:, None] * channels + o[None, :],
                mask=found[:, None] & exists[None, :],
                other=0.0,
            )
            if scale is not None:
                add *= tl.load(scale + at, mask=found, other=0.0)[:, None]
            total += add
    tl.store(out + place, total.to(out.dtype.element_ty), mask=inside[:, None] & exists[None, :])


@triton.jit
def backward_kernel(
    grad,  # [B, O, OH, OW] by strides
    order,  # [B * H * W] int64, the pixels sorted by code
    starts,  # [CODES + 1] int64, where each code begins in order
    scale,  # [B, H, W] float32, or None: 1 everywhere
    sums,  # [SPLITS, KH * KW, CODES, O] float32
    channels,  # O
    height,
    width,
    out_height,
    out_width,
    stride_height,
    stride_width,
    padding_height,
    padding_width,
    grad_image,  # strides of grad
    grad_channel,
    grad_row,
    grad_column,
    code_count,  # CODES
    splits,  # SPLITS
    KERNEL_WIDTH: tl.constexpr,
    PIXELS: tl.constexpr,
    CHANNELS: tl.constexpr,
):
    """Computes sums[split, t, c, o] = sum_q scale(q) grad_o(q - t) over a piece of c's pixels q."""
    tap = tl.program_id(0)  # the fastest: neighbours read the same gradients
    code = tl.program_id(1) // splits
    split = tl.program_id(1) % splits
    o = tl.program_id(2) * CHANNELS + tl.arange(0, CHANNELS)
    exists = o < channels
    first = tl.load(starts + code)
    last = tl.load(starts + code + 1)
    piece = tl.cdiv(tl.cdiv(last - first, splits), PIXELS) * PIXELS
    first = first + split * piece
    last = tl.minimum(last, first + piece)
    # Pixels last: neighbouring lanes then read neighbouring gradients, as they mostly are.
    total = tl.zeros((CHANNELS, PIXELS), dtype=tl.float32)
    for n in range(first, last, PIXELS):
        index = n + tl.arange(0, PIXELS)
        q = tl.load(order + index, mask=index < last, other=0)
        x = q % width + padding_width - tap % KERNEL_WIDTH
        y = q // width % height + padding_height - tap // KERNEL_WIDTH
        image = q // width // height
        found = (index < last) & (x >= 0) & (y >= 0)
        found &= (x % stride_width == 0) & (y % stride_height == 0)
        x = x // stride_width
        y = y // stride_height
        found &= (x < out_width) & (y < out_height)
        at = image * grad_image + y * grad_row + x * grad_column
        g = tl.load(
            grad + (o.to(tl.int64) * grad_channel)[:, None] + at[None, :],
            mask=exists[:, None] & found[None, :],
            other=0.0,
        ).to(tl.float32)
        if scale is not None:
            g *= tl.load(scale + q, mask=found, other=0.0)[None, :]
        total += g
    line = (split * tl.num_programs(0) + tap).to(tl.int64) * code_count + code
    tl.store(sums + line * channels + o, tl.sum(total, 1), mask=exists)


def forward(
    labels: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    edges: Tensor | None,
    scale: Tensor | None,
    stride: tuple[int, int],
    padding: tuple[int, int],
    ignore_index: int,
) -> Tensor:
    """Computes the convolution of the one-hot form in float32, rounded once.

    Args:
        labels: integer [B, H, W]; a label out of range contributes nothing.
        weight: [O, N, kh, kw] float32, float16 or bfloat16, with ``edges`` [O, N + 1, kh, kw].
        bias: [O], or None.
        edges: bool [B, 1, H, W], or None.
        scale: floating [B, H, W], or None.
        stride: vertical and horizontal.
        padding: vertical and horizontal.
        ignore_index: label that contributes nothing.

    Returns:
        [B, O, H', W'] in the weight's dtype.
    """
    height, width = labels.shape[1:]
    channels, columns, *kernel = weight.shape
    rows, cols = (
        (size + 2 * margin - side) // step + 1
        for size, margin, side, step in zip((height, width), padding, kernel, stride, strict=True)
    )
    out = weight.new_empty(len(labels), channels, rows, cols)
    if out.numel() == 0:
        return out
    classes = columns - (edges is not None)
    taps = weight.float().permute(2, 3, 1, 0).reshape(-1, columns, channels)
    table = F.pad(taps[:, :classes], (0, 0, 0, 1))
    if edges is not None:
        table = torch.cat([table, table + taps[:, classes:]], 1)
    single = rows * cols == 1
    outputs = len(labels) if single else rows * cols
    tiles = triton.cdiv(outputs, _PIXELS)
    programs = tiles if single else tiles * len(labels)
    forward_kernel[(programs, triton.cdiv(channels, _CHANNELS))](
        _encode(labels, classes, edges, ignore_index),
        None if scale is None else scale.float().contiguous(),
        table.contiguous(),
        None if bias is None else bias.contiguous(),
        out,
        tiles,
        outputs,
        channels,
        height,
        width,
        cols,
        *stride,
        *padding,
        table.shape[1],
        KERNEL_HEIGHT=kernel[0],
        KERNEL_WIDTH=kernel[1],
        SINGLE=single,
        PIXELS=_PIXELS,
        CHANNELS=_CHANNELS,
    )
    return out


def backward(
    grad: Tensor,
    labels: Tensor,
    weight: Tensor,
    edges: Tensor | None,
    scale: Tensor | None,
    stride: tuple[int, int],
    padding: tuple[int, int],
    ignore_index: int,
    need_weight: bool,
    need_bias: bool,
) -> tuple[Tensor | None, Tensor | None]:
    """Computes the gradients of `forward`'s weight and bias from that of its result.

    The pixels of the map are sorted by code once; a program then walks a piece of one code's pixels
    for one tap. No atomics: the same input gives the same bits.

    Args:
        grad: [B, O, H', W'], any strides.
        labels: As in `forward`.
        weight: As in `forward`; only its shape and dtype are read.
        edges: As in `forward`.
        scale: As in `forward`.
        stride: As in `forward`.
        padding: As in `forward`.
        ignore_index: As in `forward`.
        need_weight: Whether the weight's gradient is wanted.
        need_bias: Whether the bias's gradient is wanted.

    Returns:
        The gradients of weight and bias in the weight's dtype; None if not wanted.
    """
    grad_bias = grad.float().sum((0, 2, 3)).to(weight.dtype) if need_bias else None
    if not need_weight:
        return None, grad_bias
    if grad.numel() == 0:
        return torch.zeros_like(weight, memory_format=torch.contiguous_format), grad_bias
    height, width = labels.shape[1:]
    channels, columns, kernel_height, kernel_width = weight.shape
    classes = columns - (edges is not None)
    code_count = (classes + 1) * (1 if edges is None else 2)
    codes = _encode(labels, classes, edges, ignore_index).flatten()
    sorted_codes, order = codes.sort(stable=True)
    every = torch.arange(code_count + 1, device=codes.device, dtype=torch.int32)
    starts = torch.searchsorted(sorted_codes, every)
    taps = kernel_height * kernel_width
    splits = max(1, min(_MOST_SPLITS, codes.numel() // 4096))
    sums = grad.new_empty(splits, taps, code_count, channels, dtype=torch.float32)
    backward_kernel[(taps, code_count * splits, triton.cdiv(channels, _CHANNELS))](
        grad,
        order,
        starts,
        None if scale is None else scale.float().contiguous(),
        sums,
        channels,
        height,
        width,
        *grad.shape[2:],
        *stride,
        *padding,
        *grad.stride(),
        code_count,
        splits,
        KERNEL_WIDTH=kernel_width,
        PIXELS=_PIXELS,
        CHANNELS=_CHANNELS,
    )
    total = sums.sum(0)
    result = total[:, :classes]
    if edges is not None:
        marked = total[:, classes + 1 :]
        result = torch.cat([result + marked[:, :classes], marked.sum(1, keepdim=True)], 1)
    shape = (kernel_height, kernel_width, columns, channels)
    grad_weight = result.reshape(shape).permute(3, 2, 0, 1).to(weight.dtype)
    return grad_weight.contiguous(), grad_bias


def _encode(labels: Tensor, classes: int, edges: Tensor | None, ignore_index: int) -> Tensor:
    """int32 [B, H, W]: the label, ``classes`` where there is none, plus classes + 1 on an edge."""
    values = labels.long()  # a scalar compared with a uint8 tensor would wrap around
    known = (values >= 0) & (values < classes) & (values != ignore_index)
    codes = torch.where(known, values, classes)
    if edges is not None:
        codes = codes + (classes + 1) * edges[:, 0]
    return codes.int().contiguous()
