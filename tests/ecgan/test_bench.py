"""`ecgan bench`."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from ecgan.cli import main

ROOT = Path(__file__).parents[2]


def row(implementation: str, elements: int, seconds: float) -> dict:
    return {
        "case": {"dtype": "float32"},
        "direction": "both",
        "implementation": implementation,
        "elements": elements,
        "seconds": {"median": seconds, "quartiles": [seconds * 0.9, seconds * 1.1]},
        "floor_seconds": 1e-9 * elements,
        "peak_bytes": 8 * elements,
    }


@pytest.fixture
def results(tmp_path):
    facts = {"device": "a machine", "torch": "2.13.0", "date": "2026-01-01"}
    rows = [row(n, e, e * t) for n, t in (("eager", 4e-8), ("cpu", 1e-8)) for e in (64, 512, 4096)]
    content = {"operator": "edge_transfer", "environment": facts, "rows": rows, "growth": []}
    (tmp_path / "edge_transfer-cpu.json").write_text(json.dumps(content))
    model = {"fixed": 1e9, "per_pixel": 3e4, "per_pair": 0.1}
    fitted = {"implementation": "ours", "gib": 16.0, "side": 640, "batch": 3, "model": model}
    content = {
        "what": "capacity",
        "environment": facts,
        "case": {"classes": 35, "batch_side": 256},
        "rows": [{**fitted, "sides": [64, 128], "peaks": [2**30, 2**31]}],
    }
    (tmp_path / "capacity-cpu.json").write_text(json.dumps(content))
    return tmp_path


def test_plot_draws_growth_and_capacity(results, tmp_path, capsys):
    out = tmp_path / "plots"
    assert main(["bench", "--plot", "--results", str(results), "--out", str(out)]) == 0
    assert "2 figures" in capsys.readouterr().out
    names = {f"{n}-cpu.{k}" for n in ("edge_transfer", "capacity") for k in ("pdf", "png")}
    assert {path.name for path in out.iterdir()} == names
    text = (out / "edge_transfer-cpu.pdf").read_bytes()
    assert b"/FontFile2" in text or b"/Type42" in text or b"TrueType" in text
    again = tmp_path / "again"
    assert main(["bench", "--plot", "--results", str(results), "--out", str(again)]) == 0
    name = "edge_transfer-cpu.png"
    assert (again / name).read_bytes() == (out / name).read_bytes()


@pytest.mark.skipif(not (ROOT / "benchmarks" / "results").is_dir(), reason="needs the source tree")
def test_plot_draws_committed_rows(tmp_path):
    rows = tmp_path / "rows"
    rows.mkdir()
    shutil.copy(ROOT / "benchmarks" / "results" / "similarity_bce-cpu.json", rows)
    assert main(["bench", "--plot", "--results", str(rows), "--out", str(tmp_path / "out")]) == 0
    assert (tmp_path / "out" / "similarity_bce-cpu.png").is_file()


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["no_operator"], "there is no benchmark 'no_operator'; there are class_conv2d,"),
        (["--out", "x"], "--out is where the figures of --plot go"),
        (["--plot", "step"], "--plot draws all rows and measures nothing"),
        (["--plot", "--results", "EMPTY"], "holds no benchmark rows of several sizes"),
        (["--plot", "--results", "BROKEN"], "is not a file of benchmark rows"),
    ],
)
def test_wrong_arguments(arguments, sentence, tmp_path, capsys):
    (tmp_path / "EMPTY").mkdir()
    (tmp_path / "BROKEN").mkdir()
    (tmp_path / "BROKEN" / "rows.json").write_text("{")
    given = [str(tmp_path / a) if a.isupper() else a for a in arguments]
    assert main(["bench", *given]) == 2
    assert sentence in capsys.readouterr().err
