"""The street's cross-section and the rows of houses along it."""

from __future__ import annotations

import math
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from ecgan.data.scenes.canvas import BUILDING, Array, Camera, Canvas, Light, noise, random_cells

NEAR = 1.5
"""Nothing is drawn nearer, in metres."""
_FAR = 95.0  # Houses end there.
_BEHIND, _BIN = -80.0, 0.5  # The height profile's first metre and its resolution.
_GABLE = 3.6  # Half the depth of a house, in metres.
_BANDS = ((NEAR, 6.0), (6.0, 16.0), (16.0, 130.0))  # Street fronts are drawn in these distances.

_WALLS = np.array(
    [[.80, .74, .62], [.72, .45, .34], [.86, .82, .76], [.62, .56, .50], [.78, .62, .44],
     [.55, .33, .27], [.70, .73, .74], [.88, .78, .58], [.58, .62, .66], [.75, .58, .54],
     [.64, .70, .62], [.90, .88, .84]], np.float32)  # fmt: skip
_ROOFS = np.array([[0.45, 0.24, 0.18], [0.32, 0.30, 0.31], [0.52, 0.34, 0.25]], np.float32)
_SHOPS = np.array([[.7, .12, .10], [.10, .30, .50], [.12, .38, .22], [.85, .65, .15],
                   [.20, .20, .22], [.80, .78, .74]], np.float32)  # fmt: skip
# What a facade is made of: rows of its table of colours.
_WALL, _TRIM, _PANE, _BLIND, _LIT, _FASCIA, _DOOR, _TILES = range(8)


@dataclass
class Row:
    """The houses of one side, from near to far; every array has one entry a house.

    Attributes:
        start: metres along z where each begins.
        stop: where each ends; gaps lie in between.
        height: of the eaves.
        roof: height of the ridge above them; 0 is a flat roof.
        storey: height of a storey.
        bay: width of a bay, which holds one window.
        wide: share of the bay that is window.
        high: share of the storey that is window.
        shop: whether the ground floor is one.
        salt: seed of what differs from window to window.
        colours: float32 [n, 8, 3], by material.
    """

    start: Array
    stop: Array
    height: Array
    roof: Array
    storey: Array
    bay: Array
    wide: Array
    high: Array
    shop: NDArray[np.bool_]
    salt: NDArray[np.int32]
    colours: Array


def make_row(rng: np.random.Generator, light: Light, dense: float) -> Row:
    """A row from behind the camera to the distance; ``dense`` of the houses touch the next."""
    count = 24
    length = rng.uniform(7.0, 20.0, count)
    gap = rng.uniform(3.0, 14.0, count) * (rng.random(count) > dense)
    start = np.cumsum(np.concatenate([[-40.0], (length + gap)[:-1]]))
    count = int(np.searchsorted(start, _FAR))
    height = np.maximum(3.5, rng.uniform(5.0, 15.0) * rng.uniform(0.6, 1.4, count))
    pitched = (height < 9.5) & (rng.random(count) < 0.6)

    wall = _WALLS[rng.integers(len(_WALLS), size=count)] * rng.uniform(0.82, 1.08, (count, 1))
    sky = light.skyline * 0.42 / np.maximum(light.ambient + 0.3 * light.direct, 0.2)
    lamp = np.array([1.9, 1.45, 0.8]) * 0.7 / np.maximum(light.ambient, 0.2)
    colours = np.empty((count, 8, 3), np.float32)
    colours[:, _WALL] = wall
    colours[:, _TRIM] = np.clip(wall * 0.55 + 0.42, 0, 1)
    colours[:, _PANE] = sky * 0.6 + 0.04
    colours[:, _BLIND] = (0.70, 0.67, 0.60)
    colours[:, _LIT] = lamp
    colours[:, _FASCIA] = _SHOPS[rng.integers(len(_SHOPS), size=count)]
    colours[:, _DOOR] = _SHOPS[rng.integers(len(_SHOPS), size=count)] * 0.7
    colours[:, _TILES] = _ROOFS[rng.integers(len(_ROOFS), size=count)]

    def real(low: float, high: float) -> Array:
        return rng.uniform(low, high, count).astype(np.float32)

    return Row(
        start=start[:count].astype(np.float32),
        stop=(start + length)[:count].astype(np.float32),
        height=height.astype(np.float32),
        roof=(real(2.2, 3.8) * pitched).astype(np.float32),
        storey=real(2.8, 3.6),
        bay=real(1.7, 3.4),
        wide=real(0.35, 0.7),
        high=real(0.42, 0.66),
        shop=rng.random(count) < 0.35,
        salt=rng.integers(1 << 15, size=count, dtype=np.int32),
        colours=colours,
    )


@dataclass
class Street:
    """Cross-section and houses; index 0 is the left side, 1 the right, distances are positive.

    Attributes:
        kerb: from the camera to the end of the road.
        front: to the end of the pavement.
        wall: to the houses; the strip in between is grass.
        rows: the houses.
    """

    kerb: tuple[float, float]
    front: tuple[float, float]
    wall: tuple[float, float]
    rows: tuple[Row, Row]
    _profile: list[Array] = field(init=False)

    def __post_init__(self) -> None:
        metres = np.arange(_BEHIND, 200.0, _BIN)
        self._profile = []
        for row in self.rows:
            index = np.searchsorted(row.start, metres, side="right") - 1
            inside = (index >= 0) & (metres < row.stop[index])
            self._profile.append(np.where(inside, row.height[index], 0.0).astype(np.float32))

    def sunlit(self, light: Light, x: NDArray | float, y: NDArray | float, z: NDArray) -> Array:
        """1 where a point sees the sun, 0 where a house of the sunny side hides it."""
        sx, sy, sz = light.sun
        side = int(sx > 0)
        ray = (self.wall[side] - x * math.copysign(1.0, sx)) / abs(sx)
        profile = self._profile[side]
        place = ((z + ray * sz - _BEHIND) / _BIN).astype(np.int32)
        heights = profile[np.minimum(np.maximum(place, 0), len(profile) - 1)]
        return (heights <= y + ray * sy).astype(np.float32)


def _facade(
    row: Row, index: NDArray[np.int32], along: Array, up: Array, light: Light, scale: float
) -> tuple[NDArray[np.uint8], Array]:
    """Material and brightness of walls.

    Args:
        row: the houses.
        index: which house each column shows: [1, W] or [1, 1].
        along: metres along the wall, float32 [1, W].
        up: metres above the ground, float32 [H, W].
        light: by night, windows are lit.
        scale: pixels a metre where the wall is nearest.

    Returns:
        uint8 [H, W], a row of the table of colours; float32 [H, W].
    """
    storey = np.maximum(up, 0.0) / row.storey[index]
    bay = along / row.bay[index]
    level = storey - np.floor(storey)
    whole_bay = np.floor(bay)
    centred = np.abs(bay - whole_bay - 0.5)
    salt = row.salt[index]
    cell = random_cells(storey, bay + salt % 977, 0)
    # The texture's grain is a few pixels at every distance.
    grain = 0.35 * scale
    tone = 1 + 0.10 * noise(np.maximum(up, 0) * grain, along * grain + salt % 251, 0.9)
    # Dirt gathers at the foot.
    tone *= 0.86 + 0.14 * np.minimum(np.maximum(up, 0) / 1.5, 1)

    wide, high, height = row.wide[index] / 2, row.high[index], row.height[index]
    low = np.float32(0.28)
    above = level - low
    room = storey < np.floor((height - 0.5) / row.storey[index] - 0.25) + 1
    framed = (above > -0.045) & (above < high + 0.04) & room & (centred < wide + 0.05)
    glazed = framed & (above > 0) & (above < high) & (centred < wide)
    glazed &= (centred > 0.025) | (above > high * 0.9)
    material = framed.astype(np.uint8) * np.uint8(_TRIM)
    np.putmask(material, glazed, _PANE)
    np.putmask(material, glazed & (cell > 0.62) & (above > high * (0.35 + cell * 0.4)), _BLIND)
    if light.night > 0:
        np.putmask(material, glazed & (cell < 0.45 * light.night), _LIT)
    trim = (up > height - 0.45) | ((np.abs(storey - 1.02) < 0.045) & (salt % 3 > 0))
    np.putmask(material, trim, _TRIM)

    ground = up < row.storey[index]
    shop = ground & row.shop[index]
    np.putmask(material, shop & (centred < 0.42) & (level > 0.12) & (level < 0.68),
               _LIT if light.night > 0 else _PANE)  # fmt: skip
    np.putmask(material, shop & (centred < 0.47) & (level > 0.72) & (level < 0.94), _FASCIA)
    entry = (whole_bay % 3 == salt % 3) & (centred < 0.2) & ~row.shop[index]
    np.putmask(material, entry & (up < 2.2), _DOOR)
    tone = np.where(material == _PANE, 0.15 + 1.5 * cell * np.maximum(above, 0), tone)
    return material, tone.astype(np.float32)


def draw_row(canvas: Canvas, camera: Camera, street: Street, light: Light, side: int) -> None:
    """One side: end walls from far to near, then the street front, which hides them."""
    row = street.rows[side]
    plane = math.copysign(street.wall[side], side - 0.5)
    for index in reversed(range(len(row.start))):
        hidden = 0.0
        if index and row.start[index] - row.stop[index - 1] < 0.1:
            hidden = float(row.height[index - 1])
        if row.start[index] > NEAR and hidden < row.height[index] + row.roof[index]:
            _draw_end(canvas, camera, row, index, light, plane, hidden)
    for near, far in _BANDS:
        _draw_front(canvas, camera, street, row, light, plane, near, far)


def _draw_end(
    canvas: Canvas, camera: Camera, row: Row, index: int, light: Light, plane: float, hidden: float
) -> None:
    """The wall across the street's direction, from the height that the next house hides."""
    z, height, ridge = float(row.start[index]), row.height[index], row.roof[index]
    far = plane + math.copysign(2 * _GABLE, plane)
    ends = sorted(camera.centre + camera.focal * x / z for x in (plane, far))
    scale = camera.focal / z
    box = canvas.window(
        camera.horizon - scale * (height + ridge - camera.height),
        camera.horizon - scale * (hidden - camera.height),
        *ends,
    )
    if box is None:
        return
    rows_in, columns_in, rows, columns = box
    along = np.abs((columns - camera.centre) / np.float32(scale) - np.float32(plane))
    up = camera.height - (rows - camera.horizon) / np.float32(scale)
    up = np.broadcast_to(up, (len(rows), columns.shape[1]))
    which = np.full((1, 1), index, np.int32)
    material, tone = _facade(row, which, along, up, light, scale)
    mask = up < height
    if ridge:
        gable = ~mask & (up - height < ridge * (1 - np.abs(along - _GABLE) / _GABLE))
        np.putmask(material, gable, _WALL)
        mask = mask | gable
    shades = row.colours[index] * light.on((0, 0, -1))
    canvas.blend((rows_in, columns_in), mask, shades[material] * tone[..., None], BUILDING, z)


def _draw_front(
    canvas: Canvas, camera: Camera, street: Street, row: Row, light: Light, plane: float,
    near: float, far: float,
) -> None:  # fmt: skip
    """The walls along the street from ``near`` to ``far``, all houses at once, and their roofs.

    A column of pixels shows one point along the street, hence one house.
    """
    seen = (row.stop > near) & (row.start < far)
    if not seen.any():
        return
    scale = camera.focal / near
    sides = sorted(camera.centre + camera.focal * plane / z for z in (near, far))
    top = float((row.height + row.roof)[seen].max())
    box = canvas.window(
        camera.horizon - scale * (top - camera.height),
        camera.horizon + scale * camera.height,
        *sides,
    )
    if box is None:
        return
    rows_in, columns_in, rows, columns = box
    z = np.clip(camera.focal * plane / (columns - camera.centre), near, far).astype(np.float32)
    index = np.maximum(np.searchsorted(row.start, z, side="right") - 1, 0).astype(np.int32)
    height = np.where(z < row.stop[index], row.height[index], np.float32(0))
    up = camera.height - (rows - camera.horizon) * (z / camera.focal)
    material, tone = _facade(row, index, z - row.start[index], up, light, scale)
    mask = (up >= 0) & (up < height)

    normal = -math.copysign(1.0, plane)
    facing = light.on((normal, 0.0, 0.0)) - light.ambient
    # The sky's light fades towards the ground between two rows of houses.
    tone *= 0.80 + 0.20 * np.minimum(np.maximum(up, 0) / 7, 1)
    sun = tone * street.sunlit(light, plane, up, z)
    shine = tone[..., None] * light.ambient
    if facing.any():
        shine += sun[..., None] * facing
    colours = row.colours.reshape(-1, 3)
    colour = colours[index * row.colours.shape[1] + material] * shine
    if row.roof[seen].any():
        # A ray (ratio, rise, 1) * t meets the roof where up = height + pitch * behind.
        ratio = np.abs(columns - camera.centre) / camera.focal
        rise = (camera.horizon - rows) / camera.focal
        pitch, wall = row.roof[index] / _GABLE, abs(plane)
        slope = rise - pitch * ratio
        slope = np.where(np.abs(slope) < 1e-4, np.float32(1e-4), slope)
        meet = (height - camera.height - pitch * wall) / slope
        behind = ratio * meet - wall
        tiles = (behind > 0) & (behind < _GABLE) & (meet > near) & (meet < row.stop[index])
        tiles &= (up >= height) & (height > 0) & (pitch > 0)
        roof = row.colours[index, _TILES] * light.on((normal * 0.6, 0.8, 0.0))
        courses = 0.9 + 0.2 * (behind % 0.35 < 0.17)
        np.copyto(colour, courses[..., None] * roof, where=tiles[..., None])
        mask |= tiles
    canvas.blend((rows_in, columns_in), mask, colour, BUILDING, z)
