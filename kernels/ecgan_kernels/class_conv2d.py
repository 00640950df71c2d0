"""A 3x3 convolution that never looks across a class boundary."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from ecgan_kernels import _autocast, _library, reference
from ecgan_kernels._checks import (
    check_alike,
    check_device,
    check_floating,
    check_labels,
    check_shape,
    check_slope,
)
from ecgan_kernels._dispatch import choose


def class_conv2d(
    x: Tensor,
    labels: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    *,
    negative_slope: float | None = None,
    impl: str = "auto",
) -> Tensor:
    r"""3x3 convolution, padding 1, whose taps count only where the label is the centre's.

    .. math::
        y(p) = b + \sum_{t \in \{-1,0,1\}^2} W_t \, a(x(p + t)) \, [l(p + t) = l(p)]

    One pass equals N convolutions of x masked by class, each masked again: a decoder shared by N
    class branches whose masks are re-applied at every layer (ECGAN, Section 3.3, class-specific
    pixel generation) is a stack of these. Pixels outside the map count as another class: they
    contribute nothing. a is the identity or, with ``negative_slope``, LeakyReLU: x may be the raw
    output of the layer before, whose activated form is then neither written nor kept.

    Gradient, with g that of y: the input's is
    :math:`a'(x(p)) \sum_t W_t^T g(p - t) [l(p - t) = l(p)]`, the weight's
    :math:`dW_t = \sum_p g(p) \, a(x(p + t))^T [l(p + t) = l(p)]`, the bias's the sum of g. Sums
    are taken in an order that depends on the shape alone, and pixels of another class are left out,
    not subtracted: an infinity or NaN of one class shows in no result of another. x, the labels and
    the weight are kept for the backward pass. Differentiable once.

    Args:
        x: float32, float16, bfloat16 or float64 [B, C, H, W], any strides. Under autocast it is
            cast to the autocast dtype, as the input of conv2d is.
        labels: uint8, int16, int32 or int64 [B, H, W]. Any value is a class of its own, void too:
            the caller masks the output where void pixels must give nothing.
        weight: [O, C, 3, 3] in the dtype of ``x`` (under autocast in any floating dtype).
        bias: [O] in the dtype of ``weight``, or None.
        negative_slope: slope of the LeakyReLU that x goes through first, or None for no
            activation. The derivative at 0 is the slope, as in torch.
        impl: "auto", "cpu", "cuda", "triton" or "reference"; only "auto" may fall back.

    Returns:
        [B, O, H, W] in the dtype of ``x`` (or of autocast); sums are accumulated in float32 or
        better.

    Raises:
        TypeError: an argument is no tensor or number where one is expected, or has an unsupported
            dtype.
        ValueError: a shape or a device does not fit, or ``impl`` is unknown.
        RuntimeError: the implementation asked for by name is not available here.
    """
    check_floating("x", x, dims=4)
    check_labels("labels", labels, dims=3)
    check_floating("weight", weight, dims=4)
    batch, channels, height, width = x.shape
    check_shape("labels", labels, (batch, height, width), "[B, H, W] of x")
    check_shape("weight", weight, (weight.shape[0], channels, 3, 3), "[O, C of x, 3, 3]")
    check_device("labels", labels, "x", x)
    if _autocast.enabled(x):
        if x.dtype != torch.float64:
            x = x.to(torch.get_autocast_dtype(x.device.type))
        check_device("weight", weight, "x", x)
    else:
        check_alike("weight", weight, "x", x)
    if bias is not None:
        check_floating("bias", bias)
        check_shape("bias", bias, weight.shape[:1], "[O] of weight")
        check_alike("bias", bias, "weight", weight)
    check_slope("negative_slope", negative_slope)
    negative_slope = None if negative_slope is None else float(negative_slope)
    chosen = choose("class_conv2d", impl, x)
    if chosen == "reference":
        return reference.class_conv2d(x, labels, weight, bias, negative_slope=negative_slope)
    slope = 1.0 if negative_slope is None else negative_slope
    if chosen == "triton":
        return torch.ops.ecgan.class_conv2d_triton(x, labels, weight, bias, slope)
    return torch.ops.ecgan.class_conv2d(x, labels, weight, bias, slope)


@torch.library.custom_op("ecgan::class_conv2d_triton", mutates_args=())
def _triton(
    x: Tensor, labels: Tensor, weight: Tensor, bias: Tensor | None, negative_slope: float
) -> Tensor:
    from ecgan_kernels.triton import class_conv2d as kernels

    return kernels.forward(x, labels, weight, bias, negative_slope)


@torch.library.custom_op("ecgan::class_conv2d_triton_backward", mutates_args=())
def _triton_backward(
    grad: Tensor,
    x: Tensor,
    labels: Tensor,
    weight: Tensor,
    negative_slope: float,
    need_x: bool,
    need_weight: bool,
    need_bias: bool,
) -> tuple[Tensor, Tensor, Tensor]:
    from ecgan_kernels.triton import class_conv2d as kernels

    needs = need_x, need_weight, need_bias
    grad_x, grad_weight, grad_bias = kernels.backward(
        grad, x, labels, weight, negative_slope, *needs
    )
    return (
        x.new_empty(0) if grad_x is None else grad_x,
        weight.new_empty(0) if grad_weight is None else grad_weight,
        weight.new_empty(0) if grad_bias is None else grad_bias,
    )


def _register(name: str) -> None:
    """Gives the op ``name`` and its sibling ``<name>_backward`` fake kernels and a gradient.

    Both have the arguments of the schemas in csrc/ops/class_conv2d.cpp. The sibling returns a
    tensor of size 0 for a gradient that is not needed.
    """
    backward_op = getattr(torch.ops.ecgan, f"{name}_backward")

    def fake(
        x: Tensor, labels: Tensor, weight: Tensor, bias: Tensor | None, negative_slope: float
    ) -> Tensor:
        return x.new_empty(x.shape[0], weight.shape[0], *x.shape[2:])

    def fake_backward(
        grad: Tensor,
        x: Tensor,
        labels: Tensor,
        weight: Tensor,
        negative_slope: float,
        need_x: bool,
        need_weight: bool,
        need_bias: bool,
    ) -> tuple[Tensor, Tensor, Tensor]:
        return (
            x.new_empty(x.shape if need_x else 0),
            weight.new_empty(weight.shape if need_weight else 0),
            weight.new_empty(weight.shape[0] if need_bias else 0),
        )

    def setup_context(ctx: Any, inputs: tuple, output: Tensor) -> None:
        x, labels, weight, _, ctx.negative_slope = inputs
        ctx.save_for_backward(x, labels, weight)

    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        x, labels, weight = ctx.saved_tensors
        needs = [ctx.needs_input_grad[i] for i in (0, 2, 3)]
        grads = backward_op(grad, x, labels, weight, ctx.negative_slope, *needs)
        grad_x, grad_weight, grad_bias = (
            found if need else None for found, need in zip(grads, needs, strict=True)
        )
        return grad_x, None, grad_weight, grad_bias, None

    def backward_twice(ctx: Any, *grads: Tensor) -> None:
        # Without this, torch would take the first gradient for a constant.
        raise RuntimeError("class_conv2d is differentiable once")

    torch.library.register_fake(f"ecgan::{name}", fake)
    torch.library.register_fake(f"ecgan::{name}_backward", fake_backward)
    torch.library.register_autograd(f"ecgan::{name}", backward, setup_context=setup_context)
    torch.library.register_autograd(f"ecgan::{name}_backward", backward_twice)


_register("class_conv2d_triton")
if _library.CPU.loaded:
    _register("class_conv2d")
