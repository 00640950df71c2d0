"""Reading of photos, label maps, instance maps and edge maps from untrusted files.

Pillow reads, because it keeps the ids of palette images and all 16 bits of instance maps. Only
raster formats are tried: Pillow also knows formats whose readers start other programs.
"""

from __future__ import annotations

import contextlib
import struct
import zlib
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageOps

from ecgan.errors import DataError

MAX_PIXELS = 100_000_000
"""Larger images are refused before they are decoded (decompression bombs)."""

IMAGE_SUFFIXES = (".jpg", ".jpeg", ".png", ".webp", ".bmp", ".tif", ".tiff", ".ppm")
"""Photos."""
LOSSLESS_SUFFIXES = (".png", ".bmp", ".tif", ".tiff", ".pgm")
"""Label, instance and edge maps: a lossy format would invent ids."""

_FORMATS = ("JPEG", "PNG", "WEBP", "BMP", "TIFF", "PPM")
_DECODE_ERRORS = (OSError, SyntaxError, ValueError, EOFError, IndexError, struct.error, zlib.error)


def _open(path: Path, upright: bool = False) -> Image.Image:
    """Opens and fully decodes an image; every failure becomes a DataError with the file's name.

    Args:
        path: the file.
        upright: turn the image as its EXIF orientation says.
    """
    try:
        with Image.open(path, formats=_FORMATS) as image:
            width, height = image.size
            if width * height > MAX_PIXELS:
                raise DataError(
                    f"{path} is {width}x{height} pixels: expected at most {MAX_PIXELS:,} pixels"
                )
            image.load()
            if upright:
                # A damaged EXIF block says nothing about the orientation.
                with contextlib.suppress(*_DECODE_ERRORS):
                    return ImageOps.exif_transpose(image)
            return image
    except FileNotFoundError as error:
        raise DataError(f"{path} does not exist") from error
    except Image.DecompressionBombError as error:
        raise DataError(f"{path} is too large: expected at most {MAX_PIXELS:,} pixels") from error
    except _DECODE_ERRORS as error:
        reason = " ".join(str(error).split()) or type(error).__name__
        reason = reason.replace(f" '{path}'", "")
        raise DataError(f"{path} cannot be read as an image: {reason}") from error


def read_image(path: Path) -> NDArray[np.uint8]:
    """Reads a photo upright (EXIF orientation) as RGB.

    Gray is replicated, 16-bit gray scaled to 8 bits, transparency laid over white.

    Returns:
        uint8 [H, W, 3].

    Raises:
        DataError: the file is missing, truncated, no image or too large.
    """
    image = _open(path, upright=True)
    if image.mode.startswith("I"):
        gray = (np.asarray(image).astype(np.int64).clip(0, 65535) + 128) // 257
        return np.repeat(gray.astype(np.uint8)[..., None], 3, axis=2)
    if image.has_transparency_data:
        image = image.convert("RGBA")
        image = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image)
    return np.array(image.convert("RGB"))


def read_ids(path: Path, kind: str = "label map") -> NDArray[np.integer]:
    """Reads one channel of ids, 8, 16 or 32 bits, unchanged; palette images give their indices.

    Args:
        path: the file.
        kind: what the file is, for messages.

    Returns:
        integer [H, W].

    Raises:
        DataError: as `read_image`; or the file is colour-coded or holds real numbers.
    """
    image = _open(path)
    if image.mode not in ("1", "L", "P") and not image.mode.startswith("I"):
        what = "holds real numbers" if image.mode == "F" else f"is colour-coded ({image.mode})"
        raise DataError(f"{path} {what}: expected a {kind} with one channel of integer ids")
    ids = np.array(image)
    return ids.astype(np.uint8) if ids.dtype == bool else ids


def read_gray(path: Path) -> NDArray[np.uint8]:
    """Reads an edge map as 8-bit gray: uint8 [H, W].

    Raises:
        DataError: as `read_image`.
    """
    image = _open(path)
    if image.mode == "1":
        return np.array(image.convert("L"))
    return np.array(Image.fromarray(read_image(path)).convert("L"))
