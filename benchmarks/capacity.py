"""The largest image and batch that train B6 in 16 and 32 GiB: `python -m benchmarks.capacity`.

On a CPU a step's peak memory is measured at several sizes and fitted by

    peak(M pixels, batch B) = a + B (b M + c M^2),   a, b >= 0, least relative squares.

c is not fitted: at sizes that a CPU can measure it hides behind other peaks. Ours makes no matrix
of all pairs, so c = 0; eager's is what a pair takes in the row of similarity_bce, at a quarter of
the side as the default loss has it. A step of two images that the fit did not see is predicted and
measured beside. On a GPU nothing is fitted: sizes and batches are tried under a cap on the memory.
What a CPU's step takes is what the operating system gave, with the libraries' workspaces, but
without a GPU's context (about 0.5 GiB) and fragmentation.

    python -m benchmarks.capacity [--classes N] [--gib 16 32]
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from scipy.optimize import nnls

from benchmarks.b6 import CANDIDATES, CHECKPOINTING, EAGER, OURS, PRESENT, measure
from benchmarks.record import DEVICE, RESULTS, environment, file_suffix

GIB = 2**30
STRIDE = 32  # what the encoder divides a side by
# Sides to fit; every candidate's largest takes this machine about a minute a step.
SIDES = {
    EAGER: (64, 96, 128, 160, 192),
    PRESENT: (64, 96, 128, 192, 256),
    OURS: (128, 192, 256, 320, 384),
    CHECKPOINTING: (128, 192, 256, 320, 384),
}
CHECK = (128, 2)  # side and batch of the step that the fit does not see
BATCH_SIDE = 256  # of the largest batch


@dataclass
class Model:
    """Peak memory in bytes, by pixels and batch."""

    fixed: float
    per_pixel: float
    per_pair: float

    def peak(self, side: int, batch: int = 1) -> float:
        pixels = side * side
        return self.fixed + batch * (self.per_pixel * pixels + self.per_pair * pixels**2)


def fit(sides: Sequence[int], peaks: Sequence[int], per_pair: float) -> Model:
    """The model with non-negative parts that is nearest to the peaks of batch 1, relatively."""
    pixels = np.array(sides, float) ** 2
    y = np.array(peaks, float)
    # In units of the largest case, or the columns differ by ten orders of magnitude.
    columns = np.stack([np.ones(len(pixels)), pixels / pixels.max()], axis=1) / y[:, None]
    parts, _ = nnls(columns, 1 - per_pair * pixels**2 / y)
    return Model(parts[0], parts[1] / pixels.max(), per_pair)


def pair_bytes(name: str) -> float:
    """Bytes for each pair of pixels: eager's similarity loss, on a quarter of the side."""
    if name not in (EAGER, PRESENT):
        return 0.0
    content = json.loads((RESULTS / f"similarity_bce-{file_suffix()}.json").read_text())
    rows = [row for row in content["rows"] if row["implementation"] == "eager"]
    row = max((row for row in rows if row["direction"] == "both"), key=lambda row: row["elements"])
    return row["peak_bytes"] / row["elements"] ** 2 / (4 * 4) ** 2


def largest(fits: Callable[[int], bool], start: int = 1) -> int:
    """The largest whole number that fits, 0 where not even 1 does; fits is monotone."""
    low, high = 0, max(1, start)
    while fits(high):
        low, high = high, 2 * high
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (middle, high) if fits(middle) else (low, middle)
    return low


def on_cpu(classes: int, budgets: Sequence[float]) -> list[dict]:
    rows = []
    for name in CANDIDATES:
        runs = [_peak(name, side, classes, 1) for side in SIDES[name]]
        rows += fitted(name, runs, _peak(name, CHECK[0], classes, CHECK[1]), budgets)
    return rows


def fitted(name: str, peaks: Sequence[int], checked: int, budgets: Sequence[float]) -> list[dict]:
    """The rows of a candidate, from its peaks at its sides and that of the step to check."""
    model = fit(SIDES[name], peaks, pair_bytes(name))
    side, batch = CHECK
    residuals = [model.peak(s) / peak - 1 for s, peak in zip(SIDES[name], peaks, strict=True)]
    common = {
        "sides": list(SIDES[name]),
        "peaks": list(peaks),
        "worst_residual": max(abs(residual) for residual in residuals),
        "check": {
            "side": side,
            "batch": batch,
            "measured": checked,
            "predicted": model.peak(side, batch),
        },
        "model": vars(model),
    }
    rows = []
    for gib in budgets:
        room = gib * GIB
        image = largest(lambda n, r=room: model.peak(STRIDE * n) <= r)
        images = largest(lambda n, r=room: model.peak(BATCH_SIDE, n) <= r)
        sizes = {"side": STRIDE * image, "batch": images}
        rows.append({"implementation": name, "gib": gib, **sizes, **common})
    return rows


def on_gpu(classes: int, budgets: Sequence[float]) -> list[dict]:
    def fits(name: str, side: int, batch: int, gib: float) -> bool:
        found = measure(name, side, classes, batch, gib=gib)
        print(f"{name}: {side}x{side}, batch {batch}, {gib} GiB: {bool(found)}", file=sys.stderr)
        return found is not None

    return [
        {
            "implementation": name,
            "gib": gib,
            "side": STRIDE * largest(lambda n, k=name, g=gib: fits(k, STRIDE * n, 1, g), 8),
            "batch": largest(lambda n, k=name, g=gib: fits(k, BATCH_SIDE, n, g)),
        }
        for name in CANDIDATES
        for gib in budgets
    ]


def _peak(name: str, side: int, classes: int, batch: int) -> int:
    found = measure(name, side, classes, batch)
    if found is None:
        raise MemoryError(f"{name} at {side}x{side}, batch {batch}, does not fit this machine")
    print(f"{name}: {side}x{side}, batch {batch}: {found['peak_bytes'] / GIB:.2f} GiB", flush=True)
    return found["peak_bytes"]


def main(arguments: Sequence[str] | None = None) -> Path:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--classes", type=int, default=183)
    parser.add_argument("--gib", type=float, nargs="+", default=[16.0, 32.0])
    given = parser.parse_args(arguments)
    rows = (on_cpu if DEVICE.type == "cpu" else on_gpu)(given.classes, given.gib)
    case = {"classes": given.classes, "batch_side": BATCH_SIDE}
    content = {"what": "capacity", "environment": environment(), "case": case, "rows": rows}
    RESULTS.mkdir(parents=True, exist_ok=True)
    path = RESULTS / f"capacity-{file_suffix()}.json"
    path.write_text(json.dumps(content, indent=1) + "\n")
    return path


if __name__ == "__main__":
    print(main())
