"""Convolution of a label map's one-hot form that needs no one-hot tensor."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from ecgan_kernels import _autocast, _library
from ecgan_kernels._checks import (
    check_alike,
    check_dense,
    check_device,
    check_floating,
    check_int,
    check_label_range,
    check_labels,
    check_shape,
)
from ecgan_kernels._dispatch import choose
from ecgan_kernels.reference.label_conv2d import label_conv2d as _reference

# The windows of a block's outputs stay in shared memory, of which sm_75 has 64 KiB: 10 x 11.
_CUDA_TAPS = 111
# Of a stride and of a padding, as kernels limit the sides of a padded map.
_MOST_PIXELS = 2**20 - 1


def label_conv2d(
    labels: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    *,
    stride: int | tuple[int, int] = 1,
    padding: int | tuple[int, int] = 0,
    ignore_index: int = 255,
    edges: Tensor | None = None,
    scale: Tensor | None = None,
    impl: str = "auto",
) -> Tensor:
    r"""conv2d of the one-hot form of a label map.

    .. math::
        y_o(p) = b_o + \sum_t c(s p + t) \, W_{o,\,l(s p + t),\,t}

    over the taps t that fall on a pixel of the map whose label is not ``ignore_index``; s is the
    stride and c, 1 without it, the ``scale``. Equals ``F.conv2d(one_hot(labels), weight, bias,
    stride, padding)`` with zero columns at ignored pixels: the layer every network begins with
    that takes a label map. With ``edges`` the weight has one more column, which is added under
    every tap on an instance edge, ignored pixels included, as for
    ``torch.cat([one_hot, edges != 0], 1)``.

    Gradient, with g that of y: the weight's is
    :math:`dW_{o,n,t} = \sum_p g_o(p) \, c(s p + t) \, [l(s p + t) = n]`, the bias's the sum of g;
    labels, edges and scale have none. Sums are in float32 (float64 for float64) whatever the
    weight's dtype, and do not depend on the number of threads. Differentiable once.

    Args:
        labels: uint8, int16, int32 or int64 [B, H, W] in ``[0, N)`` or ``ignore_index``. A label
            out of range is an error on the CPU in eager mode; on other devices and under
            torch.compile it contributes nothing, as an ignored one.
        weight: float32, float16, bfloat16 or float64 [O, N, kh, kw], with ``edges``
            [O, N + 1, kh, kw]; any strides, such as those of some columns of a larger weight.
        bias: [O] in the dtype of ``weight``, or None.
        stride: step between outputs in pixels, one int or (vertical, horizontal).
        padding: zero margin in pixels, one int or (vertical, horizontal).
        ignore_index: label of the pixels that contribute nothing.
        edges: instance edges [B, 1, H, W], bool or number, non-zero on an edge, or None.
        scale: how often a pixel counts, its edge included: floating, [B, H, W] or what expands to
            it, or None for once. With 1 / 9 and the nine shifts of a map it averages.
        impl: "auto", "cpu", "cuda", "triton" or "reference"; only "auto" may fall back.

    Returns:
        [B, O, (H + 2 padding - kh) // stride + 1, (W + 2 padding - kw) // stride + 1] in the dtype
        of ``weight``, or in that of autocast.

    Raises:
        TypeError: an argument is no tensor or no int where one is expected, or has an unsupported
            dtype.
        ValueError: a shape or a device does not fit, the kernel exceeds the padded map, a label is
            out of range or ``impl`` is unknown.
        RuntimeError: the implementation asked for by name is not available here.
    """
    check_labels("labels", labels, dims=3)
    check_floating("weight", weight, dims=4)
    check_device("weight", weight, "labels", labels)
    if bias is not None:
        check_floating("bias", bias)
        check_shape("bias", bias, weight.shape[:1], "[O] of weight")
        check_alike("bias", bias, "weight", weight)
    steps = _pair("stride", stride, minimum=1)
    margins = _pair("padding", padding, minimum=0)
    check_int("ignore_index", ignore_index)
    for axis, side in enumerate(("height", "width")):
        reach = labels.shape[1 + axis] + 2 * margins[axis]
        kernel = weight.shape[2 + axis]
        if not 1 <= kernel <= reach:
            raise ValueError(
                f"weight must have a kernel {side} between 1 and the padded {side} of labels "
                f"({reach}), not {kernel}"
            )
    if edges is not None:
        batch, height, width = labels.shape
        check_dense("edges", edges)
        check_shape("edges", edges, (batch, 1, height, width), "[B, 1, H, W] of labels")
        check_device("edges", edges, "labels", labels)
        edges = edges if edges.dtype == torch.bool else edges != 0
    if scale is not None:
        check_floating("scale", scale)
        check_device("scale", scale, "labels", labels)
        scale = _expanded(scale.detach(), labels)
    classes = weight.shape[1] - (edges is not None)
    if classes < 0:
        raise ValueError("weight must have a column for edges, not 0 columns")

    chosen = choose("label_conv2d", impl, weight)
    if chosen == "cuda" and impl == "auto" and weight.shape[2] * weight.shape[3] > _CUDA_TAPS:
        chosen = "reference"
    if chosen != "cpu":  # whose kernel looks itself
        check_label_range("labels", labels, classes, ignore_index)
    if chosen == "reference":
        return _reference(
            labels,
            weight,
            bias,
            stride=steps,
            padding=margins,
            ignore_index=ignore_index,
            edges=edges,
            scale=scale,
        )
    if _autocast.enabled(weight) and weight.dtype != torch.float64:
        dtype = torch.get_autocast_dtype(weight.device.type)
        weight, bias = weight.to(dtype), None if bias is None else bias.to(dtype)
    name = "label_conv2d_triton" if chosen == "triton" else "label_conv2d"
    run = getattr(torch.ops.ecgan, name)
    arguments = (labels, weight, bias, edges, scale, *steps, *margins, ignore_index)
    if chosen != "cpu" or torch.compiler.is_compiling():
        return run(*arguments, False)
    try:
        return run(*arguments, True)
    except RuntimeError:
        check_label_range("labels", labels, classes, ignore_index)  # says which values
        raise


def _expanded(scale: Tensor, labels: Tensor) -> Tensor:
    sizes = (1,) * (labels.dim() - scale.dim()) + tuple(scale.shape)
    if len(sizes) != 3 or any(
        size not in (1, full) for size, full in zip(sizes, labels.shape, strict=True)
    ):
        raise ValueError(
            f"scale must have shape {tuple(labels.shape)} (that of labels) or expand to it, "
            f"not {tuple(scale.shape)}"
        )
    return scale.expand(labels.shape)


def _pair(name: str, value: int | tuple[int, int], minimum: int) -> tuple[int, int]:
    if isinstance(value, tuple | list):
        if len(value) != 2:
            raise ValueError(f"{name} must be one int or two, not {len(value)}")
        vertical, horizontal = value
    else:
        vertical = horizontal = value
    check_int(name, vertical, minimum, maximum=_MOST_PIXELS)
    check_int(name, horizontal, minimum, maximum=_MOST_PIXELS)
    return vertical, horizontal


@torch.library.custom_op("ecgan::label_conv2d_triton", mutates_args=())
def _triton(
    labels: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    edges: Tensor | None,
    scale: Tensor | None,
    stride_height: int,
    stride_width: int,
    padding_height: int,
    padding_width: int,
    ignore_index: int,
    check_range: bool,
) -> Tensor:
    from ecgan_kernels.triton import label_conv2d as kernels

    steps, margins = (stride_height, stride_width), (padding_height, padding_width)
    return kernels.forward(labels, weight, bias, edges, scale, steps, margins, ignore_index)


@torch.library.custom_op("ecgan::label_conv2d_triton_backward", mutates_args=())
def _triton_backward(
    grad: Tensor,
    labels: Tensor,
    weight: Tensor,
    edges: Tensor | None,
    scale: Tensor | None,
    stride_height: int,
    stride_width: int,
    padding_height: int,
    padding_width: int,
    ignore_index: int,
    need_weight: bool,
    need_bias: bool,
) -> tuple[Tensor, Tensor]:
    from ecgan_kernels.triton import label_conv2d as kernels

    grad_weight, grad_bias = kernels.backward(
        grad,
        labels,
        weight,
        edges,
        scale,
        (stride_height, stride_width),
        (padding_height, padding_width),
        ignore_index,
        need_weight,
        need_bias,
    )
    return (
        weight.new_empty(0, *weight.shape[1:]) if grad_weight is None else grad_weight,
        weight.new_empty(0) if grad_bias is None else grad_bias,
    )


def _register(name: str) -> None:
    """Gives the op ``name`` and its sibling ``<name>_backward`` fake kernels and a gradient.

    Both have the arguments of the schemas in csrc/ops/label_conv2d.cpp.
    """
    backward_op = getattr(torch.ops.ecgan, f"{name}_backward")

    def fake(
        labels: Tensor,
        weight: Tensor,
        bias: Tensor | None,
        edges: Tensor | None,
        scale: Tensor | None,
        stride_height: int,
        stride_width: int,
        padding_height: int,
        padding_width: int,
        ignore_index: int,
        check_range: bool,
    ) -> Tensor:
        batch, height, width = labels.shape
        outputs, _, kernel_height, kernel_width = weight.shape
        rows = (height + 2 * padding_height - kernel_height) // stride_height + 1
        columns = (width + 2 * padding_width - kernel_width) // stride_width + 1
        return weight.new_empty(batch, outputs, rows, columns)

    def fake_backward(
        grad: Tensor,
        labels: Tensor,
        weight: Tensor,
        edges: Tensor | None,
        scale: Tensor | None,
        stride_height: int,
        stride_width: int,
        padding_height: int,
        padding_width: int,
        ignore_index: int,
        need_weight: bool,
        need_bias: bool,
    ) -> tuple[Tensor, Tensor]:
        outputs = weight.shape[0]
        return (
            weight.new_empty(outputs if need_weight else 0, *weight.shape[1:]),
            weight.new_empty(outputs if need_bias else 0),
        )

    def setup_context(ctx: Any, inputs: tuple, output: Tensor) -> None:
        labels, weight, _, edges, scale, *ctx.options, _ = inputs
        ctx.save_for_backward(labels, weight, edges, scale)

    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        _, need_weight, need_bias, *others = ctx.needs_input_grad
        grad_weight, grad_bias = backward_op(
            grad, *ctx.saved_tensors, *ctx.options, need_weight, need_bias
        )
        return (
            None,
            grad_weight if need_weight else None,
            grad_bias if need_bias else None,
            *(None for _ in others),
        )

    def backward_twice(ctx: Any, *grads: Tensor) -> None:
        # Without this, torch would take the first gradient for a constant.
        raise RuntimeError(
            "label_conv2d is differentiable once: use impl='reference' for second derivatives"
        )

    torch.library.register_fake(f"ecgan::{name}", fake)
    torch.library.register_fake(f"ecgan::{name}_backward", fake_backward)
    torch.library.register_autograd(f"ecgan::{name}", backward, setup_context=setup_context)
    torch.library.register_autograd(f"ecgan::{name}_backward", backward_twice)


_register("label_conv2d_triton")
if _library.CPU.loaded:
    _register("label_conv2d")
