"""What every part of a scene draws with: camera, light, canvas and noise."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass
from functools import lru_cache

import cv2
import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float32]
Polygon = list[tuple[float, float]]
"""Corners as column and row in pixels."""

(SKY, BUILDING, ROAD, PAVEMENT, TREE, GRASS, FENCE, POLE, LIGHT, SIGN, PERSON, CAR) = range(12)

_COUNTED = (LIGHT, SIGN, PERSON, CAR)  # Classes whose members get an instance id each.
_TILE = 256
_SHIFT = 4  # Fractional bits of polygon corners.


@lru_cache(maxsize=8)
def _noise_tile(smoothness: float) -> Array:
    """Periodic noise, float32 [256, 256], mean 0, deviation 1, spectrum f**-smoothness.

    The same for every scene: scenes differ in where they look into it.
    """
    rng = np.random.default_rng(20230501)
    frequency = np.hypot(np.fft.fftfreq(_TILE)[:, None], np.fft.rfftfreq(_TILE)[None])
    frequency[0, 0] = 1.0
    spectrum = np.fft.rfft2(rng.standard_normal((_TILE, _TILE))) / frequency**smoothness
    spectrum[0, 0] = 0.0
    tile = np.fft.irfft2(spectrum, (_TILE, _TILE))
    return (tile / tile.std()).astype(np.float32)


@lru_cache(maxsize=1)
def _random_tile() -> Array:
    return np.random.default_rng(20230502).random((_TILE, _TILE), np.float32)


def noise(rows: NDArray, columns: NDArray, smoothness: float) -> Array:
    """Looks noise up at real coordinates, in tile pixels, broadcast against each other."""
    return _look_up(_noise_tile(smoothness), rows, columns)


def random_cells(rows: NDArray, columns: NDArray, salt: int) -> Array:
    """A repeatable number in [0, 1) for each integer cell, given as real coordinates."""
    return _look_up(_random_tile(), rows + salt % 251, columns + salt // 251)


def _look_up(tile: Array, rows: NDArray, columns: NDArray) -> Array:
    # Truncation instead of floor is cheaper and folds the tile at zero, which nobody sees.
    mask = _TILE - 1
    return tile[rows.astype(np.int32) & mask, columns.astype(np.int32) & mask]


@dataclass(frozen=True)
class Camera:
    """A pinhole camera at (0, height, 0) that looks along +z; x is right, y is up, in metres.

    The vanishing point may lie off the centre, so verticals stay vertical in every scene.
    """

    focal: float
    height: float
    centre: float
    horizon: float

    def project(self, points: Iterable[tuple[float, float, float]]) -> Polygon:
        """World points to pixel columns and rows."""
        return [
            (self.centre + self.focal * x / z, self.horizon - self.focal * (y - self.height) / z)
            for x, y, z in points
        ]


@dataclass(frozen=True)
class Light:
    """Weather and time of day.

    Attributes:
        sun: unit vector towards the sun; its x is never 0.
        direct: colour of sunlight on a surface that faces it.
        ambient: colour of the sky's light.
        haze: colour that distance fades to.
        density: share of haze gained a metre.
        zenith: sky colour overhead.
        skyline: sky colour at the horizon.
        clouds: cover, 0..1.
        night: 0 by day; lit windows and lamps grow with it.
    """

    sun: tuple[float, float, float]
    direct: Array
    ambient: Array
    haze: Array
    density: float
    zenith: Array
    skyline: Array
    clouds: float
    night: float

    def on(self, normal: tuple[float, float, float]) -> Array:
        """Light on an unshaded surface: float32 [3]."""
        (x, y, z), (a, b, c) = self.sun, normal
        return self.ambient + self.direct * max(0.0, x * a + y * b + z * c)


class Canvas:
    """Photo, labels, instances and distance, drawn from far to near.

    Stuff (sky, ground, houses, fences) has labels and distances of its own at every pixel; whatever
    is drawn later is a thing, which has one label and one distance, so one map of numbers holds it.

    Attributes:
        colour: float32 [H, W, 3].
        labels: uint8 [H, W], stuff only.
        depth: float32 [H, W], metres, stuff only; 0 for the sky, which carries its own haze.
        things: int32 [H, W], the number of the thing on top; 0 is stuff.
    """

    def __init__(self, height: int, width: int) -> None:
        self.height, self.width = height, width
        self.colour = np.zeros((height, width, 3), np.float32)
        self.labels = np.full((height, width), SKY, np.uint8)
        self.depth = np.zeros((height, width), np.float32)
        self.things = np.zeros((height, width), np.int32)
        self._thing_labels = [0]
        self._thing_depths = [0.0]

    def new_thing(self, label: int, z: float) -> int:
        """The number of a new thing of a class at distance ``z``."""
        self._thing_labels.append(label)
        self._thing_depths.append(z)
        return len(self._thing_labels) - 1

    def paint(self, points: Polygon, colour: Array) -> None:
        """Fills a polygon of the photo alone."""
        cv2.fillPoly(self.colour, [_corners(points)], colour.tolist(), 8, _SHIFT)

    def solid(self, points: Polygon, colour: Array, thing: int) -> None:
        """Fills a polygon of the photo and gives it to a thing."""
        corners = [_corners(points)]
        cv2.fillPoly(self.colour, corners, colour.tolist(), 8, _SHIFT)
        cv2.fillPoly(self.things, corners, thing, 8, _SHIFT)

    def clarity(self, density: float) -> Array:
        """Share of light that haze lets through: float32 [H, W]."""
        stuff = np.exp(self.depth * np.float32(-density))
        things = np.exp(np.array(self._thing_depths, np.float32) * np.float32(-density))
        return np.where(self.things > 0, things[self.things], stuff)

    def maps(self, pick: slice) -> tuple[NDArray[np.uint8], NDArray[np.int32]]:
        """Labels, uint8, and instances, int32, of every row and column that ``pick`` takes."""
        things, stuff = self.things[pick, pick], self.labels[pick, pick]
        table = np.array(self._thing_labels)
        labels = np.where(things > 0, table[things], stuff).astype(np.uint8)
        counted = (things > 0) & np.isin(labels, _COUNTED)
        return labels, np.where(counted, 1000 * labels.astype(np.int32) + things, labels)

    def window(
        self, top: float, bottom: float, left: float, right: float
    ) -> tuple[slice, slice, NDArray[np.float32], NDArray[np.float32]] | None:
        """The pixels of a box: slices and pixel centres (rows [h, 1], columns [1, w]), or None."""
        top, left = max(0, int(np.floor(top))), max(0, int(np.floor(left)))
        bottom = min(self.height, int(np.ceil(bottom)))
        right = min(self.width, int(np.ceil(right)))
        if top >= bottom or left >= right:
            return None
        rows = np.arange(top, bottom, dtype=np.float32)[:, None] + np.float32(0.5)
        columns = np.arange(left, right, dtype=np.float32)[None] + np.float32(0.5)
        return slice(top, bottom), slice(left, right), rows, columns

    def blend(
        self,
        where: tuple[slice, slice],
        mask: NDArray[np.bool_],
        colour: Array,
        label: int,
        depth: NDArray | float,
        drawn: NDArray[np.bool_] | None = None,
    ) -> None:
        """Writes a textured region of stuff.

        Args:
            where: its box.
            mask: bool [h, w], the pixels that get the label.
            colour: float32 [h, w, 3].
            label: class.
            depth: metres, broadcast to [h, w].
            drawn: the pixels of ``mask`` whose photo changes, where these are fewer.
        """
        np.copyto(self.colour[where], colour, where=(mask if drawn is None else drawn)[..., None])
        np.copyto(self.labels[where], np.uint8(label), where=mask)
        np.copyto(self.depth[where], depth, where=mask, casting="same_kind")


def _corners(points: Polygon) -> NDArray[np.int32]:
    # Half a pixel less, because OpenCV's corners are pixel centres.
    return np.array([(int(u * 16 - 8), int(v * 16 - 8)) for u, v in points], np.int32)


def box(left: float, top: float, right: float, bottom: float) -> Polygon:
    """An upright rectangle."""
    return [(left, top), (right, top), (right, bottom), (left, bottom)]


_CIRCLE = [(math.cos(k * math.pi / 9), math.sin(k * math.pi / 9)) for k in range(18)]


def ellipse(column: float, row: float, across: float, down: float) -> Polygon:
    """An ellipse with the given half axes."""
    return [(column + across * x, row + down * y) for x, y in _CIRCLE]
