"""Where pairs of label map and photo come from: files, or the built-in street scenes."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Literal, Protocol, TypeVar

import numpy as np
from numpy.typing import NDArray

from ecgan.data.classes import ClassTable
from ecgan.data.edges import file_identity
from ecgan.data.faults import Fault, Kind, raise_first, shown
from ecgan.data.files import ModeError, is_turned, read_gray, read_ids, read_image
from ecgan.data.formats import PairFiles
from ecgan.data.scenes import SCENE_CLASSES, render_scene
from ecgan.data.transforms import Size
from ecgan.errors import DataError

SPLIT_SEED = {"train": 0, "val": 1}
_Array = TypeVar("_Array", bound=NDArray[Any])


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


def read_pair(files: PairFiles, classes: ClassTable | None) -> tuple[Pair | None, list[Fault]]:
    """Decodes every file of a pair and compares sizes and ids.

    Args:
        files: the pair.
        classes: the ids that labels may hold; None, where they are not known, takes any.

    Returns:
        The pair and no fault, or None and every fault found.
    """
    faults: list[Fault] = []
    sizes: dict[Path, Size] = {}

    def fault(kind: Kind, file: Path, text: str) -> None:
        faults.append(Fault(kind, file, text, files.name))

    def read(file: Path | None, reader: Callable[[Path], _Array]) -> _Array | None:
        if file is None:
            return None
        try:
            array = reader(file)
        except ModeError as error:
            sizes[file] = error.size
            fault("mode", file, str(error))
        except DataError as error:
            fault("unreadable", file, str(error))
        else:
            sizes[file] = (array.shape[0], array.shape[1])
            return array
        return None

    image = read(files.image, read_image)
    labels = raw = read(files.labels, read_ids)
    if raw is not None and classes is not None:
        try:
            labels = classes.canonical(raw)
        except DataError as error:
            fault("labels", files.labels, f"label map {shown(files.labels)}: {error}")
    instances = read(files.instances, partial(read_ids, kind="instance map"))
    edges = read(files.edges, read_gray)
    if files.edges is not None:
        sizes.pop(files.edges, None)  # Of any size: the authors store every edge map at 256x512.

    if files.image in sizes:
        for file, size in sizes.items():
            if size != sizes[files.image]:
                fault("size", file, _sizes_differ(file, size, files.image, sizes[files.image]))
    if faults or image is None or labels is None:
        return None, faults
    pair = Pair(
        image, labels.astype(np.int64, copy=False), instances, edges, file_identity(files.image)
    )
    return pair, []


def _sizes_differ(file: Path, size: Size, image: Path, expected: Size) -> str:
    text = (
        f"{shown(file)} is {size[0]} pixels high and {size[1]} wide: expected {expected[0]} and "
        f"{expected[1]}, the size of its image {shown(image)}"
    )
    if size == expected[::-1] and is_turned(image):
        text += ", which its EXIF orientation turns: turn the label map alike"
    return text


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
            DataError: a file is faulty; what `check_pair` finds, and nothing else.
        """
        pair, faults = read_pair(self.pairs[index], self.classes)
        if pair is None:
            raise_first(faults)
        assert pair is not None
        return pair


class SceneSource:
    """Rendered street scenes."""

    classes = SCENE_CLASSES

    def __init__(self, length: int, seed: int, split: Literal["train", "val"]) -> None:
        self.length = length
        self.split: Literal["train", "val"] = split
        self._seed = (seed, SPLIT_SEED[split])

    def __len__(self) -> int:
        return self.length

    def name(self, index: int) -> str:
        """``scene_train_000042``."""
        return f"scene_{self.split}_{index:06d}"

    def load(self, index: int, size: Size) -> Pair:
        """Renders the scene at the wanted size."""
        scene = render_scene((*self._seed, index), size)
        return Pair(scene.image, scene.labels.astype(np.int64), scene.instances)
