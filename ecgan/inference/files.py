"""Images and edges for files of label maps: what ``ecgan synthesize`` does."""

from __future__ import annotations

import zlib
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from ecgan.config import parse_size
from ecgan.data.classes import ClassTable
from ecgan.data.files import LOSSLESS_SUFFIXES, read_ids
from ecgan.data.transforms import to_uint8
from ecgan.errors import ConfigError, DataError
from ecgan.inference.model import ECGAN


@dataclass
class LabelFile:
    """A label map to synthesise from."""

    path: Path
    labels: NDArray[np.integer]
    """Ids [H, W] as in the file, all of them known."""
    instances: NDArray[np.integer] | None
    """Instance ids [H, W], where the model wants them."""


def read_label_files(
    source: Path, classes: ClassTable, instances: Path | None = None
) -> list[LabelFile]:
    """Reads and checks label maps.

    Args:
        source: a file or a folder of label maps, in the ids that the training data used.
        classes: the model's classes.
        instances: for a model with instance edges: file or folder of instance maps of the same
            names.

    Raises:
        DataError: no label map there, an unreadable one, or one with wrong ids.
    """
    if not source.exists():
        raise DataError(f"label maps {source} do not exist")
    paths = [source]
    if source.is_dir():
        paths = sorted(p for p in source.iterdir() if p.suffix.lower() in LOSSLESS_SUFFIXES)
    if not paths:
        raise DataError(f"{source} holds no label map ({', '.join(LOSSLESS_SUFFIXES)})")
    files = []
    for path in paths:
        try:
            labels = read_ids(path)
            classes.canonical(labels)
        except DataError as error:
            prefix = "" if str(path) in str(error) else f"label map {path}: "
            raise DataError(f"{prefix}{error}") from None
        ids = None
        if instances is not None:
            partner = instances / path.name if instances.is_dir() else instances
            ids = read_ids(partner, "instance map")
            if ids.shape != labels.shape:
                raise DataError(
                    f"{partner} has shape {ids.shape}: expected {labels.shape}, that of {path}"
                )
        files.append(LabelFile(path, labels, ids))
    return files


def synthesize_files(
    model: ECGAN,
    labels: Path,
    out: Path,
    *,
    instances: Path | None = None,
    size: str = "",
    seed: int = 1,
    samples: int = 1,
    tile: int | None = None,
) -> list[Path]:
    """Writes ``out/images/NAME.png`` and ``out/edges/NAME.png`` for each label map NAME.png.

    Every label map is checked before anything is written.

    Args:
        model: the model.
        labels: label map or folder of label maps.
        out: folder to write to.
        instances: see :func:`read_label_files`.
        size: height x width of the images; empty takes the training size.
        seed: of the style codes.
        samples: images per label map, numbered ``NAME_0.png`` onwards when more than one; they
            differ only for a model with a style.
        tile: side of tiles in pixels, see :meth:`ECGAN.synthesize`.

    Returns:
        The images' paths.

    Raises:
        ECGANError: label maps or settings cannot be used.
    """
    if samples < 1:
        raise ConfigError(f"the number of samples must be at least 1, not {samples}")
    if model.cfg.instance_edges and instances is None:
        raise ConfigError("this model was trained with instance edges: give --instances")
    shape = parse_size(size or model.cfg.size)
    model.generator.encoder.check_size(shape)
    files = read_label_files(labels, model.classes, instances)
    for folder in ("images", "edges"):
        (out / folder).mkdir(parents=True, exist_ok=True)
    written = []
    for file in files:
        stem = file.path.stem
        for index in range(samples):
            made = model.synthesize(
                file.labels,
                seed=_seed(seed, stem, index),
                instances=file.instances,
                size=shape,
                tile=tile,
            )
            name = f"{stem}.png" if samples == 1 else f"{stem}_{index}.png"
            written.append(out / "images" / name)
            Image.fromarray(to_uint8(made.images)[0]).save(written[-1])
            if made.edges is not None:
                edge = Image.fromarray(to_uint8(made.edges)[0]).convert("L")
                edge.save(out / "edges" / name)
    return written


def _seed(seed: int, stem: str, sample: int) -> int:
    """A seed a label map and sample: the result does not depend on which others are there."""
    return (seed + sample) << 32 | zlib.crc32(stem.encode())
