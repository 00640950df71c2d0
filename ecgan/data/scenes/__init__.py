"""Procedural street scenes: pairs of label map and photo that nobody has to download.

A scene is drawn from its seed alone: the weather, a street with houses on both sides, and what
stands and drives on it, in one perspective. Labels, instances and photo come from the same
geometry, so they agree to the pixel. Nothing here is a photograph; it is meant for trying,
testing and demonstrating, and has what a generator must learn: texture a class, light and shadow
across classes, objects that overlap, thin and small things, edges inside regions.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray

from ecgan.data.classes import ClassTable
from ecgan.data.scenes import backdrop, furniture, houses, traffic
from ecgan.data.scenes.canvas import Array, Camera, Canvas, Light

SCENE_CLASSES = ClassTable(
    names=("sky", "building", "road", "pavement", "tree", "grass", "fence", "pole",
           "traffic light", "traffic sign", "person", "car"),
    colours=np.array(
        [[70, 130, 180], [110, 80, 80], [128, 64, 128], [244, 35, 232], [35, 110, 35],
         [152, 251, 152], [190, 153, 153], [200, 200, 200], [250, 170, 30], [220, 220, 0],
         [220, 20, 60], [30, 30, 190]], np.uint8),
    file_ids=tuple(range(12)),
    void_ids=(255,),
)  # fmt: skip
"""The 12 classes of a scene."""

_SUPERSAMPLING = 2
_TONE_STEPS = 1024
# Film's shoulder: light from 0 to 2 in steps, to 8 bits.
_TONE = (255.5 * (1 - np.exp(-2.05 * (np.arange(2 * _TONE_STEPS) / _TONE_STEPS) ** 1.12))).astype(
    np.uint8
)


@dataclass(frozen=True)
class Scene:
    """A rendered pair.

    Attributes:
        image: uint8 [H, W, 3], RGB.
        labels: uint8 [H, W], 0..11.
        instances: int32 [H, W]; the label for stuff, 1000 * label + k for things.
    """

    image: NDArray[np.uint8]
    labels: NDArray[np.uint8]
    instances: NDArray[np.int32]


def render_scene(seed: int | Sequence[int], size: tuple[int, int]) -> Scene:
    """Draws one scene.

    Args:
        seed: non-negative integers; the same seed and size give the same scene.
        size: height and width in pixels.
    """
    rng = np.random.default_rng(seed)
    height, width = size[0] * _SUPERSAMPLING, size[1] * _SUPERSAMPLING
    canvas = Canvas(height, width)
    camera = Camera(
        focal=float(np.sqrt(height * width)) * rng.uniform(0.72, 0.92),
        height=rng.uniform(1.4, 2.1),
        centre=width * rng.uniform(0.36, 0.64),
        horizon=height * rng.uniform(0.40, 0.50),
    )
    light = _weather(rng)
    street = _street(rng, light)
    things = _furnish(rng, street, light)

    backdrop.draw_sky(canvas, camera, light, rng)
    backdrop.draw_skyline(canvas, camera, light, rng)
    shadow = furniture.ground_shadow(canvas, camera, things)
    backdrop.draw_ground(canvas, camera, street, light, shadow, rng)
    for side in (0, 1):
        houses.draw_row(canvas, camera, street, light, side)
        if rng.random() < 0.6:
            _draw_fence(canvas, camera, street, light, side, rng)
    for thing in sorted(things, key=lambda thing: -thing.z):
        thing.draw(canvas, camera, light)
    return _develop(canvas, light, rng)


def _weather(rng: np.random.Generator) -> Light:
    """Clear, hazy, overcast, golden hour or dusk."""
    mood = int(rng.choice(5, p=(0.38, 0.17, 0.22, 0.13, 0.10)))
    across = rng.uniform(0.3, 1.0) * rng.choice((-1.0, 1.0))
    rise = (rng.uniform(0.6, 1.4), rng.uniform(0.5, 1.1), 0.8, rng.uniform(0.22, 0.4), 0.5)[mood]
    sun = np.array([across, rise, rng.uniform(-0.9, 0.5)])
    sun /= np.linalg.norm(sun)
    direct, ambient, haze, zenith, skyline = np.array(
        [
            [[.78, .72, .60], [.50, .54, .62], [.72, .80, .88], [.25, .46, .80], [.70, .82, .93]],
            [[.50, .46, .40], [.60, .61, .63], [.80, .81, .82], [.58, .68, .80], [.86, .87, .87]],
            [[.10, .10, .10], [.72, .74, .77], [.74, .76, .78], [.62, .65, .69], [.84, .85, .86]],
            [[.95, .62, .30], [.44, .44, .52], [.90, .72, .52], [.38, .47, .68], [.97, .76, .50]],
            [[.06, .06, .10], [.36, .38, .52], [.44, .42, .54], [.13, .18, .36], [.62, .47, .48]],
        ],
        np.float32,
    )[mood]  # fmt: skip
    return Light(
        sun=(float(sun[0]), float(sun[1]), float(sun[2])),
        direct=direct * np.float32(rng.uniform(0.85, 1.1)),
        ambient=ambient * np.float32(rng.uniform(0.9, 1.1)),
        haze=haze,
        density=float((0.004, 0.012, 0.008, 0.008, 0.006)[mood] * rng.uniform(0.6, 1.6)),
        zenith=zenith,
        skyline=skyline,
        clouds=float((0.45, 0.5, 0.9, 0.5, 0.5)[mood] + rng.uniform(-0.2, 0.1)),
        night=1.0 if mood == 4 else 0.0,
    )


def _street(rng: np.random.Generator, light: Light) -> houses.Street:
    lanes = rng.uniform(5.5, 9.5)
    ours = lanes * rng.uniform(0.22, 0.42)
    kerb = (lanes - ours, ours)
    front = (kerb[0] + rng.uniform(1.5, 3.5), kerb[1] + rng.uniform(1.5, 3.5))
    lawns = rng.uniform(0.8, 5.0, 2) * (rng.random(2) < 0.6)
    wall = (front[0] + float(lawns[0]), front[1] + float(lawns[1]))
    dense = rng.uniform(0.4, 0.95)
    rows = houses.make_row(rng, light, dense), houses.make_row(rng, light, dense)
    return houses.Street(kerb, front, wall, rows)


def _furnish(
    rng: np.random.Generator, street: houses.Street, light: Light
) -> list[furniture.Thing]:
    """Places what stands on the pavements and the road."""
    things: list[furniture.Thing] = []
    for side, sign in ((0, -1.0), (1, 1.0)):
        kerb, front, wall = street.kerb[side], street.front[side], street.wall[side]
        z = rng.uniform(4.0, 12.0)
        spacing = rng.uniform(7.0, 16.0)
        planted = rng.random() < 0.65
        while planted and z < 55:
            inside = wall - front > 1.5 and rng.random() < 0.7
            x = rng.uniform(front + 0.5, wall - 0.5) if inside else kerb + 0.7
            things.append(furniture.tree(rng, sign * x, z, light))
            z += spacing * rng.uniform(0.7, 1.4)
        z, spacing = rng.uniform(5.0, 16.0), rng.uniform(14.0, 26.0)
        while z < 60:
            things.append(furniture.lamp_post(rng, sign * (kerb + 0.4), z, light))
            z += spacing
        for _ in range(rng.integers(0, 3)):
            place = rng.uniform(5.0, 22.0)
            things.append(furniture.traffic_sign(rng, sign * (kerb + 0.55), place, light))
        if rng.random() < 0.55:
            place = rng.uniform(7.0, 24.0)
            things.append(furniture.traffic_light(rng, sign * (kerb + 0.35), place, light))
        for _ in range(rng.integers(0, 5)):
            x = sign * rng.uniform(kerb + 0.6, front - 0.3)
            things.append(traffic.person(rng, x, float(rng.uniform(4.0, 26.0)), light))
        if rng.random() < 0.6:
            z = rng.uniform(3.5, 14.0)
            while z < 45:
                facing = bool(sign < 0) != (rng.random() < 0.15)
                things.append(traffic.car(rng, sign * (kerb - 1.05), z, facing, light))
                z += rng.uniform(5.6, 13.0)
    middle = (street.kerb[1] - street.kerb[0]) / 2
    for oncoming in (False, True):
        z = rng.uniform(8.0, 30.0)
        while z < 60 and rng.random() < 0.6:
            lane = (middle + street.kerb[1]) / 2 if not oncoming else (middle - street.kerb[0]) / 2
            lane += (-0.5 if lane > middle else 0.5) * 0.6
            things.append(traffic.car(rng, float(lane), z, oncoming, light))
            z += rng.uniform(8.0, 30.0)
    if rng.random() < 0.25:
        x = float(rng.uniform(-street.kerb[0], street.kerb[1]))
        things.append(traffic.person(rng, x, float(rng.uniform(7.0, 20.0)), light))
    return things


def _draw_fence(
    canvas: Canvas,
    camera: Camera,
    street: houses.Street,
    light: Light,
    side: int,
    rng: np.random.Generator,
) -> None:
    sign = 1.0 if side else -1.0
    lawn = street.wall[side] - street.front[side] > 0.5
    start = rng.uniform(1.5, 14.0)
    tones = np.array(
        [[0.88, 0.87, 0.84], [0.12, 0.13, 0.13], [0.48, 0.34, 0.22], [0.60, 0.58, 0.55]]
    )
    style = int(rng.integers(4))
    backdrop.draw_fence(
        canvas,
        camera,
        light,
        plane=sign * (street.front[side] + 0.05 if lawn else street.kerb[side] + 0.15),
        span=(start, start + rng.uniform(10.0, 40.0)),
        height=rng.uniform(0.9, 1.5) if lawn else 0.95,
        style=style if lawn else 1,
        tone=(tones[style if lawn else 1] * rng.uniform(0.8, 1.1)).astype(np.float32),
    )


def _develop(canvas: Canvas, light: Light, rng: np.random.Generator) -> Scene:
    """Haze, the lens, the sensor; then down to the wanted size."""
    height, width = canvas.height // _SUPERSAMPLING, canvas.width // _SUPERSAMPLING
    clear = canvas.clarity(light.density)[..., None]
    bright = cv2.resize(canvas.colour * clear, (width, height), interpolation=cv2.INTER_AREA)
    veil = 1 - cv2.resize(clear, (width, height), interpolation=cv2.INTER_AREA)[..., None]
    colour: Array = np.asarray(bright, np.float32) + veil * light.haze

    rows = np.linspace(-1, 1, height, dtype=np.float32)[:, None]
    columns = np.linspace(-1, 1, width, dtype=np.float32)[None]
    vignette = 1 - np.float32(rng.uniform(0.02, 0.12)) * (rows**2 + columns**2)
    colour = colour * vignette[..., None] * np.float32(rng.uniform(0.9, 1.08))
    grain = rng.standard_normal((height, width, 1), np.float32) * np.float32(0.006)
    steps = ((colour + grain) * _TONE_STEPS).astype(np.int32)
    image = _TONE[np.minimum(np.maximum(steps, 0), len(_TONE) - 1)]
    labels, instances = canvas.maps(slice(_SUPERSAMPLING // 2, None, _SUPERSAMPLING))
    return Scene(image, labels, instances)
