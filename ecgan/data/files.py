"""Reading of photos, label maps, instance maps and edge maps from untrusted files.

Pillow reads, because it keeps the ids of palette images and all 16 bits of instance maps. Only
raster formats are tried: Pillow also knows formats whose readers start other programs. A file is
refused before it is decoded where its size on disk or its number of pixels says that it would take
much memory.
"""

from __future__ import annotations

import contextlib
import io
import stat
import struct
import warnings
import zlib
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import ExifTags, Image, ImageOps, UnidentifiedImageError

from ecgan.data.faults import shown
from ecgan.errors import DataError

MAX_PIXELS = 100_000_000
"""Larger images are refused before they are decoded (decompression bombs)."""
MAX_BYTES = 1 << 30
"""Larger files are refused; no uncompressed image of MAX_PIXELS needs as many."""

IMAGE_SUFFIXES = (".jpg", ".jpeg", ".png", ".webp", ".bmp", ".tif", ".tiff", ".ppm")
"""Photos."""
LOSSLESS_SUFFIXES = (".png", ".bmp", ".tif", ".tiff", ".pgm")
"""Label, instance and edge maps: a lossy format would invent ids."""

_FORMATS = ("JPEG", "PNG", "WEBP", "BMP", "TIFF", "PPM")

# Pillow warns from 89 million pixels on; what is above MAX_PIXELS is an error here.
warnings.filterwarnings("ignore", category=Image.DecompressionBombWarning)


class ModeError(DataError):
    """A sound image whose pixels are of the wrong kind.

    Attributes:
        size: its height and width.
    """

    def __init__(self, message: str, size: tuple[int, int] = (0, 0)) -> None:
        super().__init__(message)
        self.size = size


@contextlib.contextmanager
def _named(path: Path) -> Iterator[None]:
    """Turns every failure to decode into a DataError that names the file."""
    try:
        yield
    except DataError:
        raise
    except Image.DecompressionBombError as error:
        raise DataError(
            f"{shown(path)} is too large: expected at most {MAX_PIXELS:,} pixels"
        ) from error
    except UnidentifiedImageError as error:
        raise DataError(
            f"{shown(path)} cannot be read as an image: it is none, or damaged in its first bytes: "
            f"expected {', '.join(_FORMATS[:-1])} or {_FORMATS[-1]}"
        ) from error
    except Exception as error:
        # Damaged files raise almost anything: struct.error, TypeError, even MemoryError.
        reason = " ".join(shown(error).split()) or type(error).__name__
        raise DataError(f"{shown(path)} cannot be read as an image: {reason}") from error


def read_bytes(path: Path, limit: int = MAX_BYTES, what: str = "an image") -> bytes:
    """Reads a whole file that must be a regular one: no folder, no pipe, no device.

    Args:
        path: the file; links are followed.
        limit: the most bytes that it may have.
        what: what it should be, for messages.

    Raises:
        DataError: it is missing, empty, too large, not regular or not readable.
    """
    try:
        status = path.stat()
        if not stat.S_ISREG(status.st_mode):
            kind = "a folder" if stat.S_ISDIR(status.st_mode) else "no regular file"
            raise DataError(f"{shown(path)} is {kind}: expected {what}")
        if status.st_size > limit:
            raise DataError(
                f"{shown(path)} has {status.st_size:,} bytes: expected at most {limit:,}"
            )
        content = path.read_bytes()
    except FileNotFoundError as error:
        what = "is a link to a file that does not exist" if path.is_symlink() else "does not exist"
        raise DataError(f"{shown(path)} {what}") from error
    except OSError as error:
        raise DataError(f"{shown(path)} cannot be read: {error.strerror or error}") from error
    except ValueError as error:  # A NUL in the name, which a list of names may hold.
        raise DataError(f"{shown(path)} is no file name: {error}") from error
    if not content:
        raise DataError(f"{shown(path)} cannot be read as {what}: it is empty")
    return content


def _check_png(content: bytes) -> None:
    """Compares the check sums of a PNG's pixel data, which Pillow skips.

    Without them a flipped bit in a label map can go through as other, valid ids.

    Raises:
        ValueError: they differ.
    """
    if not content.startswith(b"\x89PNG\r\n\x1a\n"):
        return
    view, at = memoryview(content), 8
    while at + 12 <= len(content):
        length, kind = struct.unpack_from(">I4s", content, at)
        end = at + 8 + length
        if (
            kind == b"IDAT"
            and zlib.crc32(view[at + 4 : end]).to_bytes(4, "big") != view[end : end + 4]
        ):
            raise ValueError("check sum of the pixel data is wrong")
        at = end + 4


def _open(path: Path, upright: bool = False) -> Image.Image:
    """Opens and fully decodes an image; to be called within `_named`.

    Args:
        path: the file.
        upright: turn the image as its EXIF orientation says.
    """
    # From memory: a damaged header cannot make Pillow reserve more than the file holds.
    content = read_bytes(path)
    _check_png(content)
    with Image.open(io.BytesIO(content), formats=_FORMATS) as image:
        width, height = image.size
        if width * height > MAX_PIXELS:
            raise DataError(
                f"{shown(path)} is {width}x{height} pixels: expected at most {MAX_PIXELS:,} pixels"
            )
        if not width or not height:
            raise DataError(f"{shown(path)} is {width}x{height} pixels: expected at least one")
        # A camera's JPEG may carry further views of the same photo behind it (MPO).
        if getattr(image, "is_animated", False) and image.format != "MPO":
            raise ModeError(
                f"{shown(path)} holds several images (an animation, or pages): expected one",
                (height, width),
            )
        image.load()
        if upright:
            # A damaged EXIF block says nothing about the orientation.
            with contextlib.suppress(Exception):
                ImageOps.exif_transpose(image, in_place=True)
        return image


def read_image(path: Path) -> NDArray[np.uint8]:
    """Reads a photo upright (EXIF orientation) as RGB.

    Gray is replicated, 16 bits are scaled to 8, transparency is laid over white.

    Returns:
        uint8 [H, W, 3].

    Raises:
        DataError: the file is missing, truncated, no image, too large, an animation or holds real
            numbers.
    """
    with _named(path):
        image = _open(path, upright=True)
        if image.mode == "F":
            raise ModeError(
                f"{shown(path)} holds real numbers: expected a photo of 8 or 16 bits",
                (image.height, image.width),
            )
        if image.mode.startswith("I"):
            gray = (np.asarray(image).astype(np.int64).clip(0, 65535) + 128) // 257
            return np.repeat(gray.astype(np.uint8)[..., None], 3, axis=2)
        if image.has_transparency_data:
            image = image.convert("RGBA")
            image = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image)
        return np.array(image if image.mode == "RGB" else image.convert("RGB"))


def is_turned(path: Path) -> bool:
    """Whether a photo's EXIF orientation swaps its height and width."""
    try:
        with Image.open(io.BytesIO(read_bytes(path)), formats=_FORMATS) as image:
            return image.getexif().get(ExifTags.Base.Orientation) in (5, 6, 7, 8)
    except Exception:
        return False  # As in reading: a damaged EXIF block says nothing.


def read_ids(path: Path, kind: str = "label map") -> NDArray[np.integer]:
    """Reads one channel of ids, 8, 16 or 32 bits, unchanged; palette images give their indices.

    Args:
        path: the file.
        kind: what the file is, for messages.

    Returns:
        integer [H, W].

    Raises:
        DataError: as `read_image`; or the file is colour-coded.
    """
    with _named(path):
        image = _open(path)
        if image.mode not in ("1", "L", "P") and not image.mode.startswith("I"):
            what = "holds real numbers" if image.mode == "F" else f"is colour-coded ({image.mode})"
            raise ModeError(
                f"{shown(path)} {what}: expected a {kind} with one channel of integer ids",
                (image.height, image.width),
            )
        ids = np.array(image)
        # Some TIFFs keep 16 bits in the other byte order.
        return ids.astype(np.uint8 if ids.dtype == bool else ids.dtype.newbyteorder("="))


def read_gray(path: Path) -> NDArray[np.uint8]:
    """Reads an edge map as 8-bit gray: uint8 [H, W].

    Raises:
        DataError: as `read_image`.
    """
    # Pillow's conversions to RGB and back leave gray and one-bit images as they are.
    return np.array(Image.fromarray(read_image(path)).convert("L"))
