"""Trees, lamp posts, signs and traffic lights."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import cv2
import numpy as np

from ecgan.data.scenes.canvas import (
    LIGHT,
    POLE,
    SIGN,
    TREE,
    Array,
    Camera,
    Canvas,
    Light,
    Polygon,
    box,
    ellipse,
    noise,
)

Points = list[tuple[float, float, float]]


@dataclass
class Thing:
    """Something that stands on the ground.

    Attributes:
        z: distance of its nearest point, metres; the painter's order.
        draw: draws it.
        shadow: point sets on the ground whose convex hulls the sun does not reach.
    """

    z: float
    draw: Callable[[Canvas, Camera, Light], None]
    shadow: list[Points]


def ground_shadow(canvas: Canvas, camera: Camera, things: list[Thing]) -> Array:
    """Where things hide the sun from the ground: float32 [H, W], 0..1, softened."""
    mask = np.zeros((canvas.height, canvas.width), np.uint8)
    for thing in things:
        for outline in thing.shadow:
            if min(z for _, _, z in outline) > 1.0:
                hull = cv2.convexHull(np.array(camera.project(outline), np.float32))
                cv2.fillConvexPoly(mask, (hull * 16).astype(np.int32), 255, 8, 4)
    size = max(1, canvas.height // 64) | 1
    soft: Array = cv2.blur(mask, (size, size)).astype(np.float32)
    return soft / np.float32(255)


def fallen(points: Points, light: Light) -> Points:
    """Where the shadows of points fall on the ground."""
    sx, sy, sz = light.sun
    steep = max(sy, 0.25)
    return [(x - y / steep * sx, 0.0, z - y / steep * sz) for x, y, z in points]


def block_shadow(x: float, z: float, wide: float, high: float, deep: float, light: Light) -> Points:
    """Foot and shadow of a box."""
    corners = [(x + side * wide / 2, z + along) for side in (-1, 1) for along in (0.0, deep)]
    foot = [(a, 0.0, b) for a, b in corners]
    return foot + fallen([(a, high, b) for a, b in corners], light)


def rgb(*values: float) -> Array:
    """A colour, or a gray."""
    return np.array(values if len(values) == 3 else values * 3, np.float32)


def tree(rng: np.random.Generator, x: float, z: float, light: Light) -> Thing:
    """A trunk and a crown whose outline and leaves come from noise."""
    height = rng.uniform(4.5, 9.0)
    crown = height * rng.uniform(0.26, 0.36)
    trunk = rng.uniform(0.22, 0.42)
    bare = height - crown * rng.uniform(1.8, 2.3)
    leaf = rgb(0.22 + rng.uniform(-0.04, 0.16), 0.36, 0.12) * np.float32(rng.uniform(0.75, 1.35))
    bark = rgb(0.30, 0.24, 0.18) * np.float32(rng.uniform(0.7, 1.2))
    shift = rng.uniform(0, 256, 2) + 256
    lean = math.copysign(1.0, light.sun[0])

    def draw(canvas: Canvas, camera: Camera, light: Light) -> None:
        thing = canvas.new_thing(TREE, z)
        scale = camera.focal / z
        (column, foot), (_, head) = camera.project([(x, 0, z), (x, height, z)])
        half = max(trunk * scale / 2, 1.0)
        split = foot - bare * scale - crown * scale * 0.3
        stem: Polygon = [(column - half * 0.7, split), (column + half * 0.7, split),
                         (column + half * 1.2, foot), (column - half * 1.2, foot)]  # fmt: skip
        canvas.solid(stem, bark * light.on((-lean * 0.5, 0, -0.8)), thing)
        edge = column + lean * half
        canvas.paint(box(min(column, edge), split, max(column, edge), foot),
                     bark * light.on((lean * 0.7, 0.0, -0.7)))  # fmt: skip

        radius = crown * scale
        middle = head + radius
        area = canvas.window(
            head - radius * 0.2, middle + radius * 1.5, column - radius * 1.3, column + radius * 1.3
        )
        if area is None:
            return
        rows_in, columns_in, rows, columns = area
        down, across = (rows - middle) / radius, (columns - column) / radius
        # Leaves are a few pixels large at every distance.
        grain = 0.6 * radius
        leaves = noise(down * grain + shift[0], across * grain + shift[1], 0.9)
        lump = max(22.0, 0.4 * radius)
        clumps = noise(down * lump + shift[1], across * lump + shift[0], 1.7)
        reach = across**2 + np.where(down > 0, down / 1.25, down) ** 2
        mask = reach < 1.0 + 0.16 * clumps + 0.07 * leaves
        side = 0.5 + 0.35 * (lean * across) - 0.45 * down + 0.30 * clumps
        tone = (1 + 0.24 * leaves).astype(np.float32)
        sunny = tone * np.clip(side, 0.05, 1.0)
        colour = tone[..., None] * (leaf * light.ambient * 0.62)
        colour += sunny[..., None] * (leaf * light.direct * 0.85)
        np.copyto(canvas.colour[rows_in, columns_in], colour, where=mask[..., None])
        np.copyto(canvas.things[rows_in, columns_in], thing, where=mask)

    turns = [k * math.pi / 5 for k in range(10)]
    middle = height - crown
    ring = [(x + crown * math.cos(a), middle + crown * math.sin(a), z) for a in turns]
    return Thing(z, draw, [fallen(ring, light), block_shadow(x, z, trunk, bare, 0.1, light)])


def _post(
    canvas: Canvas, camera: Camera, light: Light, x: float, z: float, height: float, width: float,
    tone: Array,
) -> tuple[float, float, float, int]:  # fmt: skip
    """An upright post: column and row of its head, pixels a metre, its number."""
    thing = canvas.new_thing(POLE, z)
    scale = camera.focal / z
    (column, foot), (_, head) = camera.project([(x, 0, z), (x, height, z)])
    # Two pixels survive the halving of the supersampled canvas as one.
    half = max(width * scale / 2, 1.0)
    canvas.solid(box(column - half, head, column + half, foot), tone * light.on((0, 0, -1)), thing)
    lean = math.copysign(1.0, light.sun[0])
    edge = column + lean * half
    canvas.paint(box(min(column, edge), head, max(column, edge), foot),
                 tone * light.on((lean, 0, 0)))  # fmt: skip
    return column, head, scale, thing


def lamp_post(rng: np.random.Generator, x: float, z: float, light: Light) -> Thing:
    """A street lamp whose arm reaches over the road, or a plain mast."""
    height, width = rng.uniform(5.5, 8.5), rng.uniform(0.12, 0.2)
    arm = -math.copysign(rng.uniform(0.8, 1.8), x) if rng.random() < 0.75 else 0.0
    tone = rgb(rng.uniform(0.25, 0.6))

    def draw(canvas: Canvas, camera: Camera, light: Light) -> None:
        column, head, scale, thing = _post(canvas, camera, light, x, z, height, width, tone)
        if not arm:
            return
        half = max(0.05 * scale, 1.0)
        shade = tone * light.on((0, 0, -1)) * 0.9
        lamp = column + arm * scale
        canvas.solid(box(min(column, lamp), head - half, max(column, lamp), head + half), shade,
                     thing)  # fmt: skip
        glow = rgb(1.0, 0.85, 0.5) * light.night + shade * (1 - light.night)
        canvas.solid(box(lamp - 0.35 * scale, head, lamp + 0.35 * scale, head + 0.16 * scale + 1),
                     glow, thing)  # fmt: skip

    return Thing(z, draw, [block_shadow(x, z, width, height, 0.1, light)])


_RED, _WHITE, _BLUE, _BLACK = rgb(0.78, 0.08, 0.08), rgb(0.91), rgb(0.08, 0.22, 0.62), rgb(0.1)
# Kind: rim, face, mark and the mark's half width and height as shares of the radius.
_SIGNS: dict[str, tuple[Array, Array, Array, float, float]] = {
    "ban": (_RED, _WHITE, _BLACK, 0.45, 0.25),
    "warning": (_RED, _WHITE, _BLACK, 0.12, 0.38),
    "order": (_WHITE, _BLUE, _WHITE, 0.14, 0.42),
    "stop": (_RED, _RED, _WHITE, 0.6, 0.16),
    "yield": (_RED, _WHITE, _WHITE, 0.1, 0.1),
    "panel": (_WHITE, _BLUE, _WHITE, 0.7, 0.14),
}


def _outline(kind: str) -> Polygon:
    if kind in ("warning", "yield"):
        up = -1.0 if kind == "warning" else 1.0
        return [(0.0, up), (0.95, -0.6 * up), (-0.95, -0.6 * up)]
    if kind == "stop":
        return [(math.cos(a), math.sin(a)) for a in ((k + 0.5) * math.pi / 4 for k in range(8))]
    if kind == "panel":
        return [(-1.3, -0.8), (1.3, -0.8), (1.3, 0.8), (-1.3, 0.8)]
    return ellipse(0.0, 0.0, 1.0, 1.0)


def traffic_sign(rng: np.random.Generator, x: float, z: float, light: Light) -> Thing:
    """A sign of one of six kinds on a post."""
    kind = list(_SIGNS)[rng.integers(len(_SIGNS))]
    height, size = rng.uniform(2.3, 2.9), rng.uniform(0.42, 0.58)
    tone = rgb(rng.uniform(0.45, 0.65))
    rim, face, mark, across, down = _SIGNS[kind]
    if kind == "panel":
        face = (_BLUE, rgb(0.05, 0.4, 0.25), rgb(0.85, 0.7, 0.1))[rng.integers(3)]

    def draw(canvas: Canvas, camera: Camera, light: Light) -> None:
        column, head, scale, _ = _post(canvas, camera, light, x, z, height, 0.09, tone)
        lit = light.on((0, 0.2, -1)) * 1.1
        radius = max(size * scale, 2.0)
        row = head + radius * 0.7
        shape = _outline(kind)
        canvas.solid([(column + radius * a, row + radius * b) for a, b in shape], rim * lit,
                     canvas.new_thing(SIGN, z))  # fmt: skip
        inner = radius * (0.9 if kind in ("order", "panel") else 0.72)
        canvas.paint([(column + inner * a, row + inner * b) for a, b in shape], face * lit)
        canvas.paint(box(column - across * radius, row - down * radius,
                         column + across * radius, row + down * radius), mark * lit)  # fmt: skip

    return Thing(z, draw, [block_shadow(x, z, 0.9, height, 0.1, light)])


_LAMPS = (rgb(1.0, 0.18, 0.12), rgb(1.0, 0.72, 0.1), rgb(0.2, 1.0, 0.5))


def traffic_light(rng: np.random.Generator, x: float, z: float, light: Light) -> Thing:
    """Three lamps, one of them lit, on a post or on an arm over the road."""
    height = rng.uniform(3.0, 4.2)
    lit = int(rng.integers(3))
    arm = -math.copysign(rng.uniform(1.5, 3.0), x) if rng.random() < 0.3 else 0.0
    tone = rgb(rng.uniform(0.22, 0.5))

    def draw(canvas: Canvas, camera: Camera, light: Light) -> None:
        top_of_post = height + (1.2 if arm else 0.0)
        column, head, scale, post = _post(canvas, camera, light, x, z, top_of_post, 0.15, tone)
        if arm:
            half = max(0.06 * scale, 1.0)
            reach = column + arm * scale
            canvas.solid(box(min(column, reach), head - half, max(column, reach), head + half),
                         tone * light.on((0, 0, -1)), post)  # fmt: skip
            column = reach
        wide, tall = max(0.24 * scale, 2.0), max(1.15 * scale, 5.0)
        top = head - (0.1 * scale if arm else tall * 0.25)
        canvas.solid(box(column - wide, top, column + wide, top + tall),
                     rgb(0.075) + 0.06 * light.ambient, canvas.new_thing(LIGHT, z))  # fmt: skip
        radius = min(wide * 0.72, tall * 0.14)
        for lamp, colour in enumerate(_LAMPS):
            row = top + tall * (0.2 + 0.3 * lamp)
            canvas.paint(ellipse(column, row, radius, radius),
                         colour * (1.15 if lamp == lit else 0.2))  # fmt: skip

    return Thing(z, draw, [block_shadow(x, z, 0.5, height, 0.2, light)])
