"""The rows of a benchmark: what was measured, on what, beside the floors of the same run."""

from __future__ import annotations

import datetime
import functools
import json
import math
import os
import platform
import statistics
import subprocess
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

ROOT = Path(__file__).parents[1]
RESULTS = Path(os.environ.get("ECGAN_BENCHMARK_RESULTS", ROOT / "benchmarks" / "results"))
DEVICE = torch.device("cuda" if torch.cuda.is_available() else "cpu")


def synchronize() -> None:
    if DEVICE.type == "cuda":
        torch.cuda.synchronize()


def seconds(function: Callable[[], Any]) -> float:
    synchronize()
    start = time.perf_counter()
    function()
    synchronize()
    return time.perf_counter() - start


def copy_bandwidth() -> float:
    """Bytes a second, read and written, of copying a tensor far larger than any cache."""
    source = torch.randn(1 << 26, device=DEVICE)
    target = torch.empty_like(source)
    target.copy_(source)
    times = [seconds(lambda: target.copy_(source)) for _ in range(9)]
    return 2 * source.nbytes / statistics.median(times)


def matmul_rate() -> float:
    """Floating-point operations a second of a 2048 x 2048 matrix product in float32.

    On a GPU the factors are float16: the rate of the tensor cores, which the losses use.
    """
    dtype = torch.float16 if DEVICE.type == "cuda" else torch.float32
    a, b = (torch.randn(2048, 2048, device=DEVICE).to(dtype) for _ in range(2))
    times = [seconds(lambda: a @ b) for _ in range(9)]
    return 2 * 2048**3 / statistics.median(times[2:])


def device_name() -> str:
    if DEVICE.type == "cuda":
        return torch.cuda.get_device_name()
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor() or platform.machine()
    return next((x.split(":")[1].strip() for x in lines if x.startswith("model name")), "CPU")


def file_suffix() -> str:
    """Names the device in a file of results."""
    return "cpu" if DEVICE.type == "cpu" else device_name().lower().replace(" ", "-")


def commit() -> str | None:
    """The commit measured, with "+" where tracked files differ from it.

    Without git it is what ECGAN_COMMIT names, or None.
    """
    if not (ROOT / ".git").exists():
        return os.environ.get("ECGAN_COMMIT")
    git = ("git", "-C", str(ROOT))
    head = subprocess.run([*git, "rev-parse", "--short=12", "HEAD"], capture_output=True, text=True)
    if head.returncode != 0:
        return None
    # Rows written by the benchmark before this one do not change what is measured.
    rest = ("diff", "--quiet", "HEAD", "--", ".", ":!benchmarks/results", ":!README.md", ":!docs")
    clean = subprocess.run([*git, *rest], capture_output=True).returncode == 0
    return head.stdout.strip() + ("" if clean else "+")


def environment() -> dict[str, Any]:
    """What the rows were measured on."""
    facts: dict[str, Any] = {
        "device": device_name(),
        "threads": torch.get_num_threads(),
        "python": platform.python_version(),
        "torch": torch.__version__,
        "cuda": torch.version.cuda,
        "tf32_convolutions": DEVICE.type == "cuda" and torch.backends.cudnn.allow_tf32,
        "load_average": [round(load, 1) for load in os.getloadavg()],
        "commit": commit(),
        "date": datetime.datetime.now(datetime.timezone.utc).date().isoformat(),
    }
    if DEVICE.type == "cuda":
        query = ("--query-gpu=driver_version,clocks.sm,clocks.mem", "--format=csv,noheader")
        found = subprocess.run(["nvidia-smi", *query], capture_output=True, text=True)
        facts["driver, clocks"] = found.stdout.strip()
    return facts


class Recorder:
    """Collects one operator's rows and writes them as JSON when its benchmarks end."""

    def __init__(self, operator: str) -> None:
        self.operator = operator
        self.environment = environment()
        self.rows: list[dict] = []

    @functools.cached_property
    def bandwidth(self) -> float:
        """Bytes a second, read and written."""
        return copy_bandwidth()

    @functools.cached_property
    def matmul_rate(self) -> float:
        """Floating-point operations a second."""
        return matmul_rate()

    def add(
        self,
        times: dict[str, list[float]],
        peaks: dict[str, int],
        floor: float | None,
        elements: int,
        *,
        case: dict[str, Any],
        direction: str = "both",
        notes: dict[str, Any] | None = None,
    ) -> None:
        """Adds a row for each candidate.

        Args:
            times: Seconds of each round, by candidate; "eager" is what ratios are taken to.
            peaks: Peak bytes by candidate.
            floor: Seconds that no implementation can beat; None: not known.
            elements: Size of the case, for the growth.
            case: What tells this series of sizes from others.
            direction: ``forward``, ``backward`` or ``both``.
            notes: What else is worth knowing of this size.
        """
        eager = statistics.median(times["eager"]) if "eager" in times else None
        for name, samples in times.items():
            samples = samples if len(samples) > 1 else samples * 2
            tenths = statistics.quantiles(samples, n=20, method="inclusive")
            median = statistics.median(samples)
            self.rows.append(
                {
                    "case": case,
                    "direction": direction,
                    "implementation": name,
                    "elements": elements,
                    "notes": notes or {},
                    "rounds": len(times[name]),
                    "seconds": {
                        "median": median,
                        "quartiles": [tenths[4], tenths[14]],
                        "5 % and 95 %": [tenths[0], tenths[18]],
                    },
                    "times_faster_than_eager": None if eager is None else eager / median,
                    "floor_seconds": floor,
                    "times_the_floor": None if floor is None else median / floor,
                    "peak_bytes": peaks[name],
                }
            )

    def growth(self) -> list[dict]:
        """Log-log slopes of time and memory over elements, of every series of three sizes or more.

        Small sizes are overhead, so the slope is that of the upper half of the sizes.
        """
        groups: dict[str, list[dict]] = {}
        for row in self.rows:
            key = json.dumps([row["case"], row["direction"], row["implementation"]])
            groups.setdefault(key, []).append(row)

        def slope(rows: list[dict], value: Callable[[dict], float]) -> float:
            x = [math.log(row["elements"]) for row in rows]
            y = [math.log(max(value(row), 1e-12)) for row in rows]
            return statistics.linear_regression(x, y).slope

        found = []
        for key, rows in groups.items():
            rows.sort(key=lambda row: row["elements"])
            if len({row["elements"] for row in rows}) < 3:
                continue
            upper = rows[-max(3, (len(rows) + 1) // 2) :]
            case, direction, implementation = json.loads(key)
            found.append(
                {
                    "case": case,
                    "direction": direction,
                    "implementation": implementation,
                    "sizes": len(rows),
                    "seconds": slope(upper, lambda row: row["seconds"]["median"]),
                    "peak_bytes": slope(upper, lambda row: row["peak_bytes"]),
                }
            )
        return found

    def write(self) -> Path:
        """Writes ``<operator>-<device>.json`` into the results folder."""
        floors = {
            name: getattr(self, key)
            for name, key in (
                ("copy_bytes_per_second", "bandwidth"),
                ("matmul_operations_per_second", "matmul_rate"),
            )
            if key in self.__dict__
        }
        content = {
            "operator": self.operator,
            "environment": {**self.environment, **floors},
            "rows": self.rows,
            "growth": self.growth(),
        }
        RESULTS.mkdir(parents=True, exist_ok=True)
        path = RESULTS / f"{self.operator}-{file_suffix()}.json"
        path.write_text(json.dumps(content, indent=1) + "\n")
        return path
