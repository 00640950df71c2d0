"""A 3x3 convolution that never looks across a class boundary."""

from __future__ import annotations

import torch
from torch import Tensor

from ecgan_kernels._checks import (
    check_alike,
    check_device,
    check_floating,
    check_labels,
    check_shape,
)
from ecgan_kernels._dispatch import choose
from ecgan_kernels.reference.class_conv2d import class_conv2d as _reference

_IMPLEMENTATIONS = {"reference": _reference}


def class_conv2d(
    x: Tensor, labels: Tensor, weight: Tensor, bias: Tensor | None = None, *, impl: str = "auto"
) -> Tensor:
    r"""3x3 convolution, padding 1, whose taps count only where the label is the centre's.

    .. math::
        y(p) = b + \sum_{t \in \{-1,0,1\}^2} W_t \, x(p + t) \, [l(p + t) = l(p)]

    One pass equals N convolutions of x masked by class, each masked again: a decoder shared by N
    class branches whose masks are re-applied at every layer (ECGAN, Section 3.3, class-specific
    pixel generation) is a stack of these. Pixels outside the map contribute nothing.

    Gradient, with g that of y: the input's is
    :math:`\sum_t W_t^T g(p - t) [l(p - t) = l(p)]`, the weight's
    :math:`dW_t = \sum_p g(p) \, x(p + t)^T [l(p + t) = l(p)]`, the bias's the sum of g.

    Args:
        x: float32, float16, bfloat16 or float64 [B, C, H, W], any strides. Under autocast it is
            cast to the autocast dtype, as the input of conv2d is.
        labels: uint8, int16, int32 or int64 [B, H, W]. Any value is a class of its own, void too:
            the caller masks the output where void pixels must give nothing.
        weight: [O, C, 3, 3] in the dtype of ``x`` (under autocast in any floating dtype).
        bias: [O] in the dtype of ``weight``, or None.
        impl: "auto", "cpu", "cuda", "triton" or "reference"; only "auto" may fall back.

    Returns:
        [B, O, H, W] in the dtype of ``x`` (or of autocast); sums are accumulated in float32 or
        better.

    Raises:
        TypeError: an argument is no tensor or has an unsupported dtype.
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
    if torch.is_autocast_enabled(x.device.type):
        if x.dtype != torch.float64:
            x = x.to(torch.get_autocast_dtype(x.device.type))
        check_device("weight", weight, "x", x)
    else:
        check_alike("weight", weight, "x", x)
    if bias is not None:
        check_floating("bias", bias)
        check_shape("bias", bias, weight.shape[:1], "[O] of weight")
        check_alike("bias", bias, "weight", weight)
    return _IMPLEMENTATIONS[choose("class_conv2d", impl, x)](x, labels, weight, bias)
