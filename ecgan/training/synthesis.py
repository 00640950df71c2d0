"""Images and edges for label maps, from a trained generator."""

from __future__ import annotations

import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from ecgan.config import ModelConfig, parse_size
from ecgan.data import instance_edges
from ecgan.data.classes import ClassTable
from ecgan.data.files import LOSSLESS_SUFFIXES, read_ids
from ecgan.data.transforms import resize_nearest
from ecgan.errors import ConfigError, DataError
from ecgan.models import Generator, Layout
from ecgan.training.build import read_classes
from ecgan.training.checkpoint import check_weights, load_weights
from ecgan.training.checkpoint_folder import find_checkpoint, generator_weights
from ecgan.training.settings import load_config
from ecgan.training.sheet import to_uint8


@dataclass
class LabelFile:
    """A label map to synthesise from."""

    path: Path
    labels: NDArray[np.int64]
    """Canonical classes [H, W]."""
    instances: NDArray[np.integer] | None
    """Instance ids [H, W], where the model wants them."""


def load_generator(path: Path, device: torch.device) -> tuple[Generator, ClassTable]:
    """The generator of a checkpoint or of a run folder's newest one, in evaluation mode.

    It is the moving average of the weights, where the run kept one.

    Raises:
        CheckpointError: there is none, or it is broken.
    """
    checkpoint = find_checkpoint(path)
    cfg = load_config(checkpoint / "config.yaml")
    classes = read_classes(checkpoint / "classes.json")
    weights = generator_weights(checkpoint)
    with torch.device("meta"):  # a hostile configuration may ask for any amount of memory
        check_weights(weights, Generator(cfg.model))
    generator = Generator(cfg.model)
    load_weights(weights, generator)
    return generator.to(device).eval(), classes


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
            labels = classes.canonical(read_ids(path))
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


def make_input(files: list[LabelFile], cfg: ModelConfig, size: tuple[int, int]) -> Layout:
    """The conditioning input of label maps, resized to height x width by nearest neighbour.

    Raises:
        ConfigError: the model wants instance maps and there are none.
    """
    labels = np.stack([resize_nearest(file.labels, size) for file in files])
    boundaries = None
    if cfg.instance_edges:
        ids = [file.instances for file in files if file.instances is not None]
        if len(ids) != len(files):
            raise ConfigError("this model was trained with instance edges: give --instances")
        maps = [instance_edges(resize_nearest(i, size)).astype(np.float32) for i in ids]
        boundaries = torch.from_numpy(np.stack(maps)[:, None])
    return Layout(
        torch.from_numpy(labels),
        cfg.num_classes,
        void_channel=cfg.void_channel,
        instance_edges=boundaries,
    )


def synthesize(
    source: Path,
    labels: Path,
    out: Path,
    *,
    instances: Path | None = None,
    size: str = "",
    seed: int = 1,
    samples: int = 1,
    device: torch.device | None = None,
) -> list[Path]:
    """Writes ``out/images/NAME.png`` and ``out/edges/NAME.png`` for each label map NAME.png.

    Every label map is checked before anything is written.

    Args:
        source: checkpoint or run folder.
        labels: label map or folder of label maps.
        out: folder to write to.
        instances: see :func:`read_label_files`.
        size: height x width of the images; empty takes the training size.
        seed: of the style codes.
        samples: images per label map, numbered ``NAME_0.png`` onwards when more than one; they
            differ only for a model with a style.
        device: where to compute; the CPU when None.

    Returns:
        The images' paths.

    Raises:
        ECGANError: checkpoint, label maps or settings cannot be used.
    """
    if samples < 1:
        raise ConfigError(f"the number of samples must be at least 1, not {samples}")
    device = device or torch.device("cpu")
    generator, classes = load_generator(source, device)
    cfg = generator.cfg
    shape = parse_size(size or cfg.size)
    files = read_label_files(labels, classes, instances)
    for folder in ("images", "edges"):
        (out / folder).mkdir(parents=True, exist_ok=True)
    written = []
    for file in files:
        layout = _on(make_input([file], cfg, shape), device)
        # One stream per label map: the result does not depend on which others are there.
        stem = file.path.stem
        random = torch.Generator().manual_seed(seed << 32 | zlib.crc32(stem.encode()))
        made = _samples(generator, layout, random, samples)
        for name, (image, edge) in zip(_names(stem, samples), made, strict=True):
            written.append(out / "images" / name)
            Image.fromarray(to_uint8(image)[0]).save(written[-1])
            if edge is not None:
                Image.fromarray(to_uint8(edge)[0]).convert("L").save(out / "edges" / name)
    return written


@torch.inference_mode()
def _samples(
    generator: Generator, layout: Layout, random: torch.Generator, count: int
) -> Iterator[tuple[Tensor, Tensor | None]]:
    for _ in range(count):
        z = generator.sample_style(1, generator=random)
        out = generator(layout, None if z is None else z.to(layout.labels.device))
        yield out.final, out.edge


def _names(stem: str, samples: int) -> list[str]:
    return [f"{stem}.png"] if samples == 1 else [f"{stem}_{i}.png" for i in range(samples)]


def _on(layout: Layout, device: torch.device) -> Layout:
    edges = layout.instance_edges
    return Layout(
        layout.labels.to(device),
        layout.num_classes,
        void_channel=layout.void_channel,
        instance_edges=None if edges is None else edges.to(device),
    )
