"""The pixel-wise contrastive loss in plain PyTorch: the specification of pixel_contrast."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from ecgan_kernels import _autocast

_ANCHORS = 512  # at a time: their temporaries stay in cache


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
) -> Tensor:
    """Pulls embeddings of one class together and apart from the others, each positive on its own.

    Computed in float32 (float64 for float64 input), in blocks of anchors;
    autograd keeps P x Q matrices.

    Args:
        embeddings: anchors, floating [P, D].
        labels: integer [P].
        contrast: positives and negatives, floating [Q, D]; None: the anchors, self pairs excluded.
        contrast_labels: integer [Q], with ``contrast``.
        temperature: tau.
        ignore_index: label of the embeddings that take no part.
        normalize: whether embeddings are scaled to length 1 first.
        reduction: "mean" over the anchors with a positive, "sum" or "none".

    Returns:
        Scalar, or [P] for "none".
    """
    with _autocast.disabled(embeddings):
        anchors, others = embeddings, embeddings if contrast is None else contrast
        compute = torch.promote_types(anchors.dtype, torch.float32)
        anchor_labels = labels.long()
        other_labels = anchor_labels if contrast_labels is None else contrast_labels.long()
        anchor_valid, other_valid = anchor_labels != ignore_index, other_labels != ignore_index
        # A NaN in an ignored embedding would survive a gradient of zero.
        anchors = anchors.to(compute).where(anchor_valid[:, None], 0)
        others = others.to(compute).where(other_valid[:, None], 0)
        if normalize:
            anchors, others = F.normalize(anchors, dim=1), F.normalize(others, dim=1)

        position = torch.arange(len(others), device=others.device)
        losses, has_positive = [], []
        for first in range(0, max(len(anchors), 1), _ANCHORS):
            i = slice(first, first + _ANCHORS)
            same = anchor_labels[i, None] == other_labels
            valid = anchor_valid[i, None] & other_valid
            positive = same & valid
            if contrast is None:
                positive = positive & (position[i, None] != position)
            s = (anchors[i] / temperature) @ others.t()
            losses.append(_mean_over_positives(s, positive, ~same & valid))
            has_positive.append(positive.any(dim=1))
        loss = torch.cat(losses)
        if reduction == "none":
            return loss
        if reduction == "sum":
            return loss.sum()
        return loss.sum() / torch.cat(has_positive).sum().clamp(min=1)


def _mean_over_positives(s: Tensor, positive: Tensor, negative: Tensor) -> Tensor:
    """Loss of each anchor: logits s [P, Q], masks [P, Q]."""
    negatives = s.masked_fill(~negative, -torch.inf).logsumexp(dim=1, keepdim=True)
    # log(e^s / (e^s + sum_n e^s_n)) is the log-sigmoid of s - log sum_n e^s_n.
    log_share = F.logsigmoid(s - negatives).masked_fill(~positive, 0)
    return -log_share.sum(dim=1) / positive.sum(dim=1).clamp(min=1)
