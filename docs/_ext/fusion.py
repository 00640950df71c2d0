"""Pictures of what each operator fuses: `python docs/_ext/fusion.py` writes docs/operators/*.svg.

A picture holds two lanes, eager PyTorch and the operator, for the forward pass at a stated size.
Bytes are computed from shapes; a test compares them with what PyTorch writes and keeps. SVG files
carry their own background and follow the reader's dark mode, so that they can be read anywhere.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from xml.sax.saxutils import escape

from pictures import PICTURES, Box, Lane, Picture

OUT = Path(__file__).parents[1] / "operators"
WIDTH, MARGIN = 820, 18
BOX_WIDTH, BOX_HEIGHT, GAP = 134, 56, 20
COLUMNS = 3  # of boxes between inputs and results
LEFT = MARGIN
MIDDLE = LEFT + BOX_WIDTH + 34
RIGHT = WIDTH - MARGIN - BOX_WIDTH

STYLE = """
svg { color-scheme: light dark }
.page { fill: #fff; stroke: #d5d9de }
text { font: 12px system-ui, sans-serif; fill: #1c2024; text-anchor: middle }
.head { font-weight: 600; font-size: 15px; text-anchor: start }
.note { text-anchor: start; fill: #4a525a }
.name { font-weight: 600; font-size: 13px }
.box { stroke: #5b646d; stroke-width: 1.2 }
.there { fill: #f1f3f5 }
.kept { fill: #ffd9a0; stroke: #a85f00 }
.passing { fill: #fff3df; stroke: #a85f00; stroke-dasharray: 5 3 }
.pile { stroke-dasharray: none; stroke-opacity: 0.5 }
.result { fill: #cfe6d4; stroke: #2d7a43 }
.kernel { fill: #e8f0fb; stroke: #1f5fa8; stroke-width: 2.2 }
.step { fill: #1f4d85; font-size: 13px }
.arrow { stroke: #5b646d; stroke-width: 1.3; fill: none; marker-end: url(#tip) }
#tip path { fill: #5b646d }
@media (prefers-color-scheme: dark) {
.page { fill: #16191d; stroke: #343a41 }
text { fill: #e6e8ea } .note { fill: #aab2ba }
.box { stroke: #8d969f } .there { fill: #262b31 }
.kept { fill: #6b4307; stroke: #f0a63c } .passing { fill: #33260f; stroke: #f0a63c }
.result { fill: #1f4a2b; stroke: #6cc585 }
.kernel { fill: #14273f; stroke: #7db4f0 } .step { fill: #a9cdf5 }
.arrow { stroke: #8d969f } #tip path { fill: #8d969f }
}
"""
LEGEND = (
    ("there", "there anyway"),
    ("kept", "written, kept for backward"),
    ("passing", "written, freed"),
    ("result", "result"),
    ("kernel", "the operator"),
)


@dataclass
class Canvas:
    """SVG elements one below the other."""

    parts: list[str] = field(default_factory=list)
    y: float = 0

    def text(self, x: float, y: float, text: str, style: str) -> None:
        """Text whose middle, or beginning, is at x."""
        self.parts.append(f'<text x="{x:g}" y="{y:g}" class="{style}">{escape(text)}</text>')

    def rect(self, x: float, y: float, width: float, height: float, style: str) -> None:
        """A rounded rectangle."""
        self.parts.append(
            f'<rect x="{x:g}" y="{y:g}" width="{width:g}" height="{height:g}" rx="6" '
            f'class="{style}"/>'
        )

    def arrow(self, points: Sequence[tuple[float, float]]) -> None:
        """A line through points, with a tip."""
        path = " ".join(f"{x:g},{y:g}" for x, y in points)
        self.parts.append(f'<polyline points="{path}" class="arrow"/>')

    def box(self, x: float, y: float, box: Box) -> None:
        """One tensor, or a pile of equal ones."""
        if box.times > 1:
            for shift in (6, 3):
                self.rect(x + shift, y - shift, BOX_WIDTH, BOX_HEIGHT, f"box {box.kind} pile")
        self.rect(x, y, BOX_WIDTH, BOX_HEIGHT, f"box {box.kind}")
        middle = x + BOX_WIDTH / 2
        self.text(middle, y + 18, box.name, "name")
        self.text(middle, y + 34, box.shown_shape, "")
        self.text(middle, y + 49, shown_bytes(box), "")


def shown_bytes(box: Box) -> str:
    """``64 MiB``, with the number of tensors before it."""
    times = f"{box.times} × " if box.times > 1 else ""
    return times + binary(box.bytes // box.times)


def binary(count: int) -> str:
    """Bytes in the largest unit of which there is one."""
    power = min(3, int(math.log2(max(1, count)) // 10))
    value = count / 1024**power
    return f"{value:.3g} {('bytes', 'KiB', 'MiB', 'GiB')[power]}"


def _column(canvas: Canvas, x: float, top: float, height: float, boxes: Sequence[Box]) -> None:
    """Boxes one below the other, in the middle of a lane."""
    y = top + (height - len(boxes) * (BOX_HEIGHT + GAP) + GAP) / 2
    for box in boxes:
        canvas.box(x, y, box)
        y += BOX_HEIGHT + GAP


def _steps(canvas: Canvas, top: float, height: float, lane: Lane) -> None:
    """The middle of the operator's lane: one outline, what happens in it as text."""
    width = RIGHT - 34 - MIDDLE
    canvas.rect(MIDDLE, top, width, height, "kernel")
    y = top + (height - (len(lane.steps) - 1) * 20) / 2 + 4
    for step in lane.steps:
        canvas.text(MIDDLE + width / 2, y, step, "step")
        y += 20


def _grid(canvas: Canvas, top: float, boxes: Sequence[Box]) -> tuple[float, float]:
    """The middle of eager's lane, tensors in the order in which they are written; its sides."""
    step_x = (RIGHT - 34 - MIDDLE - BOX_WIDTH) / (COLUMNS - 1)
    left = MIDDLE + max(0, COLUMNS - len(boxes)) * step_x / 2
    for index, box in enumerate(boxes):
        row, column = divmod(index, COLUMNS)
        x, y = left + column * step_x, top + row * (BOX_HEIGHT + GAP)
        canvas.box(x, y, box)
        if index + 1 < len(boxes) and column + 1 < COLUMNS:
            canvas.arrow([(x + BOX_WIDTH, y + BOX_HEIGHT / 2), (x + step_x, y + BOX_HEIGHT / 2)])
        elif index + 1 < len(boxes):
            low = y + BOX_HEIGHT + GAP / 2
            half = BOX_WIDTH / 2
            below = (left + half, y + BOX_HEIGHT + GAP)
            canvas.arrow([(x + half, y + BOX_HEIGHT), (x + half, low), (below[0], low), below])
    return left, left + (min(len(boxes), COLUMNS) - 1) * step_x + BOX_WIDTH


def _lane(canvas: Canvas, lane: Lane) -> None:
    canvas.text(LEFT, canvas.y + 16, lane.title, "head")
    canvas.text(LEFT, canvas.y + 35, lane.note or _note(lane), "note")
    top = canvas.y + 50
    rows = max(len(lane.inputs), len(lane.results), math.ceil(len(lane.written) / COLUMNS))
    height = rows * (BOX_HEIGHT + GAP) - GAP
    left, right = MIDDLE, RIGHT - 34.0
    if lane.steps:
        height = max(height, len(lane.steps) * 20 + 16)
        _steps(canvas, top, height, lane)
    else:
        used = math.ceil(len(lane.written) / COLUMNS) * (BOX_HEIGHT + GAP) - GAP
        left, right = _grid(canvas, top + (height - used) / 2, lane.written)
    _column(canvas, LEFT, top, height, lane.inputs)
    _column(canvas, RIGHT, top, height, lane.results)
    middle = top + height / 2
    canvas.arrow([(LEFT + BOX_WIDTH + 4, middle), (left - 4, middle)])
    canvas.arrow([(right + 4, middle), (RIGHT - 4, middle)])
    canvas.y = top + height + 22


def _note(lane: Lane) -> str:
    kept = f"keeps {binary(lane.kept)} beside what was there" if lane.kept else "keeps nothing more"
    return f"writes {binary(lane.bytes)}, {kept}"


def svg(picture: Picture) -> str:
    """A picture as the text of an SVG file."""
    canvas = Canvas(y=MARGIN - 4)
    canvas.text(LEFT, canvas.y + 18, picture.size, "note")
    canvas.y += 30
    for lane in (picture.eager, picture.ours):
        _lane(canvas, lane)
    x = float(LEFT)
    for style, meaning in LEGEND:
        canvas.rect(x, canvas.y, 16, 12, f"box {style}")
        canvas.text(x + 22, canvas.y + 11, meaning, "note")
        x += 44 + 6.1 * len(meaning)
    height = canvas.y + 12 + MARGIN
    body = "\n".join(canvas.parts)
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {height:g}" '
        f'width="{WIDTH}" height="{height:g}" role="img">\n'
        f"<title>{escape(picture.title)}</title>\n<style>{STYLE}</style>\n"
        '<defs><marker id="tip" viewBox="0 0 8 8" refX="7" refY="4" markerWidth="7" '
        'markerHeight="7" orient="auto"><path d="M0 0L8 4L0 8z"/></marker></defs>\n'
        f'<rect x="0.5" y="0.5" width="{WIDTH - 1}" height="{height - 1:g}" rx="8" class="page"/>\n'
        f"{body}\n</svg>\n"
    )


def main() -> None:
    """Writes every picture."""
    for name, picture in PICTURES.items():
        (OUT / f"{name}.svg").write_text(svg(picture), encoding="utf-8")


if __name__ == "__main__":
    main()
