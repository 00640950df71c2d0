"""From the tensors of published checkpoints to ours: spectral norms folded, channels reordered."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor
from torch.nn import functional as F

from ecgan.errors import ConfigError, WeightsError

LabelOrder = Literal["auto", "none", "shifted", "unshifted", "coco_plus1"]
"""How a checkpoint numbers the channels of its label maps.

none: class c is channel c and void has none; shifted: the same and void comes last; unshifted:
void is channel 0 and class c channel c + 1 (ADE20K's ids as they are in its files); coco_plus1: the
same order, as OASIS makes it for COCO-Stuff.
"""


@dataclass
class LabelChannels:
    """The label channels of a checkpoint, in our order of classes, void, instance edges."""

    void_channel: bool
    instance_edges: bool
    columns: list[int]
    """The checkpoint's channel for each of ours."""


def label_channels(what: str, channels: int, num_classes: int, order: LabelOrder) -> LabelChannels:
    """Reads a number of label channels as an order of them.

    Args:
        what: the network, for messages.
        channels: label channels of the checkpoint.
        num_classes: classes N of the data set.
        order: how they are numbered; auto: one channel a class and nothing else.

    Raises:
        ConfigError: so many channels do not suit N classes in that order.
    """
    if order == "auto":
        if channels != num_classes:
            raise ConfigError(
                f"{what} takes {channels} label channels and the data set has {num_classes} "
                "classes: set label_order to none, shifted, unshifted or coco_plus1"
            )
        order = "none"
    void = order != "none"
    edges = channels - num_classes - void
    if edges not in (0, 1):
        raise ConfigError(
            f"{what} takes {channels} label channels, but label_order {order} with {num_classes} "
            f"classes means {num_classes + void}, or {num_classes + void + 1} with instance edges"
        )
    first = int(order in ("unshifted", "coco_plus1"))
    columns = list(range(first, first + num_classes))
    if void:
        columns.append(0 if first else num_classes)
    if edges:
        columns.append(channels - 1)
    return LabelChannels(void, bool(edges), columns)


def fold_spectral_norms(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """Replaces ``weight_orig`` and its vectors by the weight that evaluation mode uses.

    torch divides by ``u^T W v`` of the stored vectors. Its first releases kept no v but the
    normalised weight itself; where a file has neither, v is the one that belongs to u.

    Raises:
        WeightsError: a weight without its vectors.
    """
    folded = {
        key: value
        for key, value in state.items()
        if not key.endswith((".weight_orig", ".weight_u", ".weight_v"))
    }
    for key, value in state.items():
        stem, found, _ = key.partition(".weight_orig")
        target = f"{stem}.weight"
        if not found or target in folded:
            continue
        u, v = state.get(f"{stem}.weight_u"), state.get(f"{stem}.weight_v")
        rows, columns = (len(value), value[0].numel()) if value.dim() > 1 else (0, 0)
        if u is None or u.shape != (rows,) or (v is not None and v.shape != (columns,)):
            raise WeightsError(
                f"the weights hold {key!r} of shape {list(value.shape)} without the vectors of its "
                f"spectral norm: expected {stem + '.weight_u'!r} [{rows}]"
            )
        matrix = value.flatten(1)
        if v is None:
            v = F.normalize(matrix.T @ u, dim=0)
        folded[target] = value / torch.dot(u, matrix @ v)
    return folded


def reorder_inputs(
    state: dict[str, Tensor], endings: Sequence[str], columns: Sequence[int]
) -> dict[str, Tensor]:
    """Takes the input channels ``columns`` of every convolution whose key ends so.

    One with another number of channels is left as it is, for loading to refuse it by name.
    """

    def reordered(key: str, value: Tensor) -> Tensor:
        fits = value.dim() == 4 and value.shape[1] == len(columns)
        if not key.endswith(tuple(endings)) or not fits:
            return value
        return value[:, list(columns)].contiguous()

    return {key: reordered(key, value) for key, value in state.items()}
