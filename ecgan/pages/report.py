"""The report of a run: one HTML page with curves, samples, numbers, settings and warnings."""

from __future__ import annotations

import dataclasses
import math
import time
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from ecgan.config import TrainConfig
from ecgan.data.files import read_image
from ecgan.errors import DataError
from ecgan.pages.record import RunRecord, read_run
from ecgan.pages.render import data_uri, render, webp_bytes, write_atomically

MAX_SHEETS = 40
"""Sample sheets in a page, evenly spread over the run."""
SHEETS_BYTES = 13_000_000
"""Bytes of all of them together; as text in the page they take a third more."""
MAX_POINTS = 2000
"""Points of a curve; more rows are averaged, with their extremes kept."""

_MEANINGS = {
    "gan": "G: adversarial loss",
    "feature_matching": "G: feature matching L_f",
    "perceptual": "G: perceptual loss L_p",
    "similarity": "G: similarity loss L_sim",
    "contrast": "G: contrastive loss",
    "class_l1": "G: class-specific L1",
    "kld": "Image encoder: KL divergence",
    "d_edge": "D: edges",
    "d_image": "D: images",
    "lr_generator": "Learning rate of G",
    "lr_discriminator": "Learning rate of D",
    "images_per_second": "Images per second",
    "memory_gib": "Memory, GiB",
    "skipped": "Skipped steps so far",
}
_SPEED = ("images_per_second", "memory_gib", "skipped")


def write_report(run: Path, out: Path | None = None) -> Path:
    """Writes the report of a run, going on or finished.

    What the folder lacks, or what cannot be read, is told in the page.

    Args:
        run: run folder.
        out: the page; ``RUN/report.html`` when None.

    Returns:
        The page's path.

    Raises:
        DataError: there is no run.
        ConfigError: the page cannot be written.
    """
    record = read_run(run)
    out = out or run / "report.html"
    sheets = _sheets(record)  # first: what cannot be read becomes a warning
    page = render(
        "report",
        title=run.resolve().name,
        made=time.strftime("%Y-%m-%d %H:%M %Z"),
        record=record,
        tiles=_tiles(record),
        warnings=_warnings(record),
        sheets=sheets,
        curves=_curves(record),
        last=_last_values(record),
        changed=_changed(record.config),
        facts={k: v for k, v in record.environment.items() if not isinstance(v, dict)},
        folder=str(run.resolve()),
    )
    write_atomically(out, page)
    return out


def _tiles(record: RunRecord) -> list[tuple[str, str]]:
    """The few numbers at the top: what, and its value."""
    total, config = record.total, record.config
    tiles = [("steps", f"{record.step:,}" + (f" of {total:,}" if total else ""))]
    for key in ("preset", "size"):
        if isinstance(config.get(key), str):
            tiles.append((key, config[key]))
    seconds = _finite(record.metrics.get("seconds", []))
    if seconds:
        tiles.append(("training time", _duration(seconds[-1])))
    speed = _finite(record.metrics.get("images_per_second", []))
    if speed:
        tiles.append(("images per second, median", f"{float(np.median(speed)):.3g}"))
    memory = _finite(record.metrics.get("memory_gib", []))
    if memory:
        tiles.append(("peak memory", f"{max(memory):.2f} GiB"))
    device = record.environment.get("device")
    if isinstance(device, str):
        tiles.append(("device", device))
    return tiles


def _warnings(record: RunRecord) -> list[tuple[str, str]]:
    """Level and sentence of everything that a reader should know before the numbers."""
    found = [
        (
            event.level,
            event.message if event.step is None else f"Step {event.step}: {event.message}",
        )
        for event in record.events
        if event.level in ("warning", "error")
    ]
    for name, values in record.metrics.items():
        wrong = [i for i, v in enumerate(values) if v is not None and not math.isfinite(v)]
        if wrong:
            first = record.metrics["step"][wrong[0]]
            sentence = f"{name} is not finite at step {first:.0f}, the first of {len(wrong)} rows."
            found.append(("error", sentence))
    skipped = _finite(record.metrics.get("skipped", []))
    if skipped and max(skipped) > 0:
        found.append(("warning", f"Skipped steps so far: {max(skipped):.0f}."))
    if record.total and record.step < record.total:
        found.append(
            ("info", f"The run has done {record.step:,} of {record.total:,} steps so far.")
        )
    return found + [("info", problem) for problem in record.problems]


@dataclasses.dataclass
class _Sheet:
    step: int
    uri: str
    width: int
    height: int


def _sheets(record: RunRecord) -> list[_Sheet]:
    """Sample sheets, evenly spread over the run, first and last among them, within the budget."""
    chosen = _spread(record.samples, MAX_SHEETS)
    sheets = []
    for step, path in chosen:
        try:
            sheet = read_image(path)
        except DataError as error:
            record.problems.append(f"A sample sheet is left out: {error}.")
            continue
        content, (height, width) = _fit(sheet, SHEETS_BYTES // len(chosen))
        sheets.append(_Sheet(step, data_uri(content), width, height))
    return sheets


def _fit(sheet: NDArray[np.uint8], limit: int) -> tuple[bytes, tuple[int, int]]:
    """WebP of at most so many bytes, made smaller where it must be, with its height and width."""
    while True:
        height, width = sheet.shape[:2]
        # WebP ends at 16383 pixels a side.
        content = webp_bytes(sheet, 85) if max(height, width) <= 16383 else b""
        if content and (len(content) <= limit or max(height, width) < 64):
            return content, (height, width)
        shrink = 0.7 if not content else min(0.9, math.sqrt(limit / len(content)))
        size = (max(1, int(width * shrink)), max(1, int(height * shrink)))
        sheet = np.array(Image.fromarray(sheet).resize(size, Image.Resampling.LANCZOS))


def _spread(items: Sequence[Any], count: int) -> list[Any]:
    if len(items) <= count:
        return list(items)
    return [items[round(i * (len(items) - 1) / (count - 1))] for i in range(count)]


def _curves(record: RunRecord) -> dict[str, Any]:
    """The metrics as the page's script draws them.

    Rows beyond :data:`MAX_POINTS` are put together: a point is the mean of ``rows`` neighbours,
    with their least and greatest value beside it. None is a gap.
    """
    names = [name for name in record.metrics if name not in ("step", "seconds")]
    count = len(record.metrics.get("step", []))
    rows = max(1, -(-count // MAX_POINTS))
    starts = range(0, count, rows)

    def points(name: str, of: Any) -> list[float | None]:
        column = record.metrics.get(name, [])
        parts = [_finite(column[start : start + rows]) for start in starts]
        return [_short(of(part)) if part else None for part in parts]

    def mean(part: list[float]) -> float:
        return math.fsum(part) / len(part)

    return {
        "rows": rows,
        "step": points("step", max),
        "seconds": points("seconds", max),
        "series": [
            {
                "name": name,
                "title": _MEANINGS.get(name, name),
                "group": _group(name),
                "exact": name == "skipped" or name.startswith("lr_"),
                "mean": points(name, mean),
                "low": points(name, min) if rows > 1 else None,
                "high": points(name, max) if rows > 1 else None,
            }
            for name in names
        ],
    }


def _group(name: str) -> str:
    if name.startswith("d_"):
        return "Discriminator"
    if name.startswith("lr_"):
        return "Learning rates"
    if name.startswith("val"):
        return "Validation"
    return "Speed and memory" if name in _SPEED else "Generator"


def _last_values(record: RunRecord) -> list[tuple[str, str, str, str]]:
    """Name, meaning, value of the last row, mean of the last tenth of the rows."""
    table = []
    for name, values in record.metrics.items():
        if name not in ("step", "seconds") and (known := _finite(values)):
            tail = known[-max(1, len(known) // 10) :]
            mean = f"{math.fsum(tail) / len(tail):.4g}"
            table.append((name, _MEANINGS.get(name, ""), f"{known[-1]:.4g}", mean))
    return table


def _changed(config: Mapping[str, Any]) -> list[tuple[str, str, str]]:
    """Key, value and default of the settings that differ from the defaults."""
    default = dict(_flatten(dataclasses.asdict(TrainConfig())))
    return [
        (key, str(value), str(default.get(key, "no such key in this version")))
        for key, value in _flatten(config)
        if key not in default or default[key] != value
    ]


def _flatten(values: Mapping[Any, Any], prefix: str = "") -> Iterable[tuple[str, Any]]:
    for name, value in values.items():
        if isinstance(value, Mapping):
            yield from _flatten(value, f"{prefix}{name}.")
        else:
            yield f"{prefix}{name}", value


def _finite(values: Iterable[float | None]) -> list[float]:
    return [value for value in values if value is not None and math.isfinite(value)]


def _short(value: float) -> float:
    return float(f"{value:.6g}")


def _duration(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes:02d} min" if hours else f"{minutes} min {rest:02d} s"
