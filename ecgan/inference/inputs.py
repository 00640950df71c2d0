"""What users hand over as label map, photo or seed, made into what the networks take."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from ecgan.config import ModelConfig
from ecgan.data import instance_edges
from ecgan.data.classes import ClassTable
from ecgan.data.transforms import resize_nearest
from ecgan.errors import ConfigError, DataError
from ecgan.models import Layout

Labels = Tensor | NDArray[np.integer] | Image.Image
"""Ids [H, W] or [B, H, W]."""
Photo = Image.Image | NDArray[np.uint8]
"""A Pillow image or uint8 [h, w, 3]."""


def label_array(labels: Labels, what: str = "labels") -> NDArray[np.integer]:
    """Ids as an array [B, H, W].

    Raises:
        DataError: they are no integers or have another shape.
    """
    array: NDArray[Any] = labels.cpu().numpy() if isinstance(labels, Tensor) else np.asarray(labels)
    colours = isinstance(labels, Image.Image) and array.ndim == 3
    if array.ndim not in (2, 3) or array.size == 0 or colours:
        found = list(array.shape)
        raise DataError(f"{what} must be ids of shape [H, W] or [B, H, W], not {found}")
    if array.dtype.kind not in "iu":
        raise DataError(f"{what} must be integers, not {array.dtype}")
    return array if array.ndim == 3 else array[None]


def layout_of(
    labels: NDArray[np.integer],
    instances: Labels | None,
    classes: ClassTable,
    cfg: ModelConfig,
    size: tuple[int, int] | None,
) -> Layout:
    """The conditioning input of label maps in file ids [B, H, W].

    Args:
        labels: see :func:`label_array`.
        instances: instance ids of the same shape; required with instance edges.
        classes: maps the ids.
        cfg: networks' settings.
        size: height and width to resize to by nearest neighbour; None: as they are.

    Raises:
        DataError: an unknown id, or instances of another shape.
        ConfigError: the model wants instances and there are none.
    """
    size = size or labels.shape[1:]
    canonical = np.stack([resize_nearest(one, size) for one in classes.canonical(labels)])
    boundaries = None
    if cfg.instance_edges:
        if instances is None:
            raise ConfigError("this model was trained with instance edges: give instances")
        ids = label_array(instances, "instances")
        if ids.shape != labels.shape:
            raise DataError(f"instances have shape {ids.shape}: expected that of the labels, "
                            f"{labels.shape}")  # fmt: skip
        edges = np.stack([instance_edges(resize_nearest(one, size)) for one in ids])
        boundaries = torch.from_numpy(edges)[:, None]
    return Layout(
        torch.from_numpy(canonical),
        cfg.num_classes,
        void_channel=cfg.void_channel,
        instance_edges=boundaries,
    )


def photo_tensor(photo: Photo) -> Tensor:
    """A photo as float32 [1, 3, h, w] in [-1, 1].

    Raises:
        DataError: it is neither a Pillow image nor uint8 [h, w, 3].
    """
    if isinstance(photo, Image.Image):
        photo = np.array(photo.convert("RGB"))
    photo = np.asarray(photo)
    if photo.ndim != 3 or photo.shape[2] != 3 or photo.dtype != np.uint8 or photo.size == 0:
        raise DataError(
            f"a style photo must be uint8 [h, w, 3], not {photo.dtype} {list(photo.shape)}"
        )
    tensor = torch.from_numpy(np.ascontiguousarray(photo))
    return tensor.permute(2, 0, 1)[None].float() / 127.5 - 1


def seeds_of(seed: int | Sequence[int], count: int) -> list[int]:
    """One seed an item of a batch.

    Raises:
        ValueError: there are fewer or more seeds than items.
    """
    if isinstance(seed, int):
        return [seed + i for i in range(count)]
    seeds = [int(each) for each in seed]
    if len(seeds) != count:
        raise ValueError(f"seed must be an int or {count} of them, one a label map, "
                         f"not {len(seeds)}")  # fmt: skip
    return seeds
