"""The largest image and batch that train B6 in 16 and 32 GiB: `python -m benchmarks.capacity`.

On a CPU a step's peak memory is measured at several sizes and fitted by

    peak(M pixels, batch B) = a + B (b M + c M^2),   a, b, c >= 0, least relative squares,

whose squared part is the maps over all pairs of pixels; a step of two images that the fit did not
see is predicted and measured beside. On a GPU nothing is fitted: sizes and batches are tried under
a cap on the memory. What a CPU's step takes is what the operating system gave, with the libraries'
workspaces, but without a GPU's context (about 0.5 GiB) and fragmentation.

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


def fit(sides: Sequence[int], peaks: Sequence[int]) -> Model:
    """The model with non-negative parts that is nearest to the peaks of batch 1, relatively."""
    # In units of the largest case, or the columns differ by ten orders of magnitude.
    pixels = np.array(sides, float) ** 2
    scale = pixels.max()
    columns = np.stack([np.ones(len(pixels)), pixels / scale, (pixels / scale) ** 2], axis=1)
    y = np.array(peaks, float)
    parts, _ = nnls(columns / y[:, None], np.ones(len(y)))
    return Model(parts[0], parts[1] / scale, parts[2] / scale**2)


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
        model = fit(SIDES[name], runs)
        side, batch = CHECK
        checked = {
            "side": side,
            "batch": batch,
            "measured": _peak(name, side, classes, batch),
            "predicted": model.peak(side, batch),
        }
        fitted = [model.peak(side) for side in SIDES[name]]
        for gib in budgets:
            room = gib * GIB
            rows.append(
                {
                    "implementation": name,
                    "gib": gib,
                    "side": STRIDE * largest(lambda n, m=model, r=room: m.peak(STRIDE * n) <= r),
                    "batch": largest(lambda n, m=model, r=room: m.peak(BATCH_SIDE, n) <= r),
                    "sides": list(SIDES[name]),
                    "peaks": runs,
                    "worst_residual": max(
                        abs(a / b - 1) for a, b in zip(fitted, runs, strict=True)
                    ),
                    "check": checked,
                    "model": vars(model),
                }
            )
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
