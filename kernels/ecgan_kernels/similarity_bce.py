"""The similarity loss over all pairs of pixels of an image."""

from __future__ import annotations

from torch import Tensor

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
from ecgan_kernels.reference.similarity_bce import similarity_bce as _reference

_IMPLEMENTATIONS = {"reference": _reference}


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
    run = _IMPLEMENTATIONS[choose("similarity_bce", impl, probs)]
    return run(
        probs,
        labels,
        ignore_index=ignore_index,
        eps=eps,
        precision=precision,
        reduction=reduction,
    )
