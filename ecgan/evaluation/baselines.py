"""Baselines of Table 2 from their published checkpoints, as systems."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

import torch

from ecgan.data import PairDataset
from ecgan.data.classes import ADE20K, CITYSCAPES, COCO_STUFF
from ecgan.evaluation.systems import NetworkSystem
from ecgan.models.importers import LabelOrder, load_oasis, load_spade
from ecgan.models.pretrained import file_sha256

Kind = Literal["spade", "oasis"]

# How the published models number the channels of their label maps.
_ORDERS: dict[tuple[str, ...], dict[Kind, LabelOrder]] = {
    CITYSCAPES.names: {"spade": "none", "oasis": "none"},
    ADE20K.names: {"spade": "unshifted", "oasis": "unshifted"},
    COCO_STUFF.names: {"spade": "shifted", "oasis": "coco_plus1"},
}


def load_baseline(
    kind: Kind,
    name: str,
    path: Path,
    data: PairDataset,
    label_order: LabelOrder,
    device: torch.device,
) -> NetworkSystem:
    """A published generator as a system that works at the data set's size.

    Args:
        kind: whose it is.
        name: the row's.
        path: its file.
        data: the pairs that it will be evaluated on.
        label_order: order of its label channels; auto knows the three published data sets.
        device: where it computes.

    Raises:
        WeightsError: the file is no such checkpoint.
        ConfigError: it does not suit the data set or the size.
    """
    if label_order == "auto":
        label_order = _ORDERS.get(tuple(data.class_names), {}).get(kind, "auto")
    load = load_spade if kind == "spade" else load_oasis
    network = load(
        path, data.num_classes, f"{data.size[0]}x{data.size[1]}", label_order=label_order
    )
    return NetworkSystem(name, str(path), network.to(device), file_sha256(path), None, device)
