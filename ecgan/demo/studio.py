"""Images for a painting, and the files to download."""

from __future__ import annotations

import io
import time
import zipfile
from collections.abc import Iterator
from dataclasses import dataclass

import cv2
import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from ecgan.data.classes import ClassTable
from ecgan.demo.painting import Painting
from ecgan.inference import ECGAN, to_uint8
from ecgan.models import Synthesis

FINAL = "Image"


@dataclass(frozen=True)
class Sample:
    """One image and its stages.

    Attributes:
        seed: of its style; None where no seed decides, for a model without style or with a photo's.
        files: PNG files by what they show; ``FINAL`` first, then the stages that the model has.
    """

    seed: int | None
    files: dict[str, bytes]


@dataclass(frozen=True)
class Request:
    """What to make.

    Attributes:
        painting: the label map and the region.
        seed: of the first sample; each further one takes the next number.
        samples: how many.
        region_seed: of the style inside the region (3D noise); the same in all samples.
        photo: gives the style instead (image encoder).
    """

    painting: Painting
    seed: int = 0
    samples: int = 1
    region_seed: int = 0
    photo: NDArray[np.uint8] | None = None


def knows_void(classes: ClassTable) -> bool:
    """Whether a label map of these classes can have void pixels."""
    return bool(classes.void_ids)


def file_ids(painting: Painting, classes: ClassTable) -> NDArray[np.int64]:
    """The label map in the ids of the training data's files."""
    return np.array([*classes.file_ids, *classes.void_ids[:1]])[painting.labels]


def make_samples(model: ECGAN, request: Request) -> Iterator[Sample]:
    """Makes the images one after the other, so that one forward's memory is enough.

    Samples differ by their style only: a model without style, or with one photo's, makes one.
    """
    labels = file_ids(request.painting, model.classes)
    instances = labels if model.cfg.instance_edges else None
    seeded = model.cfg.style != "none" and request.photo is None
    for index in range(request.samples if seeded else 1):
        seed = request.seed + index
        style = _style(model, request, seed)
        out = model.stages(labels, seed=seed, style=style, instances=instances)
        files = {name: _png(image) for name, image in _pictures(out).items()}
        yield Sample(seed if seeded else None, files)


def seconds_an_image(model: ECGAN, painting: Painting) -> float:
    """How long an image takes here, after a first one that warms up."""
    for _ in range(2):
        start = time.perf_counter()
        list(make_samples(model, Request(painting)))
    return time.perf_counter() - start


def label_png(painting: Painting, classes: ClassTable) -> bytes:
    """The label map as a PNG of file ids, 8 bits where they suffice, else 16."""
    ids = file_ids(painting, classes)
    return _png(ids.astype(np.uint8 if ids.max() < 256 else np.uint16))


def archive(sample: Sample, labels: bytes) -> bytes:
    """A ZIP of all stages and the label map (`label_png`)."""
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as zipped:  # PNGs do not get smaller
        for name, content in {**sample.files, "Labels": labels}.items():
            zipped.writestr(f"{_file_name(name)}.png", content)
    return file.getvalue()


def _style(model: ECGAN, request: Request, seed: int) -> Tensor | NDArray[np.uint8] | None:
    """What overrides the style that ``seed`` stands for."""
    region = request.painting.region
    if model.cfg.style == "encoder":
        return request.photo
    if model.cfg.style == "none" or not region.any():
        return None
    around = model.sample_style(seed, region.shape)
    within = model.sample_style(request.region_seed, region.shape)
    assert around is not None
    assert within is not None
    return torch.where(torch.from_numpy(region), within, around)[None]


def _pictures(out: Synthesis) -> dict[str, NDArray[np.uint8]]:
    stages = {
        FINAL: out.final,
        "Edges I'_e": out.edge,
        "Attention": None if out.edge is None else out.edge.float().sigmoid(),
        "Coarse I'": out.image,
        "Refined I''": out.refined,
        "By class I_g": out.class_image,
    }
    return {
        name: _heat(stage) if name == "Attention" else to_uint8(stage)[0]
        for name, stage in stages.items()
        if stage is not None
    }


def _heat(attention: Tensor) -> NDArray[np.uint8]:
    """Attention [1, 3, H, W] as heat; its range is that of the sigmoid of numbers in (-1, 1)."""
    low, high = 1 / (1 + np.e), np.e / (1 + np.e)
    mean = attention[0].mean(0).cpu().numpy()
    scaled = ((mean - low) / (high - low) * 255).round().clip(0, 255).astype(np.uint8)
    return np.asarray(cv2.applyColorMap(scaled, cv2.COLORMAP_INFERNO), np.uint8)[..., ::-1]


def _png(image: NDArray[np.integer]) -> bytes:
    file = io.BytesIO()
    Image.fromarray(image).save(file, "PNG")
    return file.getvalue()


def _file_name(name: str) -> str:
    return name.lower().replace("''", "2").replace("'", "1").replace(" ", "-")
