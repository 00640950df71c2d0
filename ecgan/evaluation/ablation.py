"""Table 3 from the evaluations of an ablation's runs: mean and deviation over the seeds."""

from __future__ import annotations

import csv
import io
import json
import math
import os
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from ecgan.config import Preset
from ecgan.errors import DataError
from ecgan.evaluation.protocol import markdown_table, number_title, show

COMPONENTS: Mapping[Preset, str] = {
    "B1": "E + G_i",
    "B2": "B1 + G_e",
    "B3": "B2 + G_t",
    "B4": "B3 + G_s",
    "B5": "B4 + similarity loss",
    "B6": "B5 + class branch and contrast",
}
"""What each row adds to the one before it."""

REAL = "real photos"


@dataclass
class Cell:
    """One number of a row, over the seeds."""

    values: list[float]
    unit: str
    higher_is_better: bool

    @property
    def mean(self) -> float:
        """Mean over the seeds."""
        return statistics.fmean(self.values)

    @property
    def deviation(self) -> float | None:
        """Sample standard deviation (n - 1); None of one seed."""
        return statistics.stdev(self.values) if len(self.values) > 1 else None

    def show(self, plus_minus: str = "±") -> str:
        """``41.2 ± 0.8``."""
        text = show(self.mean, self.unit)
        if self.deviation is None:
            return text
        decimals = len(text.partition(".")[2])
        return f"{text} {plus_minus} {self.deviation:.{decimals}f}"


@dataclass
class Row:
    """One preset."""

    name: str
    components: str
    seeds: list[int] = field(default_factory=list)
    cells: dict[str, Cell] = field(default_factory=dict)


@dataclass
class Ablation:
    """The table and what a reader has to know of it."""

    rows: list[Row]
    """Presets in their order; real photos last."""
    notes: list[str]

    def columns(self) -> list[str]:
        """Names of the numbers."""
        names: dict[str, None] = {}
        for row in self.rows:
            names |= dict.fromkeys(row.cells)
        return list(names)

    def title(self, name: str) -> str:
        """A column's title with its arrow."""
        cells = [row.cells[name] for row in self.rows if name in row.cells]
        return f"{number_title(name)} {'↑' if cells[0].higher_is_better else '↓'}"


def read_ablation(
    evaluations: Mapping[tuple[Preset, int], Path],
    training: Mapping[tuple[Preset, int], Path],
    notes: Sequence[str] = (),
) -> Ablation:
    """Collects the numbers of all runs.

    Args:
        evaluations: evaluation.json of each preset and seed; its last system is the run.
        training: metrics.csv of the same runs, for the minutes that they took.
        notes: sentences to stand first below the table.

    Raises:
        DataError: a file is missing, broken or measured under another protocol than the others.
    """
    rows: dict[str, Row] = {}
    real: Row | None = None
    protocols: dict[str, object] = {}
    remarks: list[str] = []
    for (preset, seed), path in sorted(evaluations.items()):
        document = _read(path)
        row = rows.setdefault(preset, Row(preset, COMPONENTS[preset]))
        row.seeds.append(seed)
        for number in document["systems"][-1]["numbers"]:
            name = number["name"]
            if protocols.setdefault(name, number["protocol"]) != number["protocol"]:
                raise DataError(
                    f"{path} measured {name} under another protocol than the evaluations before "
                    "it: evaluate all runs anew"
                )
            _add(row, name, number["value"], number["unit"], number["higher_is_better"])
        _add(row, "minutes", _minutes(training[preset, seed]), "min", False)
        if real is None and len(document["systems"]) > 1:
            real = Row(REAL, "")
            for number in document["systems"][0]["numbers"]:
                _add(real, number["name"], number["value"], number["unit"], True)
        remarks += [note for note in document["table"]["notes"] if note not in remarks]
    count = {len(row.seeds) for row in rows.values()}
    spread = "mean and sample standard deviation" if max(count) > 1 else "one run each"
    seeds = ", ".join(str(seed) for seed in sorted({seed for _, seed in evaluations}))
    first = f"Seeds {seeds}: {spread}. Minutes are those of training."
    return Ablation([*rows.values(), *([real] if real else [])], [*notes, first, *remarks])


def to_markdown(ablation: Ablation) -> str:
    """The table with its notes."""
    columns = ablation.columns()
    header = ["preset", "components", *(ablation.title(name) for name in columns)]
    body = [[row.name, row.components, *_cells(row, columns)] for row in ablation.rows]
    notes = "\n".join(f"- {note}" for note in ablation.notes)
    return f"{markdown_table(header, body)}\n\n{notes}\n"


def to_csv(ablation: Ablation) -> str:
    """A row a preset: mean, deviation and number of seeds of everything, at full precision."""
    columns = ablation.columns()
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(
        ["preset", "components", "seeds", *(f"{c}{end}" for c in columns for end in ("", "_std"))]
    )
    for row in ablation.rows:
        values: list[object] = [row.name, row.components, " ".join(map(str, row.seeds))]
        for name in columns:
            cell = row.cells.get(name)
            values += ["", ""] if cell is None else [cell.mean, cell.deviation]
        writer.writerow(["" if value is None else value for value in values])
    return text.getvalue()


def to_latex(ablation: Ablation) -> str:
    """A tabular environment, for booktabs."""
    columns = ablation.columns()
    arrows = {"↑": r"$\uparrow$", "↓": r"$\downarrow$"}

    def clean(text: str) -> str:
        for mark, command in (("_", r"\_"), ("%", r"\%"), *arrows.items(), ("–", "--")):
            text = text.replace(mark, command)
        return text

    header = ["Preset", "Components", *(clean(ablation.title(name)) for name in columns)]
    lines = [
        r"\begin{tabular}{ll" + "r" * len(columns) + "}",
        r"\toprule",
        " & ".join(header) + r" \\",
        r"\midrule",
    ]
    for row in ablation.rows:
        if row.name == REAL:
            lines.append(r"\midrule")
        cells = [text.replace("±", r"$\pm$") for text in _cells(row, columns)]
        lines.append(" & ".join(map(clean, [row.name, row.components, *cells])) + r" \\")
    return "\n".join([*lines, r"\bottomrule", r"\end{tabular}", ""])


def write_ablation(ablation: Ablation, out: Path) -> list[Path]:
    """Writes ``ablation.md``, ``.csv`` and ``.tex`` to a folder, each at once."""
    written = []
    for suffix, text in (
        ("md", to_markdown(ablation)),
        ("csv", to_csv(ablation)),
        ("tex", to_latex(ablation)),
    ):
        path = out / f"ablation.{suffix}"
        temporary = out / f".{path.name}.writing"
        temporary.write_text(text, encoding="utf-8")
        os.replace(temporary, path)
        written.append(path)
    return written


def _add(row: Row, name: str, value: float | None, unit: str, higher: bool) -> None:
    if value is not None and math.isfinite(value):
        row.cells.setdefault(name, Cell([], unit, higher)).values.append(value)


def _cells(row: Row, columns: Sequence[str]) -> list[str]:
    return [row.cells[name].show() if name in row.cells else "–" for name in columns]


def _minutes(metrics: Path) -> float:
    try:
        with metrics.open(newline="", encoding="utf-8") as file:
            return float(list(csv.DictReader(file))[-1]["seconds"]) / 60
    except (OSError, IndexError, KeyError, TypeError, ValueError) as error:
        raise DataError(f"{metrics} has no usable row: {error}") from None


def _read(path: Path) -> dict:
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise DataError(f"evaluation {path} cannot be read: {error}") from None
