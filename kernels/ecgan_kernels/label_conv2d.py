"""Convolution of a label map's one-hot form that needs no one-hot tensor."""

from __future__ import annotations

from torch import Tensor

from ecgan_kernels._checks import (
    check_alike,
    check_device,
    check_floating,
    check_int,
    check_label_range,
    check_labels,
    check_shape,
)
from ecgan_kernels._dispatch import choose
from ecgan_kernels.reference.label_conv2d import label_conv2d as _reference

_IMPLEMENTATIONS = {"reference": _reference}


def label_conv2d(
    labels: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    *,
    stride: int | tuple[int, int] = 1,
    padding: int | tuple[int, int] = 0,
    ignore_index: int = 255,
    impl: str = "auto",
) -> Tensor:
    r"""conv2d of the one-hot form of a label map.

    .. math::
        y_o(p) = b_o + \sum_t W_{o,\,l(s p + t),\,t}

    over the taps t that fall on a pixel of the map whose label is not ``ignore_index``; s is the
    stride. Equals ``F.conv2d(one_hot(labels), weight, bias, stride, padding)`` with zero columns at
    ignored pixels: the layer every network begins with that takes a label map.

    Gradient, with g that of y: the weight's is
    :math:`dW_{o,n,t} = \sum_p g_o(p) \, [l(s p + t) = n]`, the bias's the sum of g; labels have
    none.

    Args:
        labels: uint8, int16, int32 or int64 [B, H, W] in ``[0, N)`` or ``ignore_index``. A label
            out of range is an error on the CPU in eager mode; on other devices and under
            torch.compile it contributes nothing, as an ignored one.
        weight: float32, float16, bfloat16 or float64 [O, N, kh, kw].
        bias: [O] in the dtype of ``weight``, or None.
        stride: step between outputs in pixels, one int or (vertical, horizontal).
        padding: zero margin in pixels, one int or (vertical, horizontal).
        ignore_index: label of the pixels that contribute nothing.
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
    check_label_range("labels", labels, weight.shape[1], ignore_index)
    run = _IMPLEMENTATIONS[choose("label_conv2d", impl, weight)]
    return run(labels, weight, bias, stride=steps, padding=margins, ignore_index=ignore_index)


def _pair(name: str, value: int | tuple[int, int], minimum: int) -> tuple[int, int]:
    if isinstance(value, tuple | list):
        if len(value) != 2:
            raise ValueError(f"{name} must be one int or two, not {len(value)}")
        vertical, horizontal = value
    else:
        vertical = horizontal = value
    check_int(name, vertical, minimum)
    check_int(name, horizontal, minimum)
    return vertical, horizontal
