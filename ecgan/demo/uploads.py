"""Files that people upload: label maps and style photos.

A file is looked at before it is decoded: its bytes, then the pixels that its header tells of.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from ecgan.data.classes import ClassTable
from ecgan.data.faults import shown
from ecgan.data.files import ModeError, read_ids, read_image
from ecgan.data.transforms import resize_nearest
from ecgan.demo.painting import Painting, Size
from ecgan.errors import DataError

MAX_BYTES = 24 << 20
"""Of a file; a camera's largest JPEG has about 20 MiB."""
MAX_LABEL_PIXELS = 1 << 24
"""4096x4096, which is 16 times what any of the papers trains on."""
MAX_PHOTO_PIXELS = 64_000_000


def read_label_map(path: Path, classes: ClassTable, size: Size) -> Painting:
    """Reads a label map in the ids of the training data, or in the colours of the classes.

    Args:
        path: the file.
        classes: the model's classes. Of classes with one colour the first is taken.
        size: height and width to resize to, by nearest neighbour.

    Raises:
        DataError: a file that is too large, no image, or holds other ids or colours; the message
            names the file without its folder.
    """
    _check(path, MAX_LABEL_PIXELS)
    try:
        try:
            labels = classes.canonical(read_ids(path))
        except ModeError:
            labels = _classes_of_colours(read_image(path), classes)
    except DataError as error:
        raise DataError(_without_folder(error, path)) from None
    return Painting.of(resize_nearest(labels, size))


def read_photo(path: Path) -> NDArray[np.uint8]:
    """Reads a photo upright: uint8 [H, W, 3].

    Raises:
        DataError: as `read_label_map`.
    """
    _check(path, MAX_PHOTO_PIXELS)
    try:
        return read_image(path)
    except DataError as error:
        raise DataError(_without_folder(error, path)) from None


def _check(path: Path, pixels: int) -> None:
    if (length := path.stat().st_size) > MAX_BYTES:
        raise DataError(
            f"{shown(path.name)} has {length >> 20} MiB: expected at most {MAX_BYTES >> 20}"
        )
    try:
        with Image.open(path, formats=("JPEG", "PNG", "WEBP", "BMP", "TIFF", "PPM")) as image:
            width, height = image.size
    except Exception:
        return  # What is wrong with it the reader says.
    if width * height > pixels:
        raise DataError(
            f"{shown(path.name)} is {width}x{height} pixels: expected at most {pixels:,} pixels"
        )


def _classes_of_colours(image: NDArray[np.uint8], classes: ClassTable) -> NDArray[np.int64]:
    """Classes of colours: [H, W, 3] becomes [H, W]."""
    weights = np.array([1 << 16, 1 << 8, 1])
    codes, inverse = np.unique(image @ weights, return_inverse=True)
    # From the last to the first, so that the first of several classes stays.
    known = {int(c @ weights): i for i, c in reversed(list(enumerate(classes.palette)))}
    wrong = [code for code in codes.tolist() if code not in known]
    if wrong:
        listed = ", ".join(f"#{code:06x}" for code in wrong[:4])
        raise DataError(
            f"it has {len(wrong)} colour{'s' if len(wrong) > 1 else ''} of no class "
            f"({listed}{', ...' if len(wrong) > 4 else ''}): expected class ids in one channel, or "
            "exactly the colours of the classes"
        )
    table = np.array([known[code] for code in codes.tolist()])
    return table[inverse].reshape(image.shape[:2])


def _without_folder(error: DataError, path: Path) -> str:
    message = str(error)
    name = shown(path.name)
    return message.replace(shown(path), name) if shown(path) in message else f"{name}: {message}"
