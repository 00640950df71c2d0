"""A preference study: one HTML page of A/B questions about two systems' images (Table 1)."""

from __future__ import annotations

import hashlib
import json
import random
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from ecgan.data.files import IMAGE_SUFFIXES, LOSSLESS_SUFFIXES, read_ids, read_image
from ecgan.data.palette import colorize, pascal_palette, with_void
from ecgan.errors import ConfigError, DataError
from ecgan.pages.render import data_uri, render, webp_bytes, write_atomically

FORMAT = 1
"""Version of key and answer files."""
_LOSSLESS, _QUALITY = 101, 95
_LOSSLESS_PIXELS = 40_000_000
"""Up to so many pixels in all a page keeps the images exactly."""


@dataclass
class StudyFiles:
    """What :func:`write_study` wrote."""

    page: Path
    """The page for the raters."""
    key: Path
    """Which side is which; stays with whoever runs the study."""
    questions: int
    """Questions in the page."""
    unpaired: int
    """Images that only one of the folders has, and that were left out."""


def write_study(
    first: Path,
    second: Path,
    out: Path,
    *,
    questions: int = 400,
    names: Sequence[str] | None = None,
    labels: Path | None = None,
    seed: int = 1,
) -> StudyFiles:
    """Writes a page of questions "which of the two is better?" and the key to its answers.

    Images of equal names make a pair; questions are drawn from the pairs without replacement. The
    sides are drawn anew for each question. The page holds no name and no word on the sides: the key
    goes to a file of its own, ``NAME.key.json`` beside the page, which raters must not get. Both
    images are encoded alike, without metadata and at the same size.

    Args:
        first: results of the system whose share is asked for ("ours"): a folder of images, or one
            that holds ``images/``, as ``ecgan synthesize`` makes it.
        second: results of the system that it is compared with.
        out: the page.
        questions: most questions; fewer where there are fewer pairs.
        names: names of the two systems for the scores; the folders' names when None.
        labels: folder of label maps of the same names, shown above the pair.
        seed: of questions and sides.

    Returns:
        The written files.

    Raises:
        DataError: a folder without images, no common name, or an image that cannot be read.
        ConfigError: settings that cannot work, or a place that cannot be written to.
    """
    if questions < 1:
        raise ConfigError(f"--questions must be at least 1, not {questions}")
    if out.suffix.lower() not in (".html", ".htm"):
        raise ConfigError(f"--out must be an HTML file such as study.html, not {out}")
    systems = [_images(first), _images(second)]
    if first.resolve() == second.resolve():
        raise ConfigError(f"both folders are {first}: expected the results of two systems")
    titles = list(names or _names(first, second))
    if len(titles) != 2 or titles[0] == titles[1]:
        raise ConfigError(f"--names takes two different names, not {' '.join(map(str, titles))}")
    common = sorted(systems[0].keys() & systems[1].keys())
    if not common:
        raise DataError(f"{first} and {second} have no image name in common")
    maps = None if labels is None else _maps(labels, common)

    random_ = random.Random(seed)
    chosen = random_.sample(common, min(questions, len(common)))
    flipped = [random_.random() < 0.5 for _ in chosen]
    quality = _quality(systems[0][chosen[0]], len(chosen))
    shown, entries = [], []
    for name, flip in zip(chosen, flipped, strict=True):
        pair = [webp_bytes(image, quality) for image in _pair(systems, name)]
        label = None if maps is None else webp_bytes(_paint(maps[name]), _LOSSLESS)
        sides = pair[::-1] if flip else pair
        shown.append(
            {
                "images": [data_uri(image) for image in sides],
                "label": None if label is None else data_uri(label),
            }
        )
        entries.append(
            {
                "name": name,
                "first_is": "right" if flip else "left",
                "sha256": [hashlib.sha256(image).hexdigest() for image in pair],
            }
        )
    key: dict[str, Any] = {
        "format": FORMAT,
        "kind": "ecgan study key",
        "names": titles,
        "seed": seed,
        "questions": entries,
    }
    study = hashlib.sha256(json.dumps(key, sort_keys=True).encode()).hexdigest()[:32]
    key["study"] = study
    page = render(
        "study",
        data={"format": FORMAT, "study": study, "questions": shown},
        labelled=maps is not None,
    )
    key_file = out.with_suffix(".key.json")
    write_atomically(key_file, json.dumps(key, indent=1))
    write_atomically(out, page)
    unpaired = len(systems[0].keys() ^ systems[1].keys())
    return StudyFiles(out, key_file, len(chosen), unpaired)


def _names(first: Path, second: Path) -> tuple[str, str]:
    a, b = (p.parent if p.name == "images" else p for p in (first.resolve(), second.resolve()))
    return (a.name, b.name) if a.name != b.name else (str(a), str(b))


def _files(folder: Path, suffixes: Sequence[str]) -> dict[str, Path]:
    """Files of a folder by name without suffix.

    Raises:
        DataError: two files share a name.
    """
    found: dict[str, Path] = {}
    for path in sorted(folder.iterdir()):
        if path.suffix.lower() in suffixes and path.is_file():
            if path.stem in found:
                raise DataError(f"{folder} holds both {found[path.stem].name} and {path.name}")
            found[path.stem] = path
    return found


def _images(folder: Path) -> dict[str, Path]:
    if not folder.is_dir():
        raise DataError(f"{folder} is no folder: expected a folder of images")
    inner = folder / "images"
    found = _files(inner if inner.is_dir() else folder, IMAGE_SUFFIXES)
    if not found:
        raise DataError(f"{folder} holds no image ({', '.join(IMAGE_SUFFIXES)})")
    return found


def _maps(folder: Path, names: Sequence[str]) -> dict[str, Path]:
    if not folder.is_dir():
        raise DataError(f"label maps {folder} are no folder")
    found = _files(folder, LOSSLESS_SUFFIXES)
    missing = [name for name in names if name not in found]
    if missing:
        raise DataError(f"{folder} has no label map for {missing[0]} ({len(missing)} in all)")
    return found


def _quality(image: Path, questions: int) -> int:
    height, width = read_image(image).shape[:2]
    return _LOSSLESS if 2 * questions * height * width <= _LOSSLESS_PIXELS else _QUALITY


def _pair(systems: Sequence[dict[str, Path]], name: str) -> list[NDArray[np.uint8]]:
    """The two images of a name, the larger one reduced to the smaller one's size."""
    pair = [read_image(system[name]) for system in systems]
    (h0, w0), (h1, w1) = (image.shape[:2] for image in pair)
    if (h0, w0) == (h1, w1):
        return pair
    if abs(w0 / h0 - w1 / h1) > 0.02 * w0 / h0:
        raise DataError(
            f"{systems[0][name]} is {w0}x{h0} pixels and {systems[1][name]} {w1}x{h1}: expected "
            "images of one shape"
        )
    size = min((w0, h0), (w1, h1))
    return [np.array(Image.fromarray(i).resize(size, Image.Resampling.BICUBIC)) for i in pair]


def _paint(path: Path) -> NDArray[np.uint8]:
    """A label map in colours; one that is coloured already as it is."""
    try:
        return colorize(read_ids(path), with_void(pascal_palette(255)))
    except DataError:
        return read_image(path)
