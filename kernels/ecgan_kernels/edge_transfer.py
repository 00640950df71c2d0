"""Attention-guided edge transfer in one pass forward and one backward."""

from __future__ import annotations

from typing import Any, Literal

import torch
from torch import Tensor

from ecgan_kernels import _autocast, _library, reference
from ecgan_kernels._checks import check_alike, check_device, check_floating, check_shape
from ecgan_kernels._dispatch import choose

_MAX_DIMS = 8  # kMaxDims of csrc/common/strided.h


def edge_transfer(
    image: Tensor,
    edge: Tensor,
    *,
    activation: Literal["tanh"] | None = None,
    impl: str = "auto",
) -> Tensor:
    r"""Lets the edge branch decide where the image branch is amplified (Eq. 1 of the paper).

    .. math::
        y = a(x) \, (1 + \sigma(a(e))), \qquad
        \frac{\partial y}{\partial x} = (1 + \sigma(a(e))) \, a'(x), \qquad
        \frac{\partial y}{\partial e} = a(x) \, \sigma(a(e)) \, (1 - \sigma(a(e))) \, a'(e)

    with x = ``image``, e = ``edge`` and a the identity (feature level) or tanh (content level).
    Computed in float32, float64 for float64, and rounded once. Only ``image`` and ``edge`` are kept
    for the backward pass. Differentiable once. Under autocast, inputs of different dtypes are
    promoted to the wider one, as ``torch.mul`` does, and else the inputs' dtype is kept.

    Args:
        image: [*S] float32, float16, bfloat16 or float64, any strides, at most 8 dimensions.
        edge: [*S] of the same shape, dtype and device. A single-channel edge map may come as
            ``edge.expand_as(image)``, which is read in place.
        activation: None, or "tanh" on both inputs first; the result then lies in (-1.74, 1.74).
        impl: "auto" for the best that is there, or "cpu", "cuda", "triton" or "reference", which
            never fall back. float64 on a GPU runs as the reference.

    Returns:
        [*S] in the inputs' dtype and the memory format of ``image``.

    Raises:
        TypeError: ``image`` or ``edge`` is not a floating tensor, or their dtypes differ outside
            autocast.
        ValueError: shapes or devices differ, too many dimensions, or an unknown ``activation`` or
            ``impl``.
        RuntimeError: ``impl`` names an implementation that cannot run on these tensors.
    """
    image, edge = check_operands(image, edge)
    if activation is not None and (not isinstance(activation, str) or activation != "tanh"):
        found = repr(activation) if isinstance(activation, str) else type(activation).__name__
        raise ValueError(f"activation must be None or 'tanh', not {found}")

    chosen = choose("edge_transfer", impl, image)
    if chosen == "reference":
        return reference.edge_transfer(image, edge, activation=activation)
    if chosen == "triton":
        return torch.ops.ecgan.edge_transfer_triton(image, edge, activation or "none")
    return torch.ops.ecgan.edge_transfer(image, edge, activation or "none")


def check_operands(image: Tensor, edge: Tensor) -> tuple[Tensor, Tensor]:
    """Checks ``image`` and ``edge`` as edge transfer takes them; under autocast, promotes them.

    Raises:
        TypeError: not a floating tensor, or dtypes that differ outside autocast.
        ValueError: shapes or devices differ, or there are too many dimensions.
    """
    check_floating("image", image)
    check_floating("edge", edge)
    check_shape("edge", edge, image.shape, "that of image")
    if image.dim() > _MAX_DIMS:
        raise ValueError(f"image must have at most {_MAX_DIMS} dimensions, not {image.dim()}")
    if _autocast.enabled(image):
        check_device("edge", edge, "image", image)
        wider = torch.promote_types(image.dtype, edge.dtype)
        return image.to(wider), edge.to(wider)
    check_alike("edge", edge, "image", image)
    return image, edge


@torch.library.custom_op("ecgan::edge_transfer_triton", mutates_args=())
def _triton(image: Tensor, edge: Tensor, activation: str) -> Tensor:
    from ecgan_kernels.triton import edge_transfer as kernels

    return kernels.forward(image, edge, activation)


@torch.library.custom_op("ecgan::edge_transfer_triton_backward", mutates_args=())
def _triton_backward(
    grad: Tensor, image: Tensor, edge: Tensor, activation: str, need_image: bool, need_edge: bool
) -> tuple[Tensor, Tensor]:
    from ecgan_kernels.triton import edge_transfer as kernels

    grad_image, grad_edge = kernels.backward(grad, image, edge, activation, need_image, need_edge)
    return (
        image.new_empty(0) if grad_image is None else grad_image,
        edge.new_empty(0) if grad_edge is None else grad_edge,
    )


def _register(name: str) -> None:
    """Gives the op ``name`` and its sibling ``<name>_backward`` fake kernels and a gradient.

    Both have the arguments of the schemas in csrc/ops/edge_transfer.cpp. The sibling returns a
    tensor of size 0 for a gradient that is not needed.
    """
    backward_op = getattr(torch.ops.ecgan, f"{name}_backward")

    def fake(image: Tensor, edge: Tensor, activation: str) -> Tensor:
        return torch.empty_like(image)

    def fake_backward(
        grad: Tensor,
        image: Tensor,
        edge: Tensor,
        activation: str,
        need_image: bool,
        need_edge: bool,
    ) -> tuple[Tensor, Tensor]:
        return (
            torch.empty_like(image) if need_image else image.new_empty(0),
            torch.empty_like(edge) if need_edge else edge.new_empty(0),
        )

    def setup_context(ctx: Any, inputs: tuple[Tensor, Tensor, str], output: Tensor) -> None:
        image, edge, ctx.activation = inputs
        ctx.save_for_backward(image, edge)

    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, Tensor | None, None]:
        need_image, need_edge, _ = ctx.needs_input_grad
        grad_image, grad_edge = backward_op(
            grad, *ctx.saved_tensors, ctx.activation, need_image, need_edge
        )
        return grad_image if need_image else None, grad_edge if need_edge else None, None

    def backward_twice(ctx: Any, *grads: Tensor) -> None:
        # Without this, torch would take the first gradient for a constant.
        raise RuntimeError(
            "edge_transfer is differentiable once: use impl='reference' for second derivatives"
        )

    torch.library.register_fake(f"ecgan::{name}", fake)
    torch.library.register_fake(f"ecgan::{name}_backward", fake_backward)
    torch.library.register_autograd(f"ecgan::{name}", backward, setup_context=setup_context)
    torch.library.register_autograd(f"ecgan::{name}_backward", backward_twice)


_register("edge_transfer_triton")
if _library.CPU.loaded:
    _register("edge_transfer")
