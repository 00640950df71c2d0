"""Pairs of label map and photo as tensors."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from typing import Any, Literal

import cv2
import numpy as np
import torch
from numpy.typing import NDArray
from torch.utils.data import Dataset

from ecgan.config import DatasetConfig, parse_size
from ecgan.data.edges import EdgeExtractor, EdgeSource
from ecgan.data.faults import Fault, faulty_pairs, raise_first, shown
from ecgan.data.formats import check_num_classes, find_root, recognise, take_inventory
from ecgan.data.scenes import SCENE_CLASSES
from ecgan.data.sources import SPLIT_SEED, FileSource, Pair, PairSource, SceneSource
from ecgan.data.transforms import Size, Window, instance_edges, resize_bicubic, resize_nearest
from ecgan.data.validation import Progress, check_pairs
from ecgan.errors import ConfigError, DataError

_MAX_TRIES = 100  # Faulty pairs in a row after which skipping them gives up.


class PairDataset(Dataset[dict[str, Any]]):
    """Label maps and photos as ECGAN takes them.

    An item is a dict without batch axis:

    - ``labels``: int64 [H, W], classes 0..N-1 and void N;
    - ``image``: float32 [3, H, W] in [-1, 1];
    - ``edge``: float32 [1, H, W] in [-1, 1];
    - ``instance_edges``: float32 [1, H, W] of 0 and 1, if configured;
    - ``name``: str;
    - ``replaced``: str, the name of the faulty pair whose place this one takes, or empty.

    A pair that cannot be used raises a DataError or, where ``cfg.faults`` is ``skip``, gives its
    place in the epoch, and its random numbers, to the next sound pair.

    The dataset keeps no state: item ``epoch * len(dataset) + index`` is pair ``index`` augmented
    with random numbers that depend on (seed, split, epoch, index) alone. A sampler that counts on
    through the epochs gets fresh crops and mirrorings, and a resumed run the ones it would have
    had. Iterating gives epoch 0.

    Edges are computed after resizing and before the crop, so that a cached map serves every crop.

    Args:
        source: pairs.
        cfg: preparation.
        size: height and width of the items.
        split: ``train`` augments.
        name: the data set's, for messages and file names.
        seed: of the augmentation.
        extractor: network for ``cfg.edges.method == "hed"``.
        faults: what was already found wrong; `validate` reports it.

    Raises:
        ConfigError: settings that cannot work.
    """

    def __init__(
        self,
        source: PairSource,
        cfg: DatasetConfig,
        size: Size,
        split: Literal["train", "val"],
        *,
        name: str,
        seed: int = 1,
        extractor: EdgeExtractor | None = None,
        faults: list[Fault] | None = None,
    ) -> None:
        # OpenCV's thread pool does not survive the fork of loading processes.
        cv2.setNumThreads(0)
        self.source = source
        self.cfg = cfg
        self.size = size
        self.split = split
        self.name = name
        self.seed = seed
        self.num_classes = len(source.classes)
        self.class_names = list(source.classes.names)
        self.palette = source.classes.palette
        self._edges = EdgeSource(cfg.edges, extractor)
        self._faults = faults or []
        self._load_size = size
        if cfg.resize == "scale_crop" and split == "train":
            self._load_size = parse_size(cfg.load_size)
            if self._load_size[0] < size[0] or self._load_size[1] < size[1]:
                raise ConfigError(
                    f"dataset.load_size {cfg.load_size} is smaller than size {size[0]}x{size[1]}: "
                    "expected at least as many rows and columns"
                )

    def __len__(self) -> int:
        return len(self.source)

    def __iter__(self) -> Iterator[dict[str, Any]]:
        return (self[index] for index in range(len(self)))

    def __getitem__(self, position: int) -> dict[str, Any]:
        """Item ``index`` of ``epoch``, ``position = epoch * len(self) + index``.

        Raises:
            DataError: the pair is faulty and may not, or cannot, be replaced.
        """
        if position < 0:
            raise IndexError(f"position {position}: expected at least 0")
        epoch, index = divmod(position, len(self))
        found, pair = self._load(index)
        name = self.source.name(found)
        window = self._window(epoch, index)

        image = resize_bicubic(pair.image, self._load_size)
        if pair.edges is not None:
            edge = resize_bicubic(pair.edges, self._load_size)
        else:
            edge = self._edges(image, pair.identity)
        labels = window(resize_nearest(pair.labels, self._load_size))
        item = {
            "labels": torch.from_numpy(np.ascontiguousarray(labels)),
            "image": _signed(window(image).transpose(2, 0, 1)),
            "edge": _signed(window(edge)[None]),
            "name": name,
            "replaced": "" if found == index else self.source.name(index),
        }
        if self.cfg.instance_edges:
            if pair.instances is None:
                raise DataError(f"{shown(name)} has no instance map")
            ids = window(resize_nearest(pair.instances, self._load_size))
            item["instance_edges"] = torch.from_numpy(instance_edges(ids).astype(np.float32))[None]
        return item

    def _load(self, index: int) -> tuple[int, Pair]:
        """The pair at ``index``, or the next sound one if configured, and its index.

        What is sound is read from the files each time, so that an item depends on nothing that
        happened before: neither on a check nor on which process loaded which pair.
        """
        if self.cfg.faults == "refuse":
            return index, self.source.load(index, self._load_size)
        tries = min(len(self), _MAX_TRIES)
        first = ""
        for step in range(tries):
            candidate = (index + step) % len(self)
            try:
                return candidate, self.source.load(candidate, self._load_size)
            except DataError as error:
                first = first or str(error)
        raise DataError(
            f"{tries} faulty pairs in a row from {shown(self.source.name(index))} on: expected a "
            f"sound one to replace them; {first}"
        )

    def _window(self, epoch: int, index: int) -> Window:
        if self.split == "val":
            return Window.whole(self.size)
        rng = np.random.default_rng((self.seed, SPLIT_SEED[self.split], epoch, index))
        return Window.draw(rng, self._load_size, self.size, self.cfg.flip)

    def faults(self, progress: Progress | None = None, limit: int = 0) -> list[Fault]:
        """Everything wrong with the files: those without a partner, then pair by pair.

        Every file is decoded: about 20 ms a pair and core for COCO-Stuff's sizes.

        Args:
            progress: called with the number of pairs done and the number of all.
            limit: decode that many pairs, evenly spread; 0 decodes all.
        """
        if not isinstance(self.source, FileSource):
            return []
        found = check_pairs(self.source.pairs, self.source.classes, progress, limit)
        return self._faults + [dataclasses.replace(fault, split=self.split) for fault in found]

    def validate(self, progress: Progress | None = None, limit: int = 0) -> list[Fault]:
        """Refuses a faulty data set; call it before training.

        Args:
            progress: as in `faults`.
            limit: as in `faults`.

        Returns:
            The faults that ``cfg.faults`` ``skip`` puts up with; ``refuse`` puts up with none.

        Raises:
            DataError: one sentence that names the first faulty file, what is wrong with it and
                what was expected; with ``skip`` only if more than half of the pairs are faulty.
        """
        faults = self.faults(progress, limit)
        if self.cfg.faults == "refuse":
            raise_first(faults)
        spoilt, checked = faulty_pairs(faults), min(limit or len(self), len(self))
        if 2 * spoilt > checked:
            first = next(fault.message for fault in faults if fault.pair)
            raise DataError(
                f"{spoilt} of {checked} {self.split} pairs are faulty: expected at most half, the "
                f"others would take their places too often; {first}"
            )
        return faults

    def fill_edge_cache(self, progress: Progress | None = None) -> None:
        """Computes every edge map once, in this process; for networks such as HED.

        Without a cache folder this does nothing.
        """
        if not self.cfg.edges.cache:
            return
        for index in range(len(self)):
            _, pair = self._load(index)
            if pair.edges is None:
                self._edges(resize_bicubic(pair.image, self._load_size), pair.identity)
            if progress is not None:
                progress(index + 1, len(self))


def _signed(array: NDArray[np.uint8]) -> torch.Tensor:
    """uint8 0..255 to float32 [-1, 1]."""
    return torch.from_numpy(np.ascontiguousarray(array)).float().div_(127.5).sub_(1.0)


def build_dataset(
    cfg: DatasetConfig,
    root: str,
    size: Size,
    split: Literal["train", "val"],
    *,
    seed: int = 1,
    extractor: EdgeExtractor | None = None,
    strict: bool = True,
) -> PairDataset:
    """Opens a data set.

    Args:
        cfg: format and preparation.
        root: folder, or ``scenes`` for the built-in set.
        size: height and width of the items.
        split: ``train`` (augmented) or ``val``.
        seed: of the augmentation, and of the scenes themselves.
        extractor: HED, where ``cfg.edges.method`` asks for it.
        strict: refuse files without a partner at once, unless ``cfg.faults`` is ``skip``. Otherwise
            they are left to `PairDataset.faults`, and the items are the complete pairs.

    Raises:
        ConfigError: settings that contradict the data set or each other.
        DataError: no data set there, or (``strict``) files without a partner.
    """
    if cfg.format == "scenes" or (cfg.format == "auto" and root == "scenes"):
        check_num_classes(cfg.num_classes, SCENE_CLASSES, "scenes")
        if cfg.scenes < 1:
            raise ConfigError(f"dataset.scenes is {cfg.scenes}: expected at least 1")
        # Validation scenes are drawn from a stream of their own.
        length = cfg.scenes if split == "train" else max(1, cfg.scenes // 10)
        source: PairSource = SceneSource(length, seed, split)
        return PairDataset(source, cfg, size, split, name="scenes", seed=seed, extractor=extractor)

    folder = find_root(root)
    data_format = recognise(folder) if cfg.format == "auto" else cfg.format
    assert data_format != "scenes"
    inventory = take_inventory(
        data_format, folder, split, num_classes=cfg.num_classes, instances=cfg.instance_edges
    )
    if strict and cfg.faults == "refuse":
        raise_first(inventory.faults)
    if not inventory.pairs:
        raise DataError(f"{shown(folder)} has no complete pair for {split}: expected at least one")
    return PairDataset(
        FileSource(inventory.pairs, inventory.classes),
        cfg,
        size,
        split,
        name=folder.resolve().name,
        seed=seed,
        extractor=extractor,
        faults=inventory.faults,
    )
