"""The tables of README.md and docs/benchmarks.md, made of the rows in benchmarks/results.

    python -m benchmarks.tables          writes them between their markers
    python -m benchmarks.tables --check  status 1 where a page does not say what the rows say

A page holds `<!-- table NAME -->`, the table and `<!-- end -->`. Nothing in them is typed by hand.
"""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from benchmarks.record import ROOT

RESULTS = ROOT / "benchmarks" / "results"
PAGES = tuple(ROOT / page for page in ("README.md", "docs/benchmarks.md", "docs/drop-in.md"))
MARKED = re.compile(r"(<!-- table ([\w-]+) -->\n)(.*?)(<!-- end -->)", re.DOTALL)
Rows = dict[str, dict]


@dataclass(frozen=True)
class Line:
    """One measured case, as the tables name it."""

    operator: str
    size: str
    elements: int
    case: dict[str, Any] = field(default_factory=dict)
    title: str = ""
    ours: str = ""
    """The row that is ours; default: the device's first implementation."""
    eager: str = "eager"


LINES = {
    "similarity": Line("similarity_bce", "8192 pixels, 35 classes", 8192),
    "similarity, all pixels": Line("similarity_bce", "131072 pixels (256x512), 35 classes", 131072),
    "contrast": Line("pixel_contrast", "8192 embeddings of 64", 8192, {"temperature": 0.07}),
    "transfer": Line(
        "edge_transfer", "4x64x256x256", 1 << 24, {"dtype": "float32", "activation": None}
    ),
    "transfer, lrelu": Line("edge_transfer_lrelu", "4x32x256x256", 1 << 23, {"dtype": "float32"}),
    "spade": Line(
        "label_spade",
        "4x64x256x256, 183 classes",
        1 << 24,
        {"norm": "instance"},
        "`LabelSPADE`, index built anew",
        "index included",
    ),
    "first layer": Line(
        "label_conv2d",
        "4x256x256, 183 classes, 3x3 to 128 channels",
        1 << 25,
        {"kernel": 3, "maps": "coco_stuff"},
    ),
    "decoder": Line(
        "class_conv2d",
        "256x256, 35 classes, against 35 passes",
        1 << 16,
        {"what": "decoder"},
        "class decoder by `class_conv2d`",
    ),
    "step": Line("step", "256x256, 183 classes", 1 << 16, {}, "step of B6, batch 1", "ours"),
    "step, present": Line(
        "step",
        "the same, eager spares absent classes",
        1 << 16,
        {},
        "step of B6, batch 1",
        "ours",
        "eager, present classes",
    ),
}

# Recipe, what it replaces, the line measured.
DROP_IN = [
    (
        "[SPADE layers](#spade-layers)",
        "one-hot maps, three convolutions, norm, modulation, LeakyReLU",
        LINES["spade"],
    ),
    ("[Two branches](#two-branches)", "`image * (1 + sigmoid(edge))`", LINES["transfer"]),
    (
        "",
        "the same with tanh on both",
        Line("edge_transfer", "4x64x256x256", 1 << 24, {"activation": "tanh"}),
    ),
    (
        "[Segmentation consistency](#segmentation-consistency)",
        "a matrix of all pairs of pixels",
        LINES["similarity"],
    ),
    (
        "[Pixel embeddings](#pixel-embeddings)",
        "a matrix of all pairs of embeddings",
        LINES["contrast"],
    ),
    (
        "[Class-specific decoder](#class-specific-decoder)",
        "a pass for every class",
        LINES["decoder"],
    ),
    (
        "[First layer of a discriminator](#first-layer-of-a-discriminator)",
        "a convolution of the one-hot map",
        Line(
            "label_conv2d",
            "4x4, stride 2, to 64 channels, batch 4 at 256x256, 183 classes",
            4 * 64 * 129 * 129,
            {"kernel": 4},
        ),
    ),
]


class Measured:
    """The rows of one device."""

    def __init__(self, device: str, files: Rows) -> None:
        self.device = device
        self.files = files
        self.first = "cpu" if device == "cpu" else "cuda"

    def row(self, line: Line, name: str | None = None, direction: str = "both") -> dict | None:
        """The row of a line; ``name`` is an implementation, by default ours."""
        name = name or line.ours or self.first
        for row in self.files.get(line.operator, {}).get("rows", []):
            if (
                (row["implementation"], row["elements"]) == (name, line.elements)
                and row["direction"] == direction
                and line.case.items() <= row["case"].items()
            ):
                return row
        return None

    def heading(self) -> str:
        """What the rows were measured on."""
        known = [f["environment"] for f in self.files.values() if "environment" in f]
        facts = known[0]
        threads = f"{facts['threads']} threads, " if self.device == "cpu" else ""
        commits = sorted({f["commit"] or "unknown" for f in known})
        date = max(f["date"] for f in known)
        return (
            f"*{facts['device']}, {threads}torch {facts['torch']}, {date}, "
            f"commit{'s' if len(commits) > 1 else ''} {', '.join(commits)}.*"
        )


def devices(results: Path = RESULTS) -> list[Measured]:
    """What was measured, CPU first."""
    found: dict[str, Rows] = {}
    for path in sorted(results.glob("*.json")):
        content = json.loads(path.read_text())
        name = content.get("operator") or content.get("what")
        if name:
            device = path.stem.removeprefix(f"{name}-")
            found.setdefault(device, {})[name] = content
    return [Measured(key, found[key]) for key in sorted(found, key=lambda key: (key != "cpu", key))]


def seconds(value: float) -> str:
    for factor, unit in ((1, "s"), (1e3, "ms"), (1e6, "µs")):
        if value * factor >= 1:
            return f"{value * factor:.3g} {unit}"
    return f"{value * 1e9:.0f} ns"


def times(ratio: float) -> str:
    return f"{ratio:.0f}x" if ratio >= 100 else f"{ratio:.3g}x"


def size(count: float) -> str:
    return f"{count / 2**30:.2f} GiB" if count >= 2**30 else f"{count / 2**20:.3g} MiB"


def table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    body = [f"| {' | '.join(cells)} |" for cells in (head, ["---"] * len(head), *rows)]
    return "\n".join(body) + "\n"


def each_device(make: Callable[[Measured], str]) -> Callable[[list[Measured]], str]:
    def whole(measured: list[Measured]) -> str:
        parts = [(device, make(device)) for device in measured]
        return "\n".join(f"{device.heading()}\n\n{text}" for device, text in parts if text)

    return whole


def _title(line: Line) -> str:
    return line.title or f"`{line.operator}`"


def speed(device: Measured) -> str:
    rows = []
    for line in LINES.values():
        ours = device.row(line)
        if ours is None:
            continue
        eager = device.row(line, line.eager)
        other = device.row(line, "torch.compile")
        took = ours["seconds"]["median"]
        rows.append(
            [
                _title(line),
                line.size,
                seconds(eager["seconds"]["median"]) if eager else "does not fit",
                seconds(other["seconds"]["median"]) if other else "",
                seconds(took),
                f"**{times(eager['seconds']['median'] / took)}**" if eager else "",
                f"{ours['times_the_floor']:.2g}x" if ours["times_the_floor"] else "",
            ]
        )
    head = ["forward and backward", "size", "eager", "`torch.compile`", "ours", "faster", "floor"]
    return table(head, rows) if rows else ""


def memory(device: Measured) -> str:
    rows = []
    for line in LINES.values():
        ours = device.row(line)
        if ours is None:
            continue
        eager = device.row(line, line.eager)
        slopes = [slope(device, line, name) for name in (line.eager, line.ours or device.first)]
        rows.append(
            [
                _title(line),
                line.size,
                size(eager["peak_bytes"]) if eager else "64 GiB a matrix",
                size(ours["peak_bytes"]),
                f"**{times(eager['peak_bytes'] / ours['peak_bytes'])}**" if eager else "",
                ", ".join(f"{found:.1f}" for found in slopes if found is not None),
            ]
        )
    head = ["beside the inputs", "size", "eager", "ours", "less", "growth: eager, ours"]
    return table(head, rows) if rows else ""


def slope(device: Measured, line: Line, name: str) -> float | None:
    """Growth of an implementation's memory, forward and backward."""
    for series in device.files.get(line.operator, {}).get("growth", []):
        if (
            series["implementation"] == name
            and series["direction"] == "both"
            and line.case.items() <= series["case"].items()
        ):
            return series["peak_bytes"]
    return None


def fits(device: Measured) -> str:
    """The largest image and batch in a budget."""
    content = device.files.get("capacity")
    if content is None:
        return ""
    budgets = sorted({row["gib"] for row in content["rows"]})
    names = list(dict.fromkeys(row["implementation"] for row in content["rows"]))
    by = {(row["implementation"], row["gib"]): row for row in content["rows"]}
    head = [f"step of B6, {content['case']['classes']} classes"]
    for gib in budgets:
        head += [f"{gib:g} GiB: image", f"batch at {content['case']['batch_side']}²"]
    rows = []
    for name in names:
        cells = [name]
        for gib in budgets:
            row = by[name, gib]
            cells += [f"{row['side']}x{row['side']}", str(row["batch"])]
        rows.append(cells)
    return table(head, rows)


def drop_in(measured: list[Measured]) -> str:
    """Memory of what a recipe replaces and of what replaces it, on a CPU."""
    rows = []
    for link, replaces, line in DROP_IN:
        ours, eager = measured[0].row(line), measured[0].row(line, line.eager)
        if ours and eager:
            spared = f"{size(eager['peak_bytes'])} -> {size(ours['peak_bytes'])}"
            rows.append([link, replaces, spared, line.size])
    head = ["recipe", "replaces", "peak memory, forward and backward, eager -> ours", "measured at"]
    return table(head, rows)


def growth(device: Measured) -> str:
    """Log-log slopes of the series with enough sizes."""
    rows = []
    for name, content in device.files.items():
        for series in content.get("growth", []):
            case = ", ".join(f"{v}" for v in series["case"].values() if v is not None)
            if series["direction"] == "both":
                rows.append(
                    [
                        f"`{name}`",
                        case,
                        series["implementation"],
                        str(series["sizes"]),
                        f"{series['seconds']:.2f}",
                        f"{series['peak_bytes']:.2f}",
                    ]
                )
    return table(["operator", "case", "implementation", "sizes", "time", "memory"], rows)


def directions(device: Measured) -> str:
    """Forward, backward and both of every line that has them."""
    rows = []
    for line in LINES.values():
        cells = [_title(line), line.size]
        for direction in ("forward", "backward", "both"):
            ours, eager = (device.row(line, name, direction) for name in (None, line.eager))
            if ours and eager:
                ratio = eager["seconds"]["median"] / ours["seconds"]["median"]
                low, high = (seconds(value) for value in ours["seconds"]["quartiles"])
                cells.append(
                    f"{seconds(ours['seconds']['median'])} ({low} to {high}), {times(ratio)}"
                )
        if len(cells) == 5:
            rows.append(cells)
    return table(["ours, quartiles, against eager", "size", "forward", "backward", "both"], rows)


def targets_table(measured: list[Measured]) -> str:
    from benchmarks.targets import TARGETS

    cpu = next((device for device in measured if device.device == "cpu"), None)
    gpu = next((device for device in measured if device.device != "cpu"), None)
    rows = []
    for target in TARGETS:
        device = cpu if target.device == "cpu" else gpu
        value = target.measure(device) if device else None
        if value is None:
            verdict, found = "not measured", ""
        else:
            met = value >= target.goal if target.at_least else value <= target.goal
            verdict, found = ("met" if met else "**missed**"), target.show.format(value)
        bound = "at least" if target.at_least else "at most"
        rows.append(
            [
                target.work,
                target.device.upper(),
                f"{bound} {target.show.format(target.goal)}",
                found,
                verdict,
                target.reason if verdict != "met" else "",
            ]
        )
    return table(["work", "on", "target", "measured", "", "why not"], rows)


TABLES: dict[str, Callable[[list[Measured]], str]] = {
    "speed": each_device(speed),
    "memory": each_device(memory),
    "fits": each_device(fits),
    "growth": each_device(growth),
    "directions": each_device(directions),
    "targets": targets_table,
    "drop-in": drop_in,
}


def fill(text: str, measured: list[Measured]) -> str:
    """A page with its tables made anew.

    Raises:
        KeyError: the page names a table that there is none of.
    """
    return MARKED.sub(
        lambda found: f"{found[1]}\n{TABLES[found[2]](measured)}\n{found[4]}",
        text,
    )


def main(arguments: Sequence[str]) -> int:
    measured = devices()
    stale = []
    for page in PAGES:
        text = page.read_text()
        new = fill(text, measured)
        if new != text:
            stale.append(page.name)
            if "--check" not in arguments:
                page.write_text(new)
    for name in stale:
        print(f"{name}: {'differs from the rows' if '--check' in arguments else 'written'}")
    return int(bool(stale) and "--check" in arguments)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
