"""Sheets of panels for a paper: vector text, shared colour scales, a legend of the classes."""

from __future__ import annotations

import logging
import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import matplotlib as mpl
import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.cm import ScalarMappable
from matplotlib.colors import Normalize
from matplotlib.figure import Figure
from matplotlib.patches import Patch, Rectangle
from matplotlib.ticker import MaxNLocator
from numpy.typing import NDArray

from ecgan.errors import ConfigError

STYLE: Any = {
    "font.family": "sans-serif",
    "font.size": 7,
    "mathtext.fontset": "dejavusans",
    "pdf.fonttype": 42,  # TrueType: text stays text, as publishers ask for
    "svg.fonttype": "none",
    "image.interpolation": "none",
}
# Inches. The width is that of a text column of ICLR's style.
_WIDTH, _GAP, _TITLE, _NOTE, _LINE, _BAR, _MARGIN = 5.5, 0.04, 0.18, 0.13, 0.135, 0.3, 0.04
_DPI = 300
_MAX_LEGEND = 40


@dataclass
class Panel:
    """One cell."""

    pixels: NDArray[np.uint8] | NDArray[np.float32]
    """A picture uint8 [H, W, 3], or a map float [H, W] with a ``scale``."""
    scale: str = ""
    """Name of the map's colour scale."""
    note: str = ""
    """A few words beneath."""
    box: tuple[int, int, int, int] | None = None
    """Top, left, height and width of a frame in pixels."""


@dataclass
class Scale:
    """A colour scale that panels share."""

    label: str
    """What the colours mean."""
    low: float
    """Value of the first colour."""
    high: float
    """Value of the last colour."""
    colours: str = "viridis"
    """Colour map."""
    column: int | None = None
    """Column under which its bar stands; None: in the middle."""

    @staticmethod
    def of(label: str, maps: Sequence[NDArray[Any]], colours: str = "viridis") -> Scale:
        """The scale that reaches from the least to the greatest value of some maps."""
        low = min(float(values.min()) for values in maps)
        high = max(float(values.max()) for values in maps)
        return Scale(label, low, high if high > low else low + 1e-6, colours)


@dataclass
class Sheet:
    """A figure: titled columns, one row a case."""

    titles: list[str]
    """Of the columns; mathematics between dollars."""
    rows: list[list[Panel]]
    """As many panels a row as titles."""
    scales: dict[str, Scale] = field(default_factory=dict)
    """By the names that panels use."""
    legend: list[tuple[str, NDArray[np.uint8]]] = field(default_factory=list)
    """Names and colours of classes."""


def draw(sheet: Sheet) -> Figure:
    """Lays a sheet out; every panel of a row has the same height, every one of a column's width."""
    columns = len(sheet.titles)
    cell = (_WIDTH - 2 * _MARGIN - (columns - 1) * _GAP) / columns
    noted = any(panel.note for row in sheet.rows for panel in row)
    heights = [max(cell * p.pixels.shape[0] / p.pixels.shape[1] for p in r) for r in sheet.rows]
    below = _NOTE if noted else 0.0
    bars = _BAR if sheet.scales else 0.0
    with mpl.rc_context(STYLE):
        entries, per_line = _legend(sheet.legend)
        legend = _LINE * -(-len(entries) // per_line) + 0.07 if entries else 0.0
        body = sum(heights) + len(heights) * below + (len(heights) - 1) * _GAP
        height = _MARGIN + _TITLE + body + bars + legend + _MARGIN
        figure = Figure(figsize=(_WIDTH, height))
        FigureCanvasAgg(figure)
        top = height - _MARGIN
        for column, title in enumerate(sheet.titles):
            x = _MARGIN + column * (cell + _GAP) + cell / 2
            figure.text(x / _WIDTH, (top - _TITLE / 2) / height, title, ha="center", va="center")
        y = top - _TITLE
        for row, tall in zip(sheet.rows, heights, strict=True):
            y -= tall
            for column, panel in enumerate(row):
                x = _MARGIN + column * (cell + _GAP)
                axes = figure.add_axes((x / _WIDTH, y / height, cell / _WIDTH, tall / height))
                _fill(axes, panel, sheet.scales)
                if panel.note:
                    at = ((x + cell / 2) / _WIDTH, (y - below / 2) / height)
                    figure.text(*at, panel.note, ha="center", va="center", size=6)
            y -= below + _GAP
        for scale in sheet.scales.values():
            middle = _WIDTH / 2
            if scale.column is not None:
                middle = _MARGIN + scale.column * (cell + _GAP) + cell / 2
            wide = 2.2 if scale.column is None else 0.8 * cell
            _bar(figure, scale, (middle - wide / 2, y + _GAP - 0.13), wide)
        if entries:
            figure.legend(
                handles=entries,
                loc="lower center",
                bbox_to_anchor=(0.5, _MARGIN / 2 / height),
                ncols=per_line,
                frameon=False,
                handlelength=1.0,
                handleheight=1.0,
                columnspacing=1.0,
                labelspacing=0.35,
                borderpad=0.0,
                borderaxespad=0.0,
            )
    return figure


def save(figure: Figure, out: Path, name: str) -> list[Path]:
    """Writes ``out/NAME.pdf`` and ``out/NAME.png``, each whole or not at all.

    Raises:
        ConfigError: the place cannot be written to.
    """
    written = []
    try:
        out.mkdir(parents=True, exist_ok=True)
        for kind in ("pdf", "png"):
            path = out / f"{name}.{kind}"
            temporary = out / f".{name}.writing.{kind}"
            # No date: the same run gives the same file.
            metadata = {"CreationDate": None} if kind == "pdf" else None
            with mpl.rc_context(STYLE), _quiet_fonts():
                figure.savefig(temporary, dpi=_DPI, metadata=metadata)
            os.replace(temporary, path)
            written.append(path)
    except OSError as error:
        raise ConfigError(f"{out} cannot be written to: {error.strerror or error}") from None
    return written


@contextmanager
def _quiet_fonts() -> Iterator[None]:
    """Without fontTools' remarks on the dates inside matplotlib's own fonts."""
    logger = logging.getLogger("fontTools")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        yield
    finally:
        logger.setLevel(level)


def _fill(axes: Any, panel: Panel, scales: dict[str, Scale]) -> None:
    if panel.pixels.ndim == 2:
        scale = scales[panel.scale]
        axes.imshow(panel.pixels, cmap=scale.colours, vmin=scale.low, vmax=scale.high)
    else:
        axes.imshow(panel.pixels)
    axes.set_xticks([])
    axes.set_yticks([])
    for spine in axes.spines.values():
        spine.set_visible(False)
    if panel.box is not None:
        top, left, tall, wide = panel.box
        for colour, thick in (("black", 1.6), ("white", 0.8)):  # visible on any ground
            frame = Rectangle((left - 0.5, top - 0.5), wide, tall, fill=False)
            frame.set(edgecolor=colour, linewidth=thick)
            axes.add_patch(frame)


def _bar(figure: Figure, scale: Scale, corner: tuple[float, float], wide: float) -> None:
    """A colour bar whose lower left corner and width are given in inches."""
    (x, y), height = corner, float(figure.get_figheight())
    axes = figure.add_axes((x / _WIDTH, y / height, wide / _WIDTH, 0.06 / height))
    colours = ScalarMappable(Normalize(scale.low, scale.high), scale.colours)
    bar = figure.colorbar(colours, cax=axes, orientation="horizontal")
    bar.locator = MaxNLocator(3 if wide < 1.2 else 5)
    bar.update_ticks()
    bar.outline.set_linewidth(0.4)
    axes.tick_params(length=1.5, width=0.4, pad=1, labelsize=5.5)
    where = ((x - 0.04) / _WIDTH, (y + 0.03) / height)
    figure.text(*where, scale.label, ha="right", va="center", size=6)


def _legend(classes: Sequence[tuple[str, NDArray[np.uint8]]]) -> tuple[list[Patch], int]:
    """Patches, and how many stand on a line."""
    entries = [
        Patch(facecolor=tuple(colour / 255), edgecolor="0.4", linewidth=0.3, label=name)
        for name, colour in classes[:_MAX_LEGEND]
    ]
    if len(classes) > _MAX_LEGEND:
        rest = f"and {len(classes) - _MAX_LEGEND} more"
        entries.append(Patch(facecolor="none", edgecolor="none", label=rest))
    longest = max((len(str(entry.get_label())) for entry in entries), default=1)
    # About 0.05 inches a letter, and the patch with its gaps.
    return entries, max(1, min(len(entries), int((_WIDTH - 0.2) / (0.05 * longest + 0.3))))
