"""What a run folder holds, read leniently: a run may be going on, cut off or damaged."""

from __future__ import annotations

import csv
import io
import json
import math
import re
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from ecgan.errors import DataError

_STEP = re.compile(r"step-(\d+)")


@dataclass
class Event:
    """Something that happened during the run."""

    time: str
    """ISO 8601, as recorded; may be empty."""
    step: int | None
    """Step it happened at."""
    level: str
    """info, warning or error."""
    message: str
    """One sentence."""


@dataclass
class RunRecord:
    """The readable part of a run folder."""

    path: Path
    """The folder."""
    metrics: dict[str, list[float | None]] = field(default_factory=dict)
    """Columns of metrics.csv, all of one length, ``step`` among them; None where a cell is empty,
    NaN and infinities as they are."""
    events: list[Event] = field(default_factory=list)
    """Lines of events.jsonl."""
    environment: dict[str, Any] = field(default_factory=dict)
    """environment.json."""
    config: dict[str, Any] = field(default_factory=dict)
    """config.yaml."""
    config_text: str = ""
    """config.yaml as it stands."""
    evaluation: Any = None
    """evaluation.json, whatever it holds."""
    samples: list[tuple[int, Path]] = field(default_factory=list)
    """Step and file of each sample sheet, in order."""
    checkpoints: list[int] = field(default_factory=list)
    """Steps of the complete checkpoints, in order."""
    problems: list[str] = field(default_factory=list)
    """What is missing or could not be read, one sentence each."""

    @property
    def step(self) -> int:
        """The last step that anything in the folder tells of."""
        logged = [int(step) for step in self.metrics.get("step", []) if step is not None]
        return max([0, *logged, *(step for step, _ in self.samples), *self.checkpoints])

    @property
    def total(self) -> int | None:
        """Steps that the run was to do, where the folder tells."""
        steps = self.environment.get("steps")
        return steps if isinstance(steps, int) and steps > 0 else None


def read_run(path: Path) -> RunRecord:
    """Reads a run folder.

    Raises:
        DataError: the path is no folder, or nothing of a run is in it.
    """
    if not path.is_dir():
        raise DataError(f"{path} is no run folder: expected a folder that `ecgan train` wrote")
    record = RunRecord(path)
    record.samples = sorted(_steps(path / "samples", "step-*.png"))
    record.checkpoints = sorted(step for step, _ in _steps(path / "checkpoints", "step-*"))
    known = ("config.yaml", "metrics.csv", "environment.json")
    if not record.samples and not any((path / name).is_file() for name in known):
        raise DataError(f"{path} is no run folder: it holds none of {', '.join(known)}")
    _read_metrics(record)
    _read_events(record)
    _read_config(record)
    environment = _read_json(record, "environment.json")
    if isinstance(environment, dict):
        record.environment = environment
    elif environment is not None:
        record.problems.append("environment.json holds no object and is left out.")
    for name in ("evaluation.json", "evaluation/evaluation.json"):
        if record.evaluation is None and (path / name).is_file():
            record.evaluation = _read_json(record, name)
    return record


def _steps(folder: Path, pattern: str) -> Iterable[tuple[int, Path]]:
    for path in folder.glob(pattern):
        match = _STEP.fullmatch(path.stem)
        if match:
            yield int(match[1]), path


def _read(record: RunRecord, name: str) -> str | None:
    try:
        return (record.path / name).read_text(encoding="utf-8", errors="replace")
    except FileNotFoundError:
        return None
    except OSError as error:
        record.problems.append(f"{name} cannot be read: {error.strerror or error}.")
        return None


def _read_json(record: RunRecord, name: str) -> Any:
    text = _read(record, name)
    if text is None:
        record.problems.append(f"{name} is missing.")
        return None
    try:
        return json.loads(text)
    except (ValueError, RecursionError) as error:
        record.problems.append(f"{name} is no valid JSON and is left out: {error}.")
        return None


def _read_config(record: RunRecord) -> None:
    text = _read(record, "config.yaml")
    if text is None:
        record.problems.append("config.yaml is missing.")
        return
    record.config_text = text
    try:
        values = yaml.safe_load(text)
    except (yaml.YAMLError, RecursionError, ValueError):
        values = None
    if isinstance(values, dict):
        record.config = values
    else:
        record.problems.append("config.yaml is no valid YAML mapping; it is shown as it stands.")


def _read_metrics(record: RunRecord) -> None:
    text = _read(record, "metrics.csv")
    if text is None:
        record.problems.append("metrics.csv is missing: no row was logged yet.")
        return
    whole = text[: text.rfind("\n") + 1]
    if whole != text:  # a row that is being written, or was when the run was cut off
        record.problems.append("The last line of metrics.csv is incomplete and is left out.")
    try:
        rows = list(csv.DictReader(io.StringIO(whole.replace("\0", ""))))
    except csv.Error as error:
        record.problems.append(f"metrics.csv cannot be read: {error}.")
        return
    names = [name for name in (rows[0] if rows else {}) if name]
    kept = [row for row in rows if _step_of(row) is not None]
    if len(kept) < len(rows):
        record.problems.append(
            f"metrics.csv has rows without a step, which are left out: {len(rows) - len(kept)}."
        )
    if not kept:
        record.problems.append("metrics.csv holds no row yet.")
        return
    record.metrics = {name: [_number(row.get(name)) for row in kept] for name in names}


def _step_of(row: dict[str, Any]) -> float | None:
    step = _number(row.get("step"))
    return step if step is not None and math.isfinite(step) and 0 <= step < 2**53 else None


def _number(cell: object) -> float | None:
    try:
        return float(cell) if isinstance(cell, str) and cell.strip() else None
    except ValueError:
        return None


def _read_events(record: RunRecord) -> None:
    text = _read(record, "events.jsonl")
    broken = 0
    for line in (text or "").splitlines():
        if not line.strip():
            continue
        try:
            values = json.loads(line)
            step = values.get("step")
            record.events.append(
                Event(
                    time=str(values.get("time", "")),
                    step=step if isinstance(step, int) else None,
                    level=str(values.get("level", "info")),
                    message=str(values["message"]),
                )
            )
        except (ValueError, KeyError, AttributeError, RecursionError):
            broken += 1
    if broken:
        record.problems.append(f"events.jsonl has incomplete lines, which are left out: {broken}.")
