"""The pixel-wise contrastive loss across layouts."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from ecgan_kernels import _autocast, _library, reference
from ecgan_kernels._checks import (
    check_bool,
    check_choice,
    check_device,
    check_floating,
    check_int,
    check_labels,
    check_positive,
    check_shape,
)
from ecgan_kernels._dispatch import choose

_LEAST_TEMPERATURE = 1e-30  # its reciprocal is a float32


def pixel_contrast(
    embeddings: Tensor,
    labels: Tensor,
    *,
    contrast: Tensor | None = None,
    contrast_labels: Tensor | None = None,
    temperature: float = 0.07,
    ignore_index: int = 255,
    normalize: bool = True,
    reduction: str = "mean",
    impl: str = "auto",
) -> Tensor:
    r"""Supervised pixel-to-pixel contrast in which every positive has a denominator of its own.

    With :math:`s_{ij} = \langle z_i, z_j \rangle / \tau`, the positives :math:`P_i` (same label)
    and the negatives :math:`N_i` (other labels) of anchor i among the contrast set,

    .. math::
        L_i = \frac{1}{|P_i|} \sum_{p \in P_i}
        -\log \frac{e^{s_{ip}}}{e^{s_{ip}} + \sum_{n \in N_i} e^{s_{in}}}

    (ECGAN, Section 3.3; the other positives are not in the denominator, unlike in SupCon.) Anchors,
    positives and negatives may come from different layouts.

    Gradient: with :math:`q_{ip} = \sum_{N_i} e^{s_{in}} / (e^{s_{ip}} + \sum_{N_i} e^{s_{in}})`,
    :math:`\partial L_i / \partial s_{ip} = -q_{ip} / |P_i|` and
    :math:`\partial L_i / \partial s_{in} = \mathrm{softmax}_{N_i}(s_i)_n \,
    \frac{1}{|P_i|} \sum_p q_{ip}`; it reaches ``embeddings`` and ``contrast``.
    Every implementation but the reference works on tiles of the pair matrix, and keeps the
    normalised embeddings and three numbers an anchor, O((P + Q) D); the backward pass computes the
    tiles again. Differentiable once.

    Args:
        embeddings: anchors, float32, float16, bfloat16 or float64 [P, D], any strides.
        labels: uint8, int16, int32 or int64 [P]. Any value but ``ignore_index`` is a class.
        contrast: floating [Q, D], the contrast set; None: the anchors, without self pairs.
        contrast_labels: integer [Q]; given exactly when ``contrast`` is.
        temperature: tau, at least 1e-30. Finite results are kept down to 0.01.
        ignore_index: label of the anchors and of the members of the contrast set that take no part,
            whatever their embeddings hold.
        normalize: whether embeddings are scaled to unit length first, as torch's F.normalize does.
        reduction: "mean" over the anchors with at least one positive, "sum", or "none".
        impl: "auto", "cpu", "cuda", "triton" or "reference"; only "auto" may fall back.

    Returns:
        The loss in float32 (float64 for float64 ``embeddings``), under autocast too: a scalar, or
        [P] for "none". An anchor without positives is skipped (0 in "none"), one without negatives
        gives 0; if no anchor has a positive the loss is 0 and so are the gradients.

    Raises:
        TypeError: an argument is no tensor or number where one is expected, or has an unsupported
            dtype.
        ValueError: a shape, a device or a value does not fit, only one of ``contrast`` and
            ``contrast_labels`` is given, or an option is not known.
        RuntimeError: the implementation asked for by name is not available here.
    """
    check_floating("embeddings", embeddings, dims=2)
    check_labels("labels", labels)
    check_shape("labels", labels, embeddings.shape[:1], "[P] of embeddings")
    check_device("labels", labels, "embeddings", embeddings)
    if (contrast is None) != (contrast_labels is None):
        raise ValueError("contrast and contrast_labels must be given together or not at all")
    if contrast is not None and contrast_labels is not None:
        check_floating("contrast", contrast, dims=2)
        expected = (contrast.shape[0], embeddings.shape[1])
        check_shape("contrast", contrast, expected, "[Q, D of embeddings]")
        check_device("contrast", contrast, "embeddings", embeddings)
        check_labels("contrast_labels", contrast_labels)
        check_shape("contrast_labels", contrast_labels, contrast.shape[:1], "[Q] of contrast")
        check_device("contrast_labels", contrast_labels, "embeddings", embeddings)
    check_positive("temperature", temperature)
    if temperature < _LEAST_TEMPERATURE:
        raise ValueError(f"temperature must be at least {_LEAST_TEMPERATURE}, not {temperature}")
    check_bool("normalize", normalize)
    check_int("ignore_index", ignore_index)
    check_choice("reduction", reduction, ("mean", "sum", "none"))
    chosen = choose("pixel_contrast", impl, embeddings)
    if chosen == "reference":
        return reference.pixel_contrast(
            embeddings,
            labels,
            contrast=contrast,
            contrast_labels=contrast_labels,
            temperature=temperature,
            ignore_index=ignore_index,
            normalize=normalize,
            reduction=reduction,
        )
    with _autocast.disabled(embeddings):
        compute = torch.promote_types(embeddings.dtype, torch.float32)
        anchors = others = _prepare(embeddings, labels, ignore_index, normalize, compute)
        other_labels = labels
        if contrast is not None and contrast_labels is not None:
            others = _prepare(contrast, contrast_labels, ignore_index, normalize, compute)
            other_labels = contrast_labels
        need_grad = torch.is_grad_enabled() and (anchors.requires_grad or others.requires_grad)
        if chosen == "triton":
            run = torch.ops.ecgan.pixel_contrast_triton
        else:
            run = torch.ops.ecgan.pixel_contrast
        loss, positives, _, _ = run(
            anchors,
            labels,
            others,
            other_labels,
            contrast is None,
            float(temperature),
            ignore_index,
            need_grad,
        )
        if reduction == "none":
            return loss
        if reduction == "sum":
            return loss.sum()
        return loss.sum() / (positives > 0).sum().clamp(min=1)


def _prepare(
    z: Tensor, labels: Tensor, ignore_index: int, normalize: bool, compute: torch.dtype
) -> Tensor:
    """Embeddings [P, D] in ``compute``, 0 where ignored, scaled to length 1 if wanted."""
    z = z.to(compute)
    # A NaN in an ignored embedding would survive the gradient of zero that it gets.
    z = z.where((labels.long() != ignore_index)[:, None], 0)
    return F.normalize(z, dim=1) if normalize else z


@torch.library.custom_op("ecgan::pixel_contrast_triton", mutates_args=())
def _triton(
    embeddings: Tensor,
    labels: Tensor,
    contrast: Tensor,
    contrast_labels: Tensor,
    same_set: bool,
    temperature: float,
    ignore_index: int,
    need_grad: bool,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    from ecgan_kernels.triton import pixel_contrast as kernels

    return kernels.forward(
        embeddings,
        labels,
        contrast,
        contrast_labels,
        same_set,
        temperature,
        ignore_index,
        need_grad,
    )


@torch.library.custom_op("ecgan::pixel_contrast_triton_backward", mutates_args=())
def _triton_backward(
    grad: Tensor,
    embeddings: Tensor,
    labels: Tensor,
    contrast: Tensor,
    contrast_labels: Tensor,
    same_set: bool,
    temperature: float,
    ignore_index: int,
    positives: Tensor,
    negative_lse: Tensor,
    pull: Tensor,
    need_embeddings: bool,
    need_contrast: bool,
) -> tuple[Tensor, Tensor]:
    from ecgan_kernels.triton import pixel_contrast as kernels

    grad_embeddings, grad_contrast = kernels.backward(
        grad,
        embeddings,
        labels,
        contrast,
        contrast_labels,
        same_set,
        temperature,
        ignore_index,
        positives,
        negative_lse,
        pull,
        need_embeddings,
        need_contrast,
    )
    return (
        embeddings.new_empty((0, 0)) if grad_embeddings is None else grad_embeddings,
        contrast.new_empty((0, 0)) if grad_contrast is None else grad_contrast,
    )


def _register(name: str) -> None:
    """Gives the op ``name`` and its sibling ``<name>_backward`` fake kernels and a gradient.

    Both have the schemas in csrc/ops/pixel_contrast.cpp.
    """
    backward_op = getattr(torch.ops.ecgan, f"{name}_backward")

    def fake(
        embeddings: Tensor,
        labels: Tensor,
        contrast: Tensor,
        contrast_labels: Tensor,
        same_set: bool,
        temperature: float,
        ignore_index: int,
        need_grad: bool,
    ) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        count = embeddings.shape[0]
        return (
            embeddings.new_empty(count),
            embeddings.new_empty(count, dtype=torch.int64),
            embeddings.new_empty(count),
            embeddings.new_empty(count if need_grad else 0),
        )

    def fake_backward(
        grad: Tensor,
        embeddings: Tensor,
        labels: Tensor,
        contrast: Tensor,
        contrast_labels: Tensor,
        same_set: bool,
        temperature: float,
        ignore_index: int,
        positives: Tensor,
        negative_lse: Tensor,
        pull: Tensor,
        need_embeddings: bool,
        need_contrast: bool,
    ) -> tuple[Tensor, Tensor]:
        return (
            embeddings.new_empty(embeddings.shape if need_embeddings else (0, 0)),
            contrast.new_empty(contrast.shape if need_contrast and not same_set else (0, 0)),
        )

    def setup_context(ctx: Any, inputs: tuple, output: tuple[Tensor, ...]) -> None:
        *tensors, ctx.same_set, ctx.temperature, ctx.ignore_index, ctx.has_grad = inputs
        _, positives, negative_lse, pull = output
        ctx.mark_non_differentiable(positives, negative_lse, pull)
        ctx.save_for_backward(*tensors, positives, negative_lse, pull)

    def backward(ctx: Any, grad: Tensor, *_: None) -> tuple[Tensor | None, ...]:
        if not ctx.has_grad:
            raise RuntimeError(f"{name}: need_grad was False, so there is no gradient")
        *tensors, positives, negative_lse, pull = ctx.saved_tensors
        need_embeddings, _, need_contrast, *_ = ctx.needs_input_grad
        need_contrast = need_contrast and not ctx.same_set
        grad_embeddings, grad_contrast = backward_op(
            grad,
            *tensors,
            ctx.same_set,
            ctx.temperature,
            ctx.ignore_index,
            positives,
            negative_lse,
            pull,
            need_embeddings,
            need_contrast,
        )
        # Of one set, the whole gradient goes to the first argument.
        return (
            grad_embeddings if need_embeddings else None,
            None,
            grad_contrast if need_contrast else None,
            *[None] * 5,
        )

    def backward_twice(ctx: Any, *grads: Tensor) -> None:
        # Without this, torch would take the first gradient for a constant.
        raise RuntimeError(
            "pixel_contrast is differentiable once: use impl='reference' for second derivatives"
        )

    torch.library.register_fake(f"ecgan::{name}", fake)
    torch.library.register_fake(f"ecgan::{name}_backward", fake_backward)
    torch.library.register_autograd(f"ecgan::{name}", backward, setup_context=setup_context)
    torch.library.register_autograd(f"ecgan::{name}_backward", backward_twice)


_register("pixel_contrast_triton")
if _library.CPU.loaded:
    _register("pixel_contrast")
