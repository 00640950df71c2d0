"""The pixel-wise contrastive loss across layouts."""

from __future__ import annotations

from torch import Tensor

from ecgan_kernels._checks import (
    check_choice,
    check_device,
    check_floating,
    check_int,
    check_labels,
    check_positive,
    check_shape,
)
from ecgan_kernels._dispatch import choose
from ecgan_kernels.reference.pixel_contrast import pixel_contrast as _reference

_IMPLEMENTATIONS = {"reference": _reference}


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

    Args:
        embeddings: anchors, float32, float16, bfloat16 or float64 [P, D], any strides.
        labels: uint8, int16, int32 or int64 [P]. Any value but ``ignore_index`` is a class.
        contrast: floating [Q, D], the contrast set; None: the anchors, without self pairs.
        contrast_labels: integer [Q]; given exactly when ``contrast`` is.
        temperature: tau, greater than 0. Finite results are kept down to 0.01.
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
    check_int("ignore_index", ignore_index)
    check_choice("reduction", reduction, ("mean", "sum", "none"))
    run = _IMPLEMENTATIONS[choose("pixel_contrast", impl, embeddings)]
    return run(
        embeddings,
        labels,
        contrast=contrast,
        contrast_labels=contrast_labels,
        temperature=temperature,
        ignore_index=ignore_index,
        normalize=normalize,
        reduction=reduction,
    )
