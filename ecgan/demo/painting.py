"""What is painted: a map of classes and a region, and their text form between page and Python."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ecgan.errors import DataError

Size = tuple[int, int]
"""Height, width in pixels."""


@dataclass(frozen=True)
class Painting:
    """A painted label map.

    Attributes:
        labels: int64 [H, W], classes 0..N-1 in canonical order and void N.
        region: bool [H, W], where the second seed applies.
    """

    labels: NDArray[np.int64]
    region: NDArray[np.bool_]

    @classmethod
    def of(cls, labels: NDArray[np.integer]) -> Painting:
        """A label map without a region."""
        return cls(labels.astype(np.int64), np.zeros(labels.shape, bool))

    def encode(self) -> dict[str, str]:
        """The painter's value; ``static/painter.js`` has the counterpart."""
        return {"labels": _encode(self.labels), "region": _encode(self.region)}

    @classmethod
    def decode(cls, value: object, size: Size, values: int) -> Painting:
        """Reads the painter's value, which anybody may have made up.

        Args:
            value: what came from the page.
            size: of the map.
            values: number of classes, with void where the model knows it.

        Raises:
            DataError: it is no painting of this size and these classes.
        """
        layers = value if isinstance(value, dict) else {}
        return cls(
            _decode(layers.get("labels"), size, values),
            _decode(layers.get("region"), size, 2).astype(bool),
        )


def _encode(pixels: NDArray[np.generic]) -> str:
    """Run lengths, row by row: ``"id length id length ..."``."""
    flat = pixels.ravel().astype(np.int64)
    starts = np.flatnonzero(np.concatenate([[True], flat[1:] != flat[:-1]]))
    lengths = np.diff(np.append(starts, flat.size))
    return " ".join(map(str, np.stack([flat[starts], lengths], axis=1).ravel()))


def _decode(text: object, size: Size, values: int) -> NDArray[np.int64]:
    height, width = size
    pixels = height * width
    # No map of this size needs more: a run takes two numbers of at most eight digits a pixel.
    if not isinstance(text, str) or len(text) > 18 * pixels or not text.isascii():
        raise DataError(f"the page sent no label map of {height}x{width} pixels")
    try:
        numbers = np.array(text.split(" "), np.int64)
        ids, lengths = numbers.reshape(-1, 2).T
    except (ValueError, OverflowError):
        raise DataError("the page sent a damaged label map") from None
    # Each length is checked by itself, too: a sum of huge ones may wrap around.
    if lengths.min() < 1 or lengths.max() > pixels or lengths.sum() != pixels:
        raise DataError(f"the page sent no label map of {height}x{width} pixels")
    if ids.min() < 0 or ids.max() >= values:
        raise DataError(
            f"the page sent class {ids.min() if ids.min() < 0 else ids.max()}: "
            f"expected 0..{values - 1}"
        )
    return np.repeat(ids, lengths).reshape(size)
