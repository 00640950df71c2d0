"""Numbers that carry the protocol they were measured under, and the files that hold them."""

from __future__ import annotations

import csv
import io
import json
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path

from ecgan import __version__
from ecgan.errors import DataError

_FORMAT = 1
_TITLES = {
    "miou": "mIoU",
    "acc_all": "Acc (all)",
    "acc_valid": "Acc (valid)",
    "small_objects_miou": "mIoU (small)",
    "fid": "FID",
    "kid": "KID",
    "frechet_efficientnet_lite0": "Fréchet Lite0",
    "kernel_distance_efficientnet_lite0": "kernel Lite0",
    "lpips_alex_images": "LPIPS images",
    "lpips_alex_edges": "LPIPS edges",
    "lpips_vgg_images": "LPIPS-VGG images",
    "lpips_vgg_edges": "LPIPS-VGG edges",
    "perceptual_distance_efficientnet_lite0_images": "diversity Lite0 images",
    "perceptual_distance_efficientnet_lite0_edges": "diversity Lite0 edges",
}

Value = object
Protocol = Mapping[str, Value]


@dataclass
class Number:
    """One measured number."""

    name: str
    value: float | None
    """None where nothing could be measured, such as the IoU of classes that do not occur."""
    unit: str
    """``%``, or empty for a distance."""
    higher_is_better: bool
    protocol: Protocol
    """Everything that another number must share to be compared with this one."""


@dataclass
class SystemNumbers:
    """All numbers of one system; a row of the tables."""

    name: str
    origin: str
    """Checkpoint, file or folder."""
    weights: str
    """SHA-256 of its weights; empty for folders."""
    images: int
    numbers: list[Number] = field(default_factory=list)
    iou: dict[str, float | None] | None = None
    """IoU of each class in percent."""

    def show(self, name: str) -> str:
        """The number of that name as text; a dash where there is none."""
        found = next((number for number in self.numbers if number.name == name), None)
        return "–" if found is None else show(found.value, found.unit)


@dataclass
class Evaluation:
    """What one evaluation found."""

    settings: dict[str, Value]
    """What all numbers share."""
    systems: list[SystemNumbers]
    """The real photos first, then the systems in the order given."""
    small_objects: list[str]
    remarks: list[str]
    """Sentences that a reader of the numbers needs."""

    def columns(self) -> list[str]:
        """Names of all numbers, in the order of their first use."""
        names = [number.name for system in self.systems for number in system.numbers]
        return sorted(set(names), key=_order(names))

    def title(self, name: str) -> str:
        """A column's title, with an arrow to where better is."""
        better = any(n.higher_is_better for s in self.systems for n in s.numbers if n.name == name)
        return f"{number_title(name)} {'↑' if better else '↓'}"

    def table(self, columns: Sequence[str] | None = None) -> tuple[list[str], list[list[str]]]:
        """Header and rows as text, of the numbers named or of all."""
        columns = self.columns() if columns is None else columns
        header = ["system", "images", *(self.title(name) for name in columns)]
        rows = [
            [system.name, str(system.images), *(system.show(name) for name in columns)]
            for system in self.systems
        ]
        return header, rows

    def class_table(self) -> tuple[list[str], list[list[str]]]:
        """IoU in percent: a row a class, a column a system."""
        with_iou = [(s.name, s.iou) for s in self.systems if s.iou is not None]
        header = ["class IoU ↑", *(name for name, _ in with_iou)]
        if not with_iou:
            return header, []
        names = with_iou[0][1]
        return header, [
            [name + (" *" if name in self.small_objects else "")]
            + [show(iou[name], "%") for _, iou in with_iou]
            for name in names
        ]

    def footnotes(self) -> list[str]:
        """The protocol in sentences, then the remarks."""
        s = self.settings
        notes = [
            f"{s['images']} label maps of {s['data']} ({s['split']}), everything at {s['size']}: "
            f"images by {s['image_filter']}, label maps by {s['label_filter']}, 8 bits a channel."
        ]
        for key in ("segmentation", "distances", "diversity"):
            if text := s.get(key):
                notes.append(str(text))
        return notes + self.remarks


def number_title(name: str) -> str:
    """A number's name as a table's column shows it."""
    return _TITLES.get(name, name)


def show(value: float | None, unit: str) -> str:
    """A number in a table: one decimal for percent, minutes and large numbers, else four."""
    if value is None:
        return "–"
    return f"{value:.1f}" if unit in ("%", "min") or abs(value) >= 10 else f"{value:.4f}"


def to_json(evaluation: Evaluation) -> str:
    """evaluation.json: every number with its protocol, and the table as text for other tools."""
    header, rows = evaluation.table()
    document = {
        "format": _FORMAT,
        "ecgan": __version__,
        "settings": evaluation.settings,
        "small_objects": evaluation.small_objects,
        "remarks": evaluation.remarks,
        "systems": [asdict(system) for system in evaluation.systems],
        "table": {"columns": header, "rows": rows, "notes": evaluation.footnotes()},
    }
    return json.dumps(document, indent=1, ensure_ascii=False, allow_nan=False)


def to_csv(evaluation: Evaluation) -> str:
    """A row a system, at full precision; the last column holds the numbers' protocols as JSON."""
    columns = evaluation.columns()
    classes = next((list(s.iou) for s in evaluation.systems if s.iou is not None), [])
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(
        ["system", "origin", "weights", "images", *columns]
        + [f"iou {name}" for name in classes]
        + ["protocol"]
    )
    for system in evaluation.systems:
        values = {number.name: number.value for number in system.numbers}
        protocols = {number.name: number.protocol for number in system.numbers}
        writer.writerow(
            [system.name, system.origin, system.weights, system.images]
            + [_exact(values.get(name)) for name in columns]
            + [_exact((system.iou or {}).get(name)) for name in classes]
            + [json.dumps(protocols, ensure_ascii=False)]
        )
    return text.getvalue()


def to_markdown(evaluation: Evaluation) -> str:
    """Both tables with their footnotes."""
    parts = [markdown_table(*evaluation.table())]
    parts.append("\n".join(f"- {note}" for note in evaluation.footnotes()))
    header, rows = evaluation.class_table()
    if rows:
        parts.append(markdown_table(header, rows))
        if evaluation.small_objects:
            parts.append("\\* small-object group")
    return "\n\n".join(parts) + "\n"


def write_evaluation(evaluation: Evaluation, out: Path) -> list[Path]:
    """Writes ``evaluation.json``, ``.csv`` and ``.md`` to a folder, each at once.

    Raises:
        DataError: the folder cannot be written to.
    """
    written = []
    try:
        out.mkdir(parents=True, exist_ok=True)
        for suffix, text in (
            ("json", to_json(evaluation)),
            ("csv", to_csv(evaluation)),
            ("md", to_markdown(evaluation)),
        ):
            path = out / f"evaluation.{suffix}"
            temporary = out / f".{path.name}.writing"
            temporary.write_text(text, encoding="utf-8")
            os.replace(temporary, path)
            written.append(path)
    except OSError as error:
        raise DataError(f"cannot write the evaluation to {out}: {error.strerror}") from error
    return written


def _exact(value: float | None) -> str:
    return "" if value is None else repr(value)


def markdown_table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A table whose columns but the first are aligned to the right."""

    def line(cells: Sequence[str]) -> str:
        return "| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |"

    ruler = "|".join(["", "---", *["---:"] * (len(header) - 1), ""])
    return "\n".join([line(header), ruler, *map(line, rows)])


def _order(names: Sequence[str]) -> Callable[[str], tuple[int, int]]:
    known = list(_TITLES)
    return lambda name: (known.index(name) if name in known else len(known), names.index(name))
