"""Label maps to begin with."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from ecgan.data.classes import ClassTable
from ecgan.data.files import LOSSLESS_SUFFIXES
from ecgan.data.scenes import SCENE_CLASSES, render_scene
from ecgan.demo.painting import Painting, Size
from ecgan.demo.uploads import read_label_map
from ecgan.errors import DataError

MOST = 12
"""Examples that the page shows."""
_SCENES = 6
# Of the validation set's kind, but none of its scenes: seeds of training have two parts.
_FIRST_SEED = 20


def find_examples(folder: Path | None, classes: ClassTable, size: Size) -> list[Painting]:
    """The label maps that the page offers; the first one is what it starts with.

    Args:
        folder: label maps of the model's classes. Without one there are scenes of the built-in set
            for a model of scenes, and a blank map of the first class for any other.
        classes: the model's.
        size: height and width.

    Raises:
        DataError: the folder holds no label map, or one that cannot be used.
    """
    if folder is not None:
        files = sorted(p for p in folder.glob("*") if p.suffix.lower() in LOSSLESS_SUFFIXES)
        if not files:
            raise DataError(f"{folder} holds no label map ({', '.join(LOSSLESS_SUFFIXES)})")
        return [read_label_map(file, classes, size) for file in files[:MOST]]
    if classes.names == SCENE_CLASSES.names:
        seeds = range(_FIRST_SEED, _FIRST_SEED + _SCENES)
        return [Painting.of(render_scene(seed, size).labels) for seed in seeds]
    return [Painting.of(np.zeros(size, np.int64))]
