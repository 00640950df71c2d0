"""The similarity loss over all pairs of pixels of an image."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from ecgan_kernels import _library, reference
from ecgan_kernels._checks import (
    check_choice,
    check_device,
    check_floating,
    check_int,
    check_label_range,
    check_labels,
    check_positive,
    check_shape,
)
from ecgan_kernels._dispatch import choose


def similarity_bce(
    probs: Tensor,
    labels: Tensor,
    *,
    ignore_index: int = 255,
    eps: float = 1e-6,
    precision: str = "exact",
    reduction: str = "mean",
    impl: str = "auto",
) -> Tensor:
    r"""Binary cross entropy between predicted and true pairwise similarity of an image's pixels.

    With the class probabilities :math:`s_i` of the V valid pixels of an image,

    .. math::
        p_{ij} = \langle s_i, s_j \rangle, \qquad
        x_{ij} = \begin{cases} p_{ij} & l_i = l_j \\ 1 - p_{ij} & l_i \ne l_j \end{cases}, \qquad
        L = -\frac{1}{V^2} \sum_{i,j} \log \max(x_{ij}, \epsilon)

    over all ordered pairs, the diagonal included: the similarity loss of ECGAN, Section 3.2, where
    A = S^T S of the one-hot layout is ``l_i == l_j`` and A'' = S''^T S'' of the segmentation is p.

    Gradient: with :math:`G_{ij} = \mp \frac{1}{V^2} / \max(x_{ij}, \epsilon)`, minus where labels
    agree and plus where they differ, :math:`dL/ds_i = 2 \sum_j G_{ij} s_j`. It is not cut below
    eps, as torch's own BCE does not, so that confidently wrong pairs still pull.

    Every implementation but the reference computes the gradient together with the loss, in one
    pass over tiles of the pair matrix, and keeps it alone: memory O(B N M), about four times
    ``probs`` in float32 while the pass runs (more for few classes, which fill up SIMD vectors).
    Differentiable once.

    Args:
        probs: probabilities, float32, float16, bfloat16 or float64 [B, N, *S] with any number of
            spatial dimensions, any strides. Columns are expected to sum to 1; this is not checked.
        labels: uint8, int16, int32 or int64 [B, *S] in ``[0, N)`` or ``ignore_index``. A label out
            of range is an error on the CPU in eager mode; on other devices and under torch.compile
            such pixels count as ignored.
        ignore_index: label of the pixels that leave both rows and columns of the pair matrix. What
            ``probs`` holds there has no influence.
        eps: lower bound inside the logarithm, in (0, 1).
        precision: "exact": products of float32 grade; "fast": an implementation on tensor cores may
            take one product in the input's half type. The reference is exact either way.
        reduction: "mean" over the images with at least one valid pixel, "sum", or "none".
        impl: "auto", "cpu", "cuda", "triton" or "reference"; only "auto" may fall back.

    Returns:
        The loss in float32 (float64 for float64 ``probs``), under autocast too: a scalar, or [B]
        for "none". An image with no valid pixel gives 0.

    Raises:
        TypeError: an argument is no tensor or number where one is expected, or has an unsupported
            dtype.
        ValueError: a shape, a device or a value does not fit, a label is out of range, or an option
            is not known.
        RuntimeError: the implementation asked for by name is not available here.
    """
    check_floating("probs", probs)
    if probs.dim() < 2 or probs.shape[1] < 1:
        raise ValueError(f"probs must have shape [B, N, *S] with N > 0, not {tuple(probs.shape)}")
    check_labels("labels", labels)
    check_shape("labels", labels, (probs.shape[0], *probs.shape[2:]), "[B, *S] of probs")
    check_device("labels", labels, "probs", probs)
    check_int("ignore_index", ignore_index)
    check_positive("eps", eps, below=1)
    check_choice("precision", precision, ("exact", "fast"))
    check_choice("reduction", reduction, ("mean", "sum", "none"))
    check_label_range("labels", labels, probs.shape[1], ignore_index)
    chosen = choose("similarity_bce", impl, probs)
    if chosen == "reference":
        return reference.similarity_bce(
            probs,
            labels,
            ignore_index=ignore_index,
            eps=eps,
            precision=precision,
            reduction=reduction,
        )
    need_grad = torch.is_grad_enabled() and probs.requires_grad
    if chosen == "triton":
        run = torch.ops.ecgan.similarity_bce_triton
    else:
        run = torch.ops.ecgan.similarity_bce
    image_loss, valid, _ = run(probs, labels, ignore_index, float(eps), precision, need_grad)
    if reduction == "none":
        return image_loss
    if reduction == "sum":
        return image_loss.sum()
    return image_loss.sum() / (valid > 0).sum().clamp(min=1)


@torch.library.custom_op("ecgan::similarity_bce_triton", mutates_args=())
def _triton(
    probs: Tensor, labels: Tensor, ignore_index: int, eps: float, precision: str, need_grad: bool
) -> tuple[Tensor, Tensor, Tensor]:
    from ecgan_kernels.triton import similarity_bce as kernels

    return kernels.forward(probs, labels, ignore_index, eps, precision, need_grad)


class _NoSecondDerivative(torch.autograd.Function):
    """The identity. Without it, torch would take the saved gradient for a constant."""

    @staticmethod
    def forward(ctx: Any, grad: Tensor) -> Tensor:
        return grad.view_as(grad)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> None:
        raise RuntimeError(
            "similarity_bce is differentiable once: use impl='reference' for second derivatives"
        )


def _register(name: str) -> None:
    """Gives the op ``name`` a fake kernel and a gradient.

    Its schema is that in csrc/ops/similarity_bce.cpp. It returns each image's loss [B], its number
    of valid pixels [B] and the gradient of each image's loss [B, N, *S], of size 0 when it is not
    needed.
    """

    def fake(
        probs: Tensor,
        labels: Tensor,
        ignore_index: int,
        eps: float,
        precision: str,
        need_grad: bool,
    ) -> tuple[Tensor, Tensor, Tensor]:
        compute = torch.promote_types(probs.dtype, torch.float32)
        batch = probs.shape[0]
        return (
            probs.new_empty(batch, dtype=compute),
            probs.new_empty(batch, dtype=torch.int64),
            probs.new_empty(probs.shape if need_grad else 0, dtype=compute),
        )

    def setup_context(ctx: Any, inputs: tuple, output: tuple[Tensor, Tensor, Tensor]) -> None:
        ctx.dtype, ctx.has_grad = inputs[0].dtype, inputs[-1]
        _, valid, grad = output
        ctx.mark_non_differentiable(valid, grad)
        ctx.save_for_backward(grad)

    def backward(ctx: Any, grad_loss: Tensor, *_: None) -> tuple[Tensor | None, ...]:
        if not ctx.has_grad:
            raise RuntimeError(f"{name}: need_grad was False, so there is no gradient")
        (grad,) = ctx.saved_tensors
        scale = grad_loss.reshape(-1, *[1] * (grad.dim() - 1))
        grad_probs = (scale * grad).to(ctx.dtype)
        if torch.is_grad_enabled():  # create_graph=True
            grad_probs = _NoSecondDerivative.apply(grad_probs.detach().requires_grad_())
        return grad_probs, None, None, None, None, None

    torch.library.register_fake(f"ecgan::{name}", fake)
    torch.library.register_autograd(f"ecgan::{name}", backward, setup_context=setup_context)


_register("similarity_bce_triton")
if _library.CPU.loaded:
    _register("similarity_bce")
