"""Edge transfer and the LeakyReLU of both branches in one pass, keeping only the results."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from ecgan_kernels import _library, reference
from ecgan_kernels._dispatch import choose
from ecgan_kernels.edge_transfer import check_operands


def edge_transfer_lrelu(
    image: Tensor,
    edge: Tensor,
    *,
    negative_slope: float = 0.2,
    impl: str = "auto",
) -> tuple[Tensor, Tensor]:
    r"""Feature-level edge transfer and the LeakyReLU before the next convolution of both branches.

    .. math::
        y = \ell(x \, (1 + \sigma(e))), \quad f = \ell(e), \qquad
        \frac{\partial L}{\partial x} = g_y \, \ell'(y) \, (1 + \sigma(e)), \quad
        \frac{\partial L}{\partial e} = g_y \, y \, \frac{\sigma(e) \, (1 - \sigma(e))}{1 +
        \sigma(e)} + g_f \, \ell'(f)

    with x = ``image``, e = ``edge``, l = LeakyReLU of ``negative_slope`` a in (0, 1] and l' = 1
    above 0, else a, at 0 too. LeakyReLU can be undone, so that the results are all that is kept for
    the backward pass (the next convolutions keep them anyway): e = f / l'(f), and neither ``image``
    nor ``edge`` has to live on. Hence a result must not be modified in place before the backward
    pass, which torch reports. Computed in float32, float64 for float64, and rounded once.

    What comes back is rounded as the results are: y to half an epsilon of the dtype and, where
    ``edge`` is below 0, e to half an epsilon of float16 or bfloat16 or 1.5 of float32, relative.
    That moves sigma(e) by at most 0.34 epsilon and sigma(e) (1 - sigma(e)) by abs(e) times as much
    as e, relative; a slope so small that a e is subnormal in the dtype costs more. Where y
    overflows the dtype, the gradient of ``edge`` is not finite. Differentiable once. Under
    autocast, inputs of different dtypes are promoted to the wider one, as by `edge_transfer`, and
    both results have it.

    Args:
        image: [*S] float32, float16, bfloat16 or float64, any strides, at most 8 dimensions.
        edge: [*S] of the same shape, dtype and device. A single-channel edge map may come as
            ``edge.expand_as(image)``, which is read in place; its result is [*S] even so.
        negative_slope: a, in (0, 1].
        impl: "auto" for the best that is there, or "cpu", "cuda", "triton" or "reference", which
            never fall back. float64 on a GPU runs as the reference.

    Returns:
        y and f, [*S] each in the inputs' dtype, in the memory formats of ``image`` and ``edge``. As
        from ``F.leaky_relu(edge)``, no gradient flows through f where ``edge`` requires none.

    Raises:
        TypeError: ``image`` or ``edge`` is not a floating tensor, their dtypes differ outside
            autocast, or ``negative_slope`` is not a number.
        ValueError: shapes or devices differ, too many dimensions, a ``negative_slope`` outside
            (0, 1] or an unknown ``impl``.
        RuntimeError: ``impl`` names an implementation that cannot run on these tensors.
    """
    image, edge = check_operands(image, edge)
    if isinstance(negative_slope, bool) or not isinstance(negative_slope, int | float):
        kind = type(negative_slope).__name__
        raise TypeError(f"negative_slope must be a number, not {kind}")
    if not 0 < negative_slope <= 1:
        raise ValueError(
            f"negative_slope must be greater than 0 and at most 1, not {negative_slope}"
        )

    chosen = choose("edge_transfer_lrelu", impl, image)
    if chosen == "reference":
        return reference.edge_transfer_lrelu(image, edge, negative_slope=negative_slope)
    if chosen == "triton":
        return torch.ops.ecgan.edge_transfer_lrelu_triton(image, edge, float(negative_slope))
    return torch.ops.ecgan.edge_transfer_lrelu(image, edge, float(negative_slope))


@torch.library.custom_op("ecgan::edge_transfer_lrelu_triton", mutates_args=())
def _triton(image: Tensor, edge: Tensor, negative_slope: float) -> tuple[Tensor, Tensor]:
    from ecgan_kernels.triton import edge_transfer_lrelu as kernels

    return kernels.forward(image, edge, negative_slope)


@torch.library.custom_op("ecgan::edge_transfer_lrelu_triton_backward", mutates_args=())
def _triton_backward(
    grad_image_out: Tensor | None,
    grad_edge_out: Tensor | None,
    image_out: Tensor,
    edge_out: Tensor,
    negative_slope: float,
    need_image: bool,
    need_edge: bool,
) -> tuple[Tensor, Tensor]:
    from ecgan_kernels.triton import edge_transfer_lrelu as kernels

    grad_image, grad_edge = kernels.backward(
        grad_image_out, grad_edge_out, image_out, edge_out, negative_slope, need_image, need_edge
    )
    return (
        image_out.new_empty(0) if grad_image is None else grad_image,
        edge_out.new_empty(0) if grad_edge is None else grad_edge,
    )


def _register(name: str) -> None:
    """Gives the op ``name`` and its sibling ``<name>_backward`` fake kernels and a gradient.

    Both have the arguments of the schemas in csrc/ops/edge_transfer_lrelu.cpp. The sibling returns
    a tensor of size 0 for a gradient that is not needed.
    """
    backward_op = getattr(torch.ops.ecgan, f"{name}_backward")

    def fake(image: Tensor, edge: Tensor, negative_slope: float) -> tuple[Tensor, Tensor]:
        return torch.empty_like(image), torch.empty_like(edge)

    def fake_backward(
        grad_image_out: Tensor | None,
        grad_edge_out: Tensor | None,
        image_out: Tensor,
        edge_out: Tensor,
        negative_slope: float,
        need_image: bool,
        need_edge: bool,
    ) -> tuple[Tensor, Tensor]:
        return (
            torch.empty_like(image_out) if need_image else image_out.new_empty(0),
            torch.empty_like(edge_out) if need_edge else edge_out.new_empty(0),
        )

    def setup_context(
        ctx: Any, inputs: tuple[Tensor, Tensor, float], output: tuple[Tensor, Tensor]
    ) -> None:
        ctx.negative_slope = inputs[2]
        ctx.set_materialize_grads(False)  # zeros would be a tensor to allocate, write and read
        if not ctx.needs_input_grad[1]:
            ctx.mark_non_differentiable(output[1])
        ctx.save_for_backward(*output)

    def backward(
        ctx: Any, grad_image_out: Tensor | None, grad_edge_out: Tensor | None
    ) -> tuple[Tensor | None, Tensor | None, None]:
        need_image, need_edge, _ = ctx.needs_input_grad
        need_image = need_image and grad_image_out is not None
        need_edge = need_edge and not (grad_image_out is None and grad_edge_out is None)
        if not (need_image or need_edge):
            return None, None, None
        grad_image, grad_edge = backward_op(
            grad_image_out,
            grad_edge_out,
            *ctx.saved_tensors,
            ctx.negative_slope,
            need_image,
            need_edge,
        )
        return grad_image if need_image else None, grad_edge if need_edge else None, None

    def backward_twice(ctx: Any, *grads: Tensor) -> None:
        # Without this, torch would take the first gradient for a constant.
        raise RuntimeError(
            "edge_transfer_lrelu is differentiable once: "
            "use impl='reference' for second derivatives"
        )

    torch.library.register_fake(f"ecgan::{name}", fake)
    torch.library.register_fake(f"ecgan::{name}_backward", fake_backward)
    torch.library.register_autograd(f"ecgan::{name}", backward, setup_context=setup_context)
    torch.library.register_autograd(f"ecgan::{name}_backward", backward_twice)


_register("edge_transfer_lrelu_triton")
if _library.CPU.loaded:
    _register("edge_transfer_lrelu")
