"""The benchmarks themselves: they run, and their arithmetic is right."""

from __future__ import annotations

import json
import os
import subprocess
import sys

import pytest
import torch

from benchmarks import capacity, common, record, tables
from benchmarks.record import ROOT


def test_fit_finds_a_model_and_the_largest_size():
    truth = capacity.Model(2e9, 9e4, 3.0)
    sides = (64, 128, 192, 256)
    found = capacity.fit(sides, [round(truth.peak(side)) for side in sides], per_pair=3.0)
    assert found.peak(512, 3) == pytest.approx(truth.peak(512, 3), rel=1e-4)
    room = 16 * 2**30
    side = capacity.largest(lambda n: found.peak(32 * n) <= room) * 32
    assert truth.peak(side) <= room < truth.peak(side + 32)


def test_fit_has_no_negative_parts():
    # Peaks that fall with the size have no such model; the nearest is flat.
    found = capacity.fit((64, 128, 256), [3_000_000, 2_000_000, 1_000_000], per_pair=0.0)
    assert found.per_pixel == 0
    assert found.fixed > 0


def test_only_eager_has_matrices_of_all_pairs():
    assert capacity.pair_bytes("ours") == capacity.pair_bytes("ours, checkpointing") == 0
    # Four matrices of float32 and one of bool, at a sixteenth of the pixels.
    assert capacity.pair_bytes("eager") == pytest.approx(17 / 256, rel=0.01)


@pytest.mark.parametrize("limit", [0, 1, 2, 7, 8, 9, 100])
@pytest.mark.parametrize("start", [1, 8])
def test_largest(limit, start):
    assert capacity.largest(lambda n: n <= limit, start) == limit


def test_growth_is_the_slope_of_the_upper_sizes():
    recorder = record.Recorder("none")
    for n in (1, 10, 100, 1000, 10_000):
        # Overhead hides the growth of small sizes.
        times = {"eager": [max(1e-3, 1e-6 * n**2)] * 3, "ours": [1e-5 * n] * 3}
        recorder.add(times, {"eager": n**2, "ours": n}, 1e-6, n, case={"dtype": "float32"})
    eager, ours = recorder.growth()
    assert eager["seconds"] == pytest.approx(2)
    assert eager["peak_bytes"] == pytest.approx(2)
    assert ours["seconds"] == pytest.approx(1)
    assert recorder.rows[-1]["times_faster_than_eager"] == pytest.approx(1000)
    assert recorder.rows[-1]["times_the_floor"] == pytest.approx(1e5)


def test_directions():
    x = torch.tensor([1.0, 2.0], requires_grad=True)
    grad = torch.tensor([1.0, 10.0])
    forward, backward, both = (
        common.one_pass(lambda: x**2, (x,), (grad,), direction)
        for direction in ("forward", "backward", "both")
    )
    assert not forward()[0].requires_grad
    assert backward()[0].tolist() == backward()[0].tolist() == [2.0, 40.0]
    assert [t.tolist() for t in both()] == [[1.0, 4.0], [2.0, 40.0]]


def test_peak_bytes_counts_what_is_there_at_once():
    def function():
        a = torch.ones(1 << 20)
        b = a + 1
        del a
        return b * 2

    assert common.peak_bytes(function) in range(8 << 20, (8 << 20) + 4096)


def test_a_wrong_result_is_no_row(tmp_path):
    def benchmark():
        pass

    benchmark.pedantic = lambda function, setup, rounds, iterations: (setup(), function())
    recorder = record.Recorder("none")
    x = torch.ones(4, requires_grad=True)
    with pytest.raises(AssertionError, match="ours"):
        common.compare(
            benchmark,
            recorder,
            {"eager": lambda: x * 2, "ours": lambda: x * 2.1},
            (x,),
            (torch.ones(4),),
            ours="ours",
            elements=4,
            floor=None,
            case={},
        )
    assert recorder.rows == []


@pytest.mark.slow
def test_the_operators_benchmarks_run(tmp_path):
    operators = {line.operator for line in tables.LINES.values()} - {"step"}
    operators = sorted(operators | {"sample_pixels", "pixel_queue"})
    environment = {
        **os.environ,
        "ECGAN_BENCHMARK_QUICK": "1",
        "ECGAN_BENCHMARK_RESULTS": str(tmp_path),
        "OMP_NUM_THREADS": "1",
    }
    command = [sys.executable, "-m", "ecgan", "bench", *operators]
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-1000:]
    files = sorted(tmp_path.glob("*.json"))
    assert [file.name for file in files] == [f"{name}-cpu.json" for name in operators]
    for file in files:
        rows = json.loads(file.read_text())["rows"]
        assert {row["implementation"] for row in rows} > {"eager"}, file
        assert all(row["seconds"]["median"] > 0 for row in rows), file
