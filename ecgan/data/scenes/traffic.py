"""People and cars."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable

import numpy as np

from ecgan.data.scenes.canvas import (
    CAR,
    PERSON,
    Array,
    Camera,
    Canvas,
    Light,
    Polygon,
    ellipse,
)
from ecgan.data.scenes.furniture import Points, Thing, block_shadow, rgb

_SKIN = np.array(
    [[.87, .68, .55], [.74, .54, .41], [.52, .36, .26], [.36, .24, .17]], np.float32)  # fmt: skip
_CLOTH = np.array(
    [[.12, .13, .16], [.20, .25, .42], [.55, .12, .12], [.80, .78, .72], [.32, .36, .30],
     [.70, .55, .20], [.35, .20, .35], [.25, .45, .55], [.45, .45, .47], [.85, .40, .25]],
    np.float32)  # fmt: skip
_SHOES = rgb(0.08, 0.07, 0.07)
_HEAD = ellipse(0.0, 0.93, 0.06, 0.07)


def person(rng: np.random.Generator, x: float, z: float, light: Light) -> Thing:
    """Someone walking or standing; parts are drawn in shares of the height."""
    height, stride = rng.uniform(1.5, 1.9), rng.uniform(-0.3, 0.3)
    skin = _SKIN[rng.integers(len(_SKIN))]
    coat, legs = _CLOTH[rng.integers(len(_CLOTH))], _CLOTH[rng.integers(len(_CLOTH))] * 0.8
    hair = rgb(0.12, 0.09, 0.07) * np.float32(rng.uniform(0.5, 3.5))
    skirt, long_coat, bag = rng.random(3) < (0.2, 0.3, 0.3)
    turn = rng.uniform(0.75, 1.05)
    hem = 0.36 if long_coat else 0.46

    def draw(canvas: Canvas, camera: Camera, light: Light) -> None:
        thing = canvas.new_thing(PERSON, z)
        scale = camera.focal / z * height
        ((column, foot),) = camera.project([(x, 0, z)])
        lean = math.copysign(1.0, light.sun[0])
        dim, lit = light.on((-lean * 0.6, 0, -0.7)), light.on((lean * 0.7, 0.2, -0.6))

        def place(points: Polygon) -> Polygon:
            return [(column + scale * turn * a, foot - scale * b) for a, b in points]

        def part(points: Polygon, colour: Array) -> None:
            canvas.solid(place(points), colour * dim, thing)

        for swing in (-stride, stride):
            step, hip = swing * 0.45, 0.03 if swing > 0 else -0.03
            part([(step - 0.05, 0), (step + 0.06, 0), (hip + 0.06, 0.5), (hip - 0.06, 0.5)], legs)
            part(
                [(step - 0.06, 0), (step + 0.08, 0), (step + 0.07, 0.035), (step - 0.05, 0.04)],
                _SHOES,
            )
        if skirt:
            part([(-0.15, 0.28), (0.15, 0.28), (0.09, 0.55), (-0.09, 0.55)], coat * 0.8)
        part(
            [(-0.12, hem), (0.12, hem), (0.135, 0.8), (0.06, 0.85), (-0.06, 0.85), (-0.135, 0.8)],
            coat,
        )
        canvas.paint(place([(0.0, hem), (lean * .12, hem), (lean * .135, .8), (lean * .06, .85),
                            (0.0, .85)]), coat * lit)  # fmt: skip
        for arm in (-1, 1):
            hand = arm * (0.17 + 0.1 * abs(stride))
            part([(arm * .13, .8), (arm * .09, .78), (hand - .02, .46), (hand + .03, .46)],
                 coat * 0.9)  # fmt: skip
            part([(hand - 0.025, 0.47), (hand + 0.03, 0.47), (hand, 0.41)], skin)
        if bag:
            part([(0.1, 0.42), (0.24, 0.42), (0.22, 0.58), (0.12, 0.58)], coat[::-1] * 0.7)
        part([(-0.025, 0.83), (0.025, 0.83), (0.025, 0.88), (-0.025, 0.88)], skin)
        part(_HEAD, skin)
        part([point for point in _HEAD if point[1] >= 0.935], hair)

    return Thing(z, draw, [block_shadow(x, z, 0.4, height, 0.15, light)])


_PAINT = np.array(
    [[.88, .88, .87], [.70, .71, .72], [.42, .43, .45], [.08, .08, .09], [.60, .08, .07],
     [.10, .18, .42], [.12, .30, .20], [.72, .66, .54], [.85, .62, .12], [.30, .50, .66]],
    np.float32)  # fmt: skip

# Length and height in metres, then outlines of the side as (share of the length from the tail,
# share of the height): the body and the windows.
_BODIES: list[tuple[float, float, Polygon, Polygon]] = [
    (4.0, 1.48,  # Hatchback.
     [(0, .22), (0, .62), (.05, .68), (.15, .97), (.30, 1.0), (.55, .98), (.74, .64), (.96, .54),
      (1, .42), (1, .22)],
     [(.13, .68), (.19, .92), (.54, .92), (.70, .66)]),
    (4.6, 1.44,  # Saloon.
     [(0, .24), (0, .62), (.16, .66), (.30, .96), (.42, 1.0), (.56, .97), (.72, .65), (.96, .54),
      (1, .42), (1, .24)],
     [(.22, .67), (.32, .92), (.55, .92), (.69, .66)]),
    (4.5, 1.75,  # Off-roader.
     [(0, .24), (0, .60), (.03, .66), (.09, .97), (.25, 1.0), (.58, .98), (.72, .66), (.96, .58),
      (1, .46), (1, .24)],
     [(.07, .67), (.12, .92), (.57, .92), (.69, .67)]),
    (5.0, 2.15,  # Van.
     [(0, .18), (0, .90), (.03, 1.0), (.70, 1.0), (.88, .60), (.98, .46), (1, .36), (1, .18)],
     [(.58, .60), (.60, .88), (.71, .88), (.84, .60)]),
]  # fmt: skip
_GLASS, _TYRE = rgb(0.09), rgb(0.06, 0.06, 0.065)
_CLEAR_LAMP, _RED_LAMP = rgb(0.85, 0.85, 0.82), rgb(0.55, 0.04, 0.04)
_WHEELS = (0.18, 0.81)
_TURNS = [(math.cos(k * math.pi / 6), math.sin(k * math.pi / 6)) for k in range(12)]
_DETAIL = 14.0  # Cars narrower than so many pixels are drawn without lamps and wheels.

# Fills a polygon of (share of the length, share of the height, -1..1 across), its colour last.
_Fill = Callable[[Points, Array], None]


def car(rng: np.random.Generator, x: float, z: float, oncoming: bool, light: Light) -> Thing:
    """A car along the street, seen from its tail, or from its front if ``oncoming``."""
    length, height, body, glass = _BODIES[rng.choice(4, p=(0.35, 0.3, 0.2, 0.15))]
    wide = rng.uniform(1.7, 1.85)
    length, height = length * rng.uniform(0.93, 1.05), height * rng.uniform(0.96, 1.04)
    paint = _PAINT[rng.integers(len(_PAINT))] * np.float32(rng.uniform(0.9, 1.08))
    braking = bool(rng.random() < 0.3)
    radius = 0.31 if height < 1.6 else 0.36

    def draw(canvas: Canvas, camera: Camera, light: Light) -> None:
        thing = canvas.new_thing(CAR, z)
        # The side that is seen; a car straight ahead shows neither.
        seen = -math.copysign(1.0, x) if abs(x) > wide / 2 else 0.0
        detailed = camera.focal / z * wide > _DETAIL
        sky = light.skyline * 0.5

        def project(points: Points) -> Polygon:
            world = []
            for share, up, across in points:
                along = 1 - share if oncoming else share
                # The cabin narrows towards the roof.
                narrow = 1 - 0.55 * max(0.0, up - 0.6)
                world.append((x + across * narrow * wide / 2, up * height, z + along * length))
            return camera.project(world)

        def fill(points: Points, colour: Array) -> None:
            canvas.solid(project(points), colour, thing)

        def wheels(side: float) -> None:
            for share in _WHEELS:
                for size, tone in ((1.0, 0.05), (0.62, 0.45), (0.40, 0.2)):
                    flat, tall = size * radius / length, size * radius / height
                    hub = radius / height
                    fill([(share + a * flat, hub + b * tall, side) for a, b in _TURNS],
                         rgb(tone) * (0.35 + 0.65 * facing))  # fmt: skip

        flank, facing = light.on((seen or 1.0, 0.15, 0.0)), light.on((0, 0, -1))
        if seen and detailed:
            wheels(-seen)
        # Boot, roof, bonnet and windows between the two sides, from far to near.
        pieces = list(itertools.pairwise(body))
        for (s0, u0), (s1, u1) in pieces if oncoming else reversed(pieces):
            run, rise = (s1 - s0) * length, (u1 - u0) * height
            norm = math.hypot(run, rise)
            lift, back = run / norm, -rise / norm * (-1 if oncoming else 1)
            lit = light.on((0.0, lift, back))
            fill([(s0, u0, -1.0), (s0, u0, 1.0), (s1, u1, 1.0), (s1, u1, -1.0)],
                 paint * lit + (0.12 * lift) * sky)  # fmt: skip
            steep = abs(rise) > 0.35 * norm
            # Vans have a window in front only.
            if min(u0, u1) > 0.58 and steep and (glass[0][0] < 0.5 or rise < 0):
                fill([(s0 + (s1 - s0) * a, u0 + (u1 - u0) * a, b)
                      for a, b in ((.1, -.88), (.1, .88), (.9, .88), (.9, -.88))],
                     _GLASS + 0.45 * sky)  # fmt: skip
        if seen:
            fill([(s, u, seen) for s, u in body], paint * flank)
            fill([(s, min(u, 0.46), seen) for s, u in body], paint * flank * 0.82)
            fill([(s, u, seen) for s, u in glass], _GLASS + 0.3 * sky)
        if seen and detailed:
            post = glass[1][0] * 0.4 + glass[2][0] * 0.6
            fill([(post, .62, seen), (post + .025, .62, seen), (post + .025, .95, seen),
                  (post, .95, seen)], paint * flank * 0.7)  # fmt: skip
            fill([(post, .3, seen), (post + .008, .3, seen), (post + .008, .62, seen),
                  (post, .62, seen)], paint * flank * 0.55)  # fmt: skip
        _near_end(fill, facing, oncoming, braking, light.night, detailed)
        if seen and detailed:
            wheels(seen)

    under = [(x + a * (wide / 2 + 0.05), 0.0, z + b) for a in (-1, 1) for b in (-0.15, length)]
    return Thing(z, draw, [block_shadow(x, z, wide, height * 0.85, length, light), under])


def _near_end(
    fill: _Fill, facing: Array, oncoming: bool, braking: bool, night: float, detailed: bool
) -> None:
    """Tyres, bumper, lamps and plate of the end that faces the camera."""
    end = 1.0 if oncoming else 0.0

    def patch(left: float, right: float, low: float, high: float, colour: Array) -> None:
        fill([(end, low, left), (end, low, right), (end, high, right), (end, high, left)], colour)

    for side in (-1, 1):
        patch(side * 0.95, side * 0.68, 0.0, 0.26, _TYRE * (0.6 + facing))
    patch(-0.97, 0.97, 0.16, 0.30, (_TYRE + 0.06) * facing * 2)
    for side in (-1, 1):
        if oncoming:
            lamp = _CLEAR_LAMP * facing + night * rgb(1.0, 0.95, 0.75)
            patch(side * 0.95, side * 0.58, 0.36, 0.43, lamp)
        else:
            lamp = _RED_LAMP * facing + (night * 0.5 + 0.45 * braking) * rgb(1.0, 0.05, 0.03)
            patch(side * 0.97, side * 0.68, 0.42, 0.58, lamp)
    if not detailed:
        return
    if oncoming:
        patch(-0.5, 0.5, 0.33, 0.41, _TYRE + 0.05 * facing)
        patch(-0.26, 0.26, 0.22, 0.29, rgb(0.9) * facing)
    else:
        patch(-0.26, 0.26, 0.36, 0.44, rgb(0.92, 0.85, 0.45) * facing)
