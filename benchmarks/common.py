"""What the operators' benchmarks share: interleaved timing, peak memory, the floor, result rows.

The rules of measuring: all candidates take turns in one process on the same inputs, so that a
ratio holds whatever else the machine does; a time is a median with its quartiles; the floor is what
moving the bytes at the copy bandwidth of the same run would take.
"""

from __future__ import annotations

import datetime
import json
import math
import os
import platform
import statistics
import subprocess
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch.profiler import ProfilerActivity, profile

ROOT = Path(__file__).parents[1]
RESULTS = Path(os.environ.get("ECGAN_BENCHMARK_RESULTS", ROOT / "benchmarks" / "results"))
DEVICE = torch.device("cuda" if torch.cuda.is_available() else "cpu")

Candidates = dict[str, Callable[[], Any]]


def synchronize() -> None:
    if DEVICE.type == "cuda":
        torch.cuda.synchronize()


def seconds(function: Callable[[], Any]) -> float:
    synchronize()
    start = time.perf_counter()
    function()
    synchronize()
    return time.perf_counter() - start


def interleaved(benchmark: Any, candidates: Candidates, ours: str, budget: float = 1.0) -> dict:
    """Times the candidates in turns: each round runs every one once.

    pytest-benchmark times ``ours``; the others run in the set-up of each of its rounds.

    Args:
        benchmark: pytest-benchmark's fixture.
        candidates: Functions by name, which return their result.
        ours: The name that pytest-benchmark's own table shows.
        budget: Seconds to spend, roughly.

    Returns:
        Seconds of each round, by name.
    """
    for _ in range(2):  # warm-up: compilation, caches, allocator
        once = sum(seconds(function) for function in candidates.values())
    rounds = max(5, min(100, int(budget / once)))
    times: dict[str, list[float]] = {name: [] for name in candidates}

    def others() -> None:
        for name, function in candidates.items():
            if name != ours:
                times[name].append(seconds(function))

    def mine() -> None:
        times[ours].append(seconds(candidates[ours]))

    benchmark.pedantic(mine, setup=others, rounds=rounds, iterations=1)
    return times


def peak_bytes(function: Callable[[], Any]) -> int:
    """Bytes that torch allocates at most, at once, while ``function`` runs, without its inputs."""
    if DEVICE.type == "cuda":
        synchronize()
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        function()
        synchronize()
        return torch.cuda.max_memory_allocated() - before
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as record:
        result = function()
    del result
    with tempfile.TemporaryDirectory() as folder:
        trace = Path(folder, "trace.json")
        record.export_chrome_trace(str(trace))
        events = json.loads(trace.read_text())["traceEvents"]
    changes = sorted((e for e in events if e.get("name") == "[memory]"), key=lambda e: e["ts"])
    now = peak = 0
    for event in changes:
        now += event["args"]["Bytes"]
        peak = max(peak, now)
    return peak


def copy_bandwidth() -> float:
    """Bytes a second, read and written, of copying a tensor far larger than any cache."""
    source = torch.randn(1 << 26, device=DEVICE)
    target = torch.empty_like(source)
    target.copy_(source)
    times = [seconds(lambda: target.copy_(source)) for _ in range(9)]
    return 2 * source.nbytes / statistics.median(times)


def device_name() -> str:
    if DEVICE.type == "cuda":
        return torch.cuda.get_device_name()
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor() or platform.machine()
    return next((x.split(":")[1].strip() for x in lines if x.startswith("model name")), "CPU")


def commit() -> str | None:
    """The commit measured, with "+" where tracked files differ from it; None without one."""
    git = ("git", "-C", str(ROOT))
    head = subprocess.run([*git, "rev-parse", "--short=12", "HEAD"], capture_output=True, text=True)
    if head.returncode != 0:
        return None
    clean = subprocess.run([*git, "diff", "--quiet", "HEAD"], capture_output=True).returncode == 0
    return head.stdout.strip() + ("" if clean else "+")


class Recorder:
    """Collects one operator's rows and writes them as JSON when its benchmarks end."""

    def __init__(self, operator: str) -> None:
        self.operator = operator
        self.bandwidth = copy_bandwidth()
        self.rows: list[dict] = []

    def add(
        self,
        times: dict[str, list[float]],
        peaks: dict[str, int],
        moved: int | None,
        elements: int,
        **case: Any,
    ) -> None:
        """Adds a row for each candidate.

        Args:
            times: Seconds of each round, by candidate; "eager" is what ratios are taken to.
            peaks: Peak bytes by candidate.
            moved: Bytes that any implementation has to read and write; None: no such floor.
            elements: Size of the case, for the growth.
            case: What else tells this case from others.
        """
        eager = statistics.median(times["eager"])
        floor = None if moved is None else moved / self.bandwidth
        for name, samples in times.items():
            low, median, high = statistics.quantiles(samples, n=4)
            self.rows.append(
                {
                    **case,
                    "implementation": name,
                    "elements": elements,
                    "rounds": len(samples),
                    "seconds": {"median": median, "quartiles": [low, high]},
                    "times_faster_than_eager": eager / median,
                    "times_the_floor": None if floor is None else median / floor,
                    "floor_seconds": floor,
                    "peak_bytes": peaks[name],
                }
            )

    def growth(self, *keys: str) -> list[dict]:
        """Log-log slopes of time and memory over elements, for rows alike in ``keys``."""
        groups: dict[tuple, list[dict]] = {}
        for row in self.rows:
            groups.setdefault(tuple(row[key] for key in keys), []).append(row)

        def slope(points: list[tuple[float, float]]) -> float:
            x, y = zip(*((math.log(a), math.log(max(b, 1e-12))) for a, b in points), strict=True)
            return statistics.linear_regression(x, y).slope

        return [
            {
                **dict(zip(keys, group, strict=True)),
                "seconds": slope([(r["elements"], r["seconds"]["median"]) for r in rows]),
                "peak_bytes": slope([(r["elements"], r["peak_bytes"]) for r in rows]),
            }
            for group, rows in groups.items()
            if len({row["elements"] for row in rows}) > 1
        ]

    def write(self, *growth_keys: str) -> Path:
        """Writes ``<operator>-<device>.json`` into the results folder."""
        name = "cpu" if DEVICE.type == "cpu" else device_name().lower().replace(" ", "-")
        environment: dict[str, Any] = {
            "device": device_name(),
            "threads": torch.get_num_threads(),
            "python": platform.python_version(),
            "torch": torch.__version__,
            "cuda": torch.version.cuda,
            "load_average": [round(load, 1) for load in os.getloadavg()],
            "commit": commit(),
            "date": datetime.datetime.now(datetime.timezone.utc).date().isoformat(),
            "copy_bytes_per_second": self.bandwidth,
        }
        content = {
            "operator": self.operator,
            "environment": environment,
            "rows": self.rows,
            "growth": self.growth(*growth_keys),
        }
        RESULTS.mkdir(parents=True, exist_ok=True)
        path = RESULTS / f"{self.operator}-{name}.json"
        path.write_text(json.dumps(content, indent=1) + "\n")
        return path
