"""Sky, skyline, ground and fences of a street."""

from __future__ import annotations

import cv2
import numpy as np
from numpy.typing import NDArray

from ecgan.data.scenes.canvas import (
    BUILDING,
    FENCE,
    GRASS,
    PAVEMENT,
    ROAD,
    TREE,
    Array,
    Camera,
    Canvas,
    Light,
    noise,
    random_cells,
)
from ecgan.data.scenes.houses import NEAR, Street


def draw_sky(canvas: Canvas, camera: Camera, light: Light, rng: np.random.Generator) -> None:
    """A gradient, clouds on a plane overhead, and the sun's glow."""
    # Smooth, so every other row and column will do; nothing of it shows below the horizon.
    deep = min(canvas.height, int(camera.horizon) + 2) // 2 + 1
    rows = np.arange(deep, dtype=np.float32)[:, None] * 2 + 1
    columns = np.arange(canvas.width // 2, dtype=np.float32)[None] * 2 + 1
    up = np.maximum(camera.horizon - rows, 0.0) / camera.focal
    blend = np.clip(up * 1.6, 0.0, 1.0)[..., None] ** 0.7
    across = (columns - camera.centre) / camera.focal
    azimuth = light.sun[0] / max(abs(light.sun[2]), 0.2)
    glow = np.exp(-3.0 * ((across - azimuth) ** 2 + (up - light.sun[1]) ** 2))
    sky = light.skyline + (light.zenith - light.skyline) * blend
    sky = sky + light.direct * (0.25 * glow[..., None])

    shift = rng.uniform(0, 256, 2) + 512
    flat = rng.uniform(16.0, 34.0) / (up + 0.18)
    cover = noise(flat * 2.0 + shift[0], across * flat * 1.2 + shift[1], 1.3)
    cover = np.clip(cover * 0.55 + (light.clouds * 2.4 - 1.2), 0.0, 1.0) * np.clip(up * 9, 0.0, 1.0)
    white = light.ambient * 0.75 + light.direct * 0.35 + 0.12 * (1 - light.night)
    sky = (sky + (white - sky) * (cover * 0.85)[..., None]).astype(np.float32)
    sky = cv2.resize(sky, (canvas.width, deep * 2), interpolation=cv2.INTER_LINEAR)
    canvas.colour[: deep * 2] = sky[: canvas.height]


def draw_skyline(canvas: Canvas, camera: Camera, light: Light, rng: np.random.Generator) -> None:
    """Distant blocks and a belt of trees, both already faded by haze."""
    columns = np.arange(canvas.width, dtype=np.float32)[None]
    unit = camera.focal
    for label, z in ((BUILDING, 260.0), (TREE, 170.0)):
        step = rng.uniform(0.02, 0.05) * unit
        shift = int(rng.integers(1 << 16))
        if label == BUILDING:
            tops = 8 + 34 * random_cells(np.zeros((1, 1)), columns / step, shift) ** 2
            tops *= rng.random() < 0.7
            colour = np.array([0.50, 0.49, 0.50], np.float32)
        else:
            wave = noise(np.full((1, 1), shift % 256), columns / step * 4, 0.9)
            tops = np.maximum(rng.uniform(2.0, 8.0) + 1.6 * wave, 1.3)
            colour = np.array([0.22, 0.30, 0.16], np.float32)
        top = camera.horizon - unit * (tops - camera.height) / z
        area = canvas.window(float(top.min()), camera.horizon + 2, 0, canvas.width)
        if area is None:
            continue
        rows_in, columns_in, rows, _ = area
        texture = 1 + 0.15 * noise(rows, columns + shift % 256, 0.9)
        shade = colour * (light.ambient + 0.4 * light.direct)
        canvas.blend((rows_in, columns_in), rows >= top, texture[..., None] * shade, label, z)


def draw_ground(
    canvas: Canvas,
    camera: Camera,
    street: Street,
    light: Light,
    shadow: NDArray[np.float32],
    rng: np.random.Generator,
) -> None:
    """Road with markings, kerbs, slabs and grass, each pixel traced to the plane y = 0.

    Args:
        canvas: drawn on.
        camera: the view.
        street: where the strips end.
        light: the weather.
        shadow: float32 [H, W], 1 where something other than a house hides the sun.
        rng: the scene's.
    """
    box = canvas.window(camera.horizon + 0.5, canvas.height, 0, canvas.width)
    if box is None:
        return
    rows_in, columns_in, rows, columns = box
    z = camera.focal * camera.height / np.maximum(rows - camera.horizon, 0.25)
    x = (columns - camera.centre) * (z / camera.focal)
    left, right = street.kerb
    on_right = columns > camera.centre
    distance = np.abs(x)
    past = distance - np.where(on_right, right, left).astype(np.float32)
    width = np.where(on_right, street.front[1] - right, street.front[0] - left)
    # 0 road, 1 pavement, 2 grass, 3 paint: the rows of the table of tints below.
    strip = (past > 0).astype(np.uint8)
    strip += past > width.astype(np.float32)
    labels = np.array([ROAD, PAVEMENT, GRASS], np.uint8)[strip]

    shift = rng.uniform(0, 256, 4)
    # Kept positive, where the noise does not fold.
    x_far = x + 400.0
    fine = max(22.0, 0.12 * camera.focal)
    grain = noise(z * fine + shift[0], x_far * fine + shift[1], 0.4) * np.exp(-z / 9)
    patches = noise(z * 1.3 + shift[2], x_far * 3.0 + shift[3], 1.3)
    tone = rng.uniform(0.25, 0.42) * (1 + 0.10 * grain + 0.07 * patches)
    # Wheels polish two tracks a lane.
    tone *= 1 + 0.06 * np.cos((x + left) * (8 * np.pi / (left + right)))
    painted = _markings(x, z, left, right, rng) & (strip == 0)
    tone[painted] = rng.uniform(0.72, 0.92) + 0.07 * patches[painted]
    strip[painted] = 3

    slab = rng.uniform(0.5, 1.1)
    kerb, tread = rng.uniform(0.62, 0.75), rng.uniform(0.48, 0.66)
    paved = strip == 1
    depth = np.broadcast_to(z, x.shape)[paved]
    row, column, beyond = depth / slab, x_far[paved] / slab, past[paved]
    stone = tread * (0.92 + 0.16 * random_cells(row, column, int(shift[0])))
    stone *= 1 + 0.06 * grain[paved] + 0.05 * patches[paved]
    stone[((row % 1 < 0.07) | (column % 1 < 0.07)) & (depth < 18)] *= 0.72
    stone[beyond < 0.22] = kerb
    stone[beyond < 0.05] = 0.35
    tone[paved] = stone
    grown = strip == 2
    depth = np.broadcast_to(z, x.shape)[grown]
    blades = noise(depth * 30 + shift[1], x_far[grown] * 9 + shift[0], 0.4) * np.exp(-depth / 25)
    tone[grown] = 1 + 0.28 * blades + 0.16 * patches[grown]

    warmth = rng.uniform(-0.04, 0.06)
    green = rng.uniform(-0.05, 0.07)
    tints = np.array(
        [[1 + warmth, 1 + 0.2 * warmth, 1 - warmth], [1, 0.97, 0.92],
         [0.30 + green, 0.40 + green, 0.16 + green], [1, 1, 0.98]], np.float32)  # fmt: skip

    sun = street.sunlit(light, x, 0.0, z) * (1 - shadow[rows_in])
    # Walls keep the sky's light from the ground at their foot.
    gap = np.where(on_right, street.wall[1], street.wall[0]).astype(np.float32) - distance
    open_sky = 0.72 + 0.28 * np.clip(gap / 2.5, 0.0, 1.0)
    shine = (tone * open_sky)[..., None] * light.ambient
    shine += (tone * sun)[..., None] * (light.direct * light.sun[1])
    canvas.colour[rows_in, columns_in] = tints[strip] * shine
    canvas.labels[rows_in, columns_in] = labels
    canvas.depth[rows_in, columns_in] = z


def _markings(
    x: Array, z: Array, left: float, right: float, rng: np.random.Generator
) -> NDArray[np.bool_]:
    """Centre line, edge lines and sometimes a zebra crossing: where the road is painted."""
    middle = (right - left) / 2
    period, phase = rng.uniform(4.0, 8.0), rng.uniform(0, 8)
    double, edged, crossing = rng.random(3) < (0.25, 0.5, 0.4)
    if double:
        paint = np.abs(np.abs(x - middle) - 0.15) < 0.06
    else:
        paint = (np.abs(x - middle) < 0.08) & ((z + phase) % period < period * 0.5)
    if edged:
        paint |= (np.abs(x + left - 0.35) < 0.06) | (np.abs(x - right + 0.35) < 0.06)
    if crossing:
        start = rng.uniform(6.0, 16.0)
        stripes = ((x + 50) % 1.0 < 0.5) & (x > -left + 0.3) & (x < right - 0.3)
        paint |= (z > start) & (z < start + 3.0) & stripes
    return paint


def draw_fence(
    canvas: Canvas,
    camera: Camera,
    light: Light,
    plane: float,
    span: tuple[float, float],
    height: float,
    style: int,
    tone: Array,
) -> None:
    """A fence along the street: 0 pickets, 1 iron bars, 2 boards, 3 a low wall with a rail."""
    near, far = max(span[0], NEAR + 0.5), span[1]
    if far <= near:
        return
    sides = sorted(camera.centre + camera.focal * plane / z for z in (near, far))
    scale = camera.focal / near
    box = canvas.window(
        camera.horizon - scale * (height - camera.height),
        camera.horizon + scale * camera.height,
        *sides,
    )
    if box is None:
        return
    rows_in, columns_in, rows, columns = box
    z = np.clip(camera.focal * plane / (columns - camera.centre), near, far).astype(np.float32)
    up = camera.height - (rows - camera.horizon) * (z / camera.focal)
    mask = (up >= 0) & (up < height)
    share = up / height
    rail = (np.abs(share - 0.22) < 0.06) | (np.abs(share - 0.85) < 0.06)
    post = z % 2.2 < 0.16
    if style == 0:
        drawn = mask & (rail | post | (z % 0.24 < 0.15))
    elif style == 1:
        drawn = mask & (rail | post | (z % 0.2 < 0.06))
    elif style == 2:
        drawn = mask
    else:
        drawn = mask & ((share < 0.45) | rail | post)
    shade = 0.85 + 0.3 * random_cells(z / 0.24, np.zeros((1, 1)), int(far * 10))
    shade = shade * (0.85 + 0.15 * share) * (1 - 0.25 * rail)
    colour = shade[..., None] * (tone * light.on((-float(np.sign(plane)), 0.3, 0.0)))
    canvas.blend((rows_in, columns_in), mask, colour.astype(np.float32), FENCE, z, drawn)
