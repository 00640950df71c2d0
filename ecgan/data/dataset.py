"""Pairs of label map and photo as tensors."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Literal, Protocol

import cv2
import numpy as np
import torch
from numpy.typing import NDArray
from torch.utils.data import Dataset

from ecgan.config import DatasetConfig, parse_size
from ecgan.data.classes import ClassTable
from ecgan.data.edges import EdgeExtractor, EdgeSource, file_identity
from ecgan.data.files import read_gray, read_ids, read_image
from ecgan.data.formats import (
    Fault,
    PairFiles,
    check_num_classes,
    find_root,
    recognise,
    take_inventory,
)
from ecgan.data.scenes import SCENE_CLASSES, render_scene
from ecgan.data.transforms import Size, Window, instance_edges, resize_bicubic, resize_nearest
from ecgan.data.validation import Progress, check_pairs, raise_first
from ecgan.errors import ConfigError, DataError

_SPLIT_SEED = {"train": 0, "val": 1}


@dataclass
class Pair:
    """One pair in memory, before it is resized and turned into tensors.

    Attributes:
        image: uint8 [H, W, 3], RGB.
        labels: int64 [H, W], canonical.
        instances: integer [H, W], or None.
        edges: ready-made edge map, uint8 of any size, or None.
        identity: names the photo's content for the edge cache, or None.
    """

    image: NDArray[np.uint8]
    labels: NDArray[np.int64]
    instances: NDArray[np.integer] | None = None
    edges: NDArray[np.uint8] | None = None
    identity: str | None = None


class PairSource(Protocol):
    """Where pairs come from."""

    classes: ClassTable

    def __len__(self) -> int: ...

    def name(self, index: int) -> str:
        """A name that is unique in this source."""
        ...

    def load(self, index: int, size: Size) -> Pair:
        """The pair at ``index``; ``size`` is what is wanted, files come in their own."""
        ...


class FileSource:
    """Pairs of files."""

    def __init__(self, pairs: list[PairFiles], classes: ClassTable) -> None:
        self.pairs = pairs
        self.classes = classes

    def __len__(self) -> int:
        return len(self.pairs)

    def name(self, index: int) -> str:
        """The pair's file name without suffix, with the folders above it."""
        return self.pairs[index].name

    def load(self, index: int, size: Size) -> Pair:
        """Reads the files.

        Raises:
            DataError: a file has become unreadable or holds wrong ids.
        """
        files = self.pairs[index]
        image = read_image(files.image)
        try:
            labels = self.classes.canonical(read_ids(files.labels))
        except DataError as error:
            prefix = "" if str(files.labels) in str(error) else f"label map {files.labels}: "
            raise DataError(f"{prefix}{error}") from error
        if labels.shape != image.shape[:2]:
            raise DataError(
                f"{files.labels} has shape {labels.shape}: expected {image.shape[:2]}, that of "
                f"its image {files.image}"
            )
        instances = None if files.instances is None else read_ids(files.instances, "instance map")
        edges = None if files.edges is None else read_gray(files.edges)
        return Pair(image, labels, instances, edges, file_identity(files.image))


class SceneSource:
    """Rendered street scenes."""

    classes = SCENE_CLASSES

    def __init__(self, length: int, seed: int, split: Literal["train", "val"]) -> None:
        self.length = length
        self.split: Literal["train", "val"] = split
        self._seed = (seed, _SPLIT_SEED[split])

    def __len__(self) -> int:
        return self.length

    def name(self, index: int) -> str:
        """``scene_train_000042``."""
        return f"scene_{self.split}_{index:06d}"

    def load(self, index: int, size: Size) -> Pair:
        """Renders the scene at the wanted size."""
        scene = render_scene((*self._seed, index), size)
        return Pair(scene.image, scene.labels.astype(np.int64), scene.instances)


class PairDataset(Dataset[dict[str, Any]]):
    """Label maps and photos as ECGAN takes them.

    An item is a dict without batch axis:

    - ``labels``: int64 [H, W], classes 0..N-1 and void N;
    - ``image``: float32 [3, H, W] in [-1, 1];
    - ``edge``: float32 [1, H, W] in [-1, 1];
    - ``instance_edges``: float32 [1, H, W] of 0 and 1, if configured;
    - ``name``: str.

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
        """Item ``index`` of ``epoch``, ``position = epoch * len(self) + index``."""
        if position < 0:
            raise IndexError(f"position {position}: expected at least 0")
        epoch, index = divmod(position, len(self))
        pair = self.source.load(index, self._load_size)
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
            "name": self.source.name(index),
        }
        if self.cfg.instance_edges:
            if pair.instances is None:
                raise DataError(f"{self.source.name(index)} has no instance map")
            ids = window(resize_nearest(pair.instances, self._load_size))
            item["instance_edges"] = torch.from_numpy(instance_edges(ids).astype(np.float32))[None]
        return item

    def _window(self, epoch: int, index: int) -> Window:
        if self.split == "val":
            return Window.whole(self.size)
        rng = np.random.default_rng((self.seed, _SPLIT_SEED[self.split], epoch, index))
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
        return self._faults + check_pairs(self.source.pairs, self.source.classes, progress, limit)

    def validate(self, progress: Progress | None = None, limit: int = 0) -> None:
        """Refuses a faulty data set; call it before training.

        Args:
            progress: as in `faults`.
            limit: as in `faults`.

        Raises:
            DataError: one sentence that names the first faulty file, what is wrong with it and
                what was expected.
        """
        raise_first(self.faults(progress, limit))

    def fill_edge_cache(self, progress: Progress | None = None) -> None:
        """Computes every edge map once, in this process; for networks such as HED.

        Without a cache folder this does nothing.
        """
        if not self.cfg.edges.cache:
            return
        for index in range(len(self)):
            pair = self.source.load(index, self._load_size)
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
        strict: refuse files without a partner at once. Otherwise they are left to
            `PairDataset.faults`, and the items are the complete pairs.

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
    if strict:
        raise_first(inventory.faults)
    if not inventory.pairs:
        raise DataError(f"{folder} has no complete pair for {split}: expected at least one")
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
