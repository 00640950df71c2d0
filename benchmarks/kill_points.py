"""Kills a training with SIGKILL at random moments, resumes it and compares it with an unbroken one.

    python -m benchmarks.kill_points --points 20 --out benchmarks/results/kill-points-cpu.json

Every point starts a B6 training with a queue of embeddings, a moving average and data-loading
processes, kills it, starts the same command again until it ends, and compares every tensor of the
last checkpoint (weights, moments, average, queue, random states) bit for bit, the losses in
metrics.csv and the last sample sheet. Even points are killed at a random moment between the start
and the end, odd ones while a checkpoint is being written; a third of all is killed twice.
"""

from __future__ import annotations

import argparse
import contextlib
import csv
import json
import os
import platform
import random
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
from safetensors.torch import load_file

STEPS = 16
SETTINGS: dict[str, object] = {
    "preset": "B6",
    "size": "32x64",
    "batch_size": 2,
    "log_every": 1,
    "sample_every": 8,
    "save_every": 2,
    "keep": 3,
    "dataset.scenes": 16,
    "dataset.workers": 1,
    "model.ngf": 8,
    "model.ndf": 8,
    "model.num_upsamples": 3,
    "model.spade_hidden": 8,
    "model.projection_dim": 16,
    "model.style": "noise",
    "model.z_dim": 4,
    "loss.contrastive.budget": 128,
    "loss.contrastive.source": "queue",
    "loss.contrastive.queue_mb": 0.05,
    "loss.similarity_resolution": "full",
    "loss.similarity_pairs": "500",
    "loss.perceptual_network.network": "efficientnet_lite0",
    "segmenter.steps": 4,
    "segmenter.batch_size": 2,
    "optim.steps": STEPS,
    "optim.ema": 0.9,
    "optim.ema_batches": 1,
}
_UNTIMED = {"seconds", "images_per_second", "memory_gib"}


@dataclass
class Kill:
    """One kill and what the training was doing then."""

    seconds: float
    """After the start of the process."""
    steps: int
    """Rows of metrics.csv by then."""
    checkpoints: int
    """Complete checkpoints by then."""
    writing: bool
    """Whether a checkpoint was being written."""


@dataclass
class Point:
    """A training that was killed, and what differs in its end from the unbroken one."""

    kills: list[Kill]
    differences: list[str]


def command(out: Path) -> list[str]:
    """The training, which a second call goes on with."""
    arguments = [f"--{key}={value}" for key, value in SETTINGS.items()]
    return [sys.executable, "-m", "ecgan", "train", *arguments, f"--out={out}", "--resume=auto"]


def start(out: Path) -> subprocess.Popen[bytes]:
    """Starts the training in the background."""
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    with (out.parent / f"{out.name}.log").open("ab") as log:
        return subprocess.Popen(command(out), stdout=log, stderr=log, env=environment)


def finish(out: Path) -> float:
    """Runs the training to its end; returns the seconds that it took."""
    began = time.monotonic()
    if start(out).wait(timeout=1200) != 0:
        log = (out.parent / f"{out.name}.log").read_text(errors="replace")
        raise RuntimeError(f"the training of {out} failed:\n{log[-3000:]}")
    return time.monotonic() - began


def kill_at(out: Path, seconds: float) -> Kill | None:
    """Starts the training and kills it after that many seconds; None if it ended before."""
    process, began = start(out), time.monotonic()
    try:
        process.wait(timeout=seconds)
        return None
    except subprocess.TimeoutExpired:
        return _kill(process, out, began)


def kill_writing(out: Path, nth: int, delay: float) -> Kill | None:
    """Kills while the nth checkpoint from the start of the process is being written."""
    left = _being_written(out)  # by a process that was killed before
    process, began, seen = start(out), time.monotonic(), set()
    while process.poll() is None:
        writing = _being_written(out) - left
        seen |= writing
        if writing and len(seen) >= nth:
            time.sleep(delay)
            return _kill(process, out, began)
        time.sleep(0.0005)
    return None


def _being_written(out: Path) -> set[tuple[str, int]]:
    found = set()
    for path in out.glob("checkpoints/.step-*.writing"):
        with contextlib.suppress(FileNotFoundError):  # complete by now
            found.add((path.name, path.stat().st_ino))
    return found


def _kill(process: subprocess.Popen[bytes], out: Path, began: float) -> Kill:
    process.kill()
    process.wait()
    checkpoints = out / "checkpoints"
    return Kill(
        seconds=round(time.monotonic() - began, 3),
        steps=len(_rows(out)),
        checkpoints=len(list(checkpoints.glob("step-*"))),
        writing=any(checkpoints.glob(".step-*.writing")),
    )


def differences(whole: Path, broken: Path) -> list[str]:
    """Names of everything in which two finished trainings differ."""
    expected, found = _tensors(whole), _tensors(broken)
    result = sorted(expected.keys() ^ found.keys())
    result += [k for k in expected.keys() & found.keys() if not torch.equal(expected[k], found[k])]
    rows = [[{k: v for k, v in row.items() if k not in _UNTIMED} for row in _rows(run)]
            for run in (whole, broken)]  # fmt: skip
    if rows[0] != rows[1]:
        result.append("metrics.csv")
    sheets = [(run / "samples" / f"step-{STEPS:06d}.png").read_bytes() for run in (whole, broken)]
    if sheets[0] != sheets[1]:
        result.append("sample sheet")
    return result


def _tensors(run: Path) -> dict[str, torch.Tensor]:
    files = sorted((run / "checkpoints" / f"step-{STEPS:06d}").glob("*.safetensors"))
    if not files:
        return {}
    return {f"{file.stem}/{key}": v for file in files for key, v in load_file(file).items()}


def _rows(run: Path) -> list[dict[str, str]]:
    path = run / "metrics.csv"
    if not path.exists():
        return []
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


def measure(folder: Path, points: int, draw: random.Random) -> tuple[list[Point], float]:
    """Kills and resumes ``points`` trainings; also returns the seconds of the unbroken one."""
    whole = folder / "whole"
    length = finish(whole)
    results = []
    for number in range(points):
        broken = folder / f"broken-{number}"
        kills: list[Kill] = []
        while not kills:  # the first may come too late, where the unbroken training was slower
            shutil.rmtree(broken, ignore_errors=True)
            for _ in range(2 if number % 3 == 2 else 1):
                if number % 2:
                    kill = kill_at(broken, draw.uniform(0, length))
                else:
                    kill = kill_writing(broken, draw.randint(1, 3), draw.uniform(0, 0.03))
                if kill is not None:
                    kills.append(kill)
        finish(broken)
        point = Point(kills, differences(whole, broken))
        results.append(point)
        print(f"{number + 1}/{points}  {point}", flush=True)
        shutil.rmtree(broken)
    return results, length


def table(results: Sequence[Point]) -> str:
    """The points as Markdown, a row a kill."""
    lines = [
        "| point | killed after | steps logged | checkpoints | one being written | differs in |",
        "|---|---|---|---|---|---|",
    ]
    for number, point in enumerate(results, 1):
        for kill in point.kills:
            written = "yes" if kill.writing else "no"
            cells = [f"{kill.seconds:.1f} s", str(kill.steps), str(kill.checkpoints), written]
            wrong = ", ".join(point.differences[:3]) or "nothing"
            lines.append("| " + " | ".join([str(number), *cells, wrong]) + " |")
    return "\n".join(lines)


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the measurement and writes its rows."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--points", type=int, default=20)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--out", type=Path)
    given = parser.parse_args(arguments)
    with tempfile.TemporaryDirectory() as folder:
        results, length = measure(Path(folder), given.points, random.Random(given.seed))
    print(table(results))
    same = sum(not point.differences for point in results)
    print(f"{same} of {len(results)} trainings end bit for bit like the unbroken one")
    if given.out:
        document = {
            "points": [asdict(point) for point in results],
            "equal": same,
            "seconds": round(length, 1),
            "steps": STEPS,
            "seed": given.seed,
            "torch": torch.__version__,
            "platform": platform.platform(),
        }
        given.out.write_text(json.dumps(document, indent=1) + "\n", encoding="utf-8")
    return 0 if same == len(results) else 1


if __name__ == "__main__":
    sys.exit(main())
