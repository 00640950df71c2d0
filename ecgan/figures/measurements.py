"""Time and memory of the operators over their size, from the rows of the benchmarks."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import matplotlib as mpl
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from ecgan.errors import ConfigError
from ecgan.figures.canvas import STYLE, save

_GIB = 2**30
_OURS = ("cpu", "cuda", "triton", "index included", "index prepared")
# Okabe and Ito's colours, which the colour-blind tell apart; ours are the vivid ones.
_COLOURS = ("#0072B2", "#009E73", "#56B4E9")
_OTHERS = ("#D55E00", "#E69F00", "#CC79A7", "#999999", "#000000")


def draw_measurements(results: Path, out: Path) -> list[Path]:
    """Draws every file of rows in a folder: time and memory over size, and what fits in a budget.

    Args:
        results: folder with the JSON files that the benchmarks write.
        out: where ``NAME.pdf`` and ``NAME.png`` go.

    Returns:
        The files written.

    Raises:
        ConfigError: no rows there, or ``out`` cannot be written to.
    """
    written = []
    for path in sorted(results.glob("*.json")):
        try:
            content = json.loads(path.read_text())
        except (OSError, ValueError) as error:
            raise ConfigError(f"{path} is not a file of benchmark rows: {error}") from None
        if "growth" in content and (series := _series(content["rows"])):
            written += save(_growth(content, series), out, path.stem)
        elif content.get("what") == "capacity" and any("sides" in row for row in content["rows"]):
            written += save(_capacity(content), out, path.stem)
    if not written:
        raise ConfigError(f"{results} holds no benchmark rows of several sizes")
    return written


def _series(rows: list[dict[str, Any]]) -> dict[str, list[dict[str, Any]]]:
    """The rows of the case and direction with most sizes, both before one, by implementation."""
    order = ("both", "forward", "backward")
    counted = Counter((json.dumps(row["case"]), row["direction"]) for row in rows)
    if not counted:
        return {}
    chosen = max(counted, key=lambda key: (counted[key], -order.index(key[1])))
    series: dict[str, list[dict[str, Any]]] = {}
    for row in rows:
        if (json.dumps(row["case"]), row["direction"]) == chosen:
            series.setdefault(row["implementation"], []).append(row)
    series = {
        name: sorted(found, key=lambda row: row["elements"]) for name, found in series.items()
    }
    return series if any(len(found) > 1 for found in series.values()) else {}


def _growth(content: dict[str, Any], series: dict[str, list[dict[str, Any]]]) -> Figure:
    with mpl.rc_context(STYLE):
        figure, (left, right) = _panels()
        floors = {
            row["elements"]: row["floor_seconds"]
            for rows in series.values()
            for row in rows
            if row["floor_seconds"]
        }
        if floors:
            _line(left, sorted(floors.items()), "floor", "#000000", linestyle=":", marker="")
        for name, colour in _colours(series):
            rows = series[name]
            wide = 1.6 if name in _OURS else 1.0
            times = [(row["elements"], row["seconds"]["median"]) for row in rows]
            _line(left, times, name, colour, linewidth=wide)
            low, high = zip(*(row["seconds"]["quartiles"] for row in rows), strict=True)
            left.fill_between([x for x, _ in times], low, high, color=colour, alpha=0.2, lw=0)
            memory = [(r["elements"], r["peak_bytes"] / 2**20) for r in rows if r["peak_bytes"] > 0]
            _line(right, memory, name, colour, linewidth=wide)
        direction = next(iter(series.values()))[0]["direction"]
        passes = "forward and backward" if direction == "both" else direction
        for axes, label in ((left, f"seconds, {passes}"), (right, "MiB at most")):
            axes.set(xscale="log", yscale="log", xlabel="elements", ylabel=label)
        return _finish(figure, left, f"{content['operator']}: {_machine(content)}")


def _capacity(content: dict[str, Any]) -> Figure:
    with mpl.rc_context(STYLE):
        figure, (left, right) = _panels()
        budgets = sorted({row["gib"] for row in content["rows"]})
        rows = [row for row in content["rows"] if row["gib"] == budgets[0]]
        far = max(row["side"] for row in content["rows"]) + 64
        sides = range(64, far, 16)
        for row, colour in zip(rows, (*_OTHERS[:2], *_COLOURS[:2]), strict=False):
            name, model = row["implementation"], row["model"]
            measured = [
                (s, peak / _GIB) for s, peak in zip(row["sides"], row["peaks"], strict=True)
            ]
            left.plot(*zip(*measured, strict=True), "o", color=colour, ms=3)
            curve = [(side, _peak(model, side, 1)) for side in sides]
            _line(left, curve, name, colour, marker="")
            batches = [(b, _peak(model, content["case"]["batch_side"], b)) for b in range(1, 33)]
            _line(right, batches, name, colour, marker="")
        for axes, label in (
            (left, "side of the image, batch 1"),
            (right, f"batch at {content['case']['batch_side']}²"),
        ):
            for budget in budgets:
                axes.axhline(budget, color="#000000", lw=0.6, ls=":")
            axes.set(xlabel=label, ylabel="GiB at most", ylim=(0, 1.2 * budgets[-1]))
        title = f"Step of B6, {content['case']['classes']} classes: {_machine(content)}"
        return _finish(figure, left, title)


def _peak(model: dict[str, float], side: int, batch: int) -> float:
    pixels = side * side
    grows = model["per_pixel"] * pixels + model["per_pair"] * pixels**2
    return (model["fixed"] + batch * grows) / _GIB


def _panels() -> tuple[Figure, Any]:
    figure = Figure(figsize=(5.5, 2.6), layout="constrained")
    FigureCanvasAgg(figure)
    return figure, figure.subplots(1, 2)


def _line(
    axes: Axes, points: Iterable[tuple[float, float]], name: str, colour: str, **style: Any
) -> None:
    points = list(points)
    if points:
        x, y = zip(*points, strict=True)
        look: dict[str, Any] = {"marker": "o", "ms": 2.5, "linewidth": 1.0, **style}
        axes.plot(x, y, label=name, color=colour, **look)


def _colours(series: Iterable[str]) -> list[tuple[str, str]]:
    ours, others = iter(_COLOURS), iter(_OTHERS)
    return [(n, next(ours if n in _OURS else others, "#666666")) for n in series]


def _finish(figure: Figure, axes: Axes, title: str) -> Figure:
    for panel in figure.axes:
        panel.spines[["top", "right"]].set_visible(False)
        panel.grid(True, which="major", lw=0.3, color="#cccccc")
    figure.suptitle(title)
    handles, names = axes.get_legend_handles_labels()
    figure.legend(handles, names, loc="outside lower center", ncols=4, frameon=False)
    return figure


def _machine(content: dict[str, Any]) -> str:
    facts = content["environment"]
    return f"{facts['device']}, torch {facts['torch']}, {facts['date']}"
