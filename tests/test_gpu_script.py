"""benchmarks/gpu.sh: what it would run, and how it goes on when a stage fails. Needs no GPU."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from pathlib import Path

import pytest
import torch

ROOT = Path(__file__).parents[1]
SCRIPT = ROOT / "benchmarks" / "gpu.sh"

pytestmark = pytest.mark.skipif(
    not (SCRIPT.is_file() and shutil.which("bash") and shutil.which("timeout")),
    reason="needs the source tree, bash and timeout",
)

# Stands for the interpreter: a GPU of capability 9.0, and stages that pass, fail or hang.
PYTHON = """#!/bin/sh
echo "$PYTHONPATH $*" >>"$LOG"
case "$*" in
    *get_device_capability*) echo 9.0 ;;
    *pixel_contrast.py*) echo "a fault of a kernel"; exit 3 ;;
    *label_spade.py*) sleep 60 ;;
esac
"""


def run(out: Path, script: Path = SCRIPT, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        ["bash", str(script), str(out)],
        env={**os.environ, **environment},
        capture_output=True,
        text=True,
    )


def stages(out: Path) -> list[tuple[str, int, str]]:
    """Name, limit and command of each stage."""
    listed = run(out, ECGAN_GPU_DRY_RUN="1").stdout
    found = re.findall(r"^([\w-]+) +(\d+) (\w.*)$", listed, re.MULTILINE)
    return [(name, int(limit), command) for name, limit, command in found]


def test_dry_run_names_commands_that_are_there(tmp_path):
    found = stages(tmp_path)
    assert sum(limit for _, limit, _ in found) < 540
    listed = run(tmp_path, ECGAN_GPU_DRY_RUN="1").stdout
    defined = set(re.findall(r"^(\w+) \(\)", listed, re.MULTILINE))
    assert {command.split()[0] for _, _, command in found} == defined
    for file in re.findall(r"(?<![$\w/])\w[\w/]*\.py\b", listed):
        assert (ROOT / file).is_file(), file
    benchmarks = {
        file.stem
        for file in (ROOT / "benchmarks").glob("*.py")
        if "def recorder()" in file.read_text()
    }
    commands = [command.split() for _, _, command in found]
    measured = {name for stage, *names in commands if stage == "benchmark" for name in names}
    assert measured == benchmarks
    assert not (tmp_path / "summary.txt").exists()


@pytest.mark.skipif(torch.cuda.is_available(), reason="a GPU is here")
def test_without_a_gpu_it_says_so(tmp_path):
    done = run(tmp_path)
    assert done.returncode == 2
    assert done.stdout == ""
    assert done.stderr.count("\n") == 1
    assert done.stderr.startswith("no GPU: ")


def test_goes_on_after_failures_and_sums_up(tmp_path):
    python, log, out = tmp_path / "python", tmp_path / "log", tmp_path / "out"
    python.write_text(PYTHON)
    python.chmod(0o755)
    # Its own copy, whose hanging stage is given a second.
    folder = tmp_path / "tree" / "benchmarks"
    folder.mkdir(parents=True)
    script = folder / "gpu.sh"
    script.write_text(re.sub(r"(label_spade +)\d+", r"\g<1>1", SCRIPT.read_text()))
    (tmp_path / "one.whl").touch()
    done = run(out, script, PYTHON=str(python), LOG=str(log), WHEELS=str(tmp_path), PYTHONPATH="")
    assert done.returncode == 1
    summary = (out / "summary.txt").read_text()
    assert "compute capability 9.0" in summary
    status = {name: re.search(rf"^{name} +(.+?)  ", summary, re.M)[1] for name, *_ in stages(out)}
    assert status.pop("pixel_contrast") == "failed: exit status 3"
    assert status.pop("label_spade") == "failed: beyond its limit"
    for tool in ("memcheck", "racecheck"):
        # Where the tool is installed it cannot check a shell script, or finds nothing in it.
        assert status.pop(tool).startswith(("skipped: no compute-sanitizer", "passed", "failed"))
    assert set(status.values()) == {"passed"}
    assert "a fault of a kernel" in done.stdout
    assert "a fault of a kernel" in (out / "logs" / "pixel_contrast.log").read_text()
    calls = log.read_text()
    built = str(folder.parent / "build" / "gpu")
    assert f"--target {built}/packages {tmp_path}/one.whl" in calls
    assert f"setup.py -q build --build-base {built} --build-lib {built}/native" in calls
    tests = "-m pytest tests/kernels tests/ecgan/inference/test_model.py -m gpu"
    assert f"{built}/before-ampere:{built}/packages {tests}" in calls


def test_stops_when_the_time_is_spent(tmp_path):
    python, log, out = tmp_path / "python", tmp_path / "log", tmp_path / "out"
    python.write_text(PYTHON)
    python.chmod(0o755)
    script = tmp_path / "tree" / "benchmarks" / "gpu.sh"
    script.parent.mkdir(parents=True)
    script.write_text(SCRIPT.read_text().replace("BUDGET=540", "BUDGET=4"))
    done = run(out, script, PYTHON=str(python), LOG=str(log))
    assert done.returncode == 1
    assert done.stdout.count("skipped: the nine minutes are spent") == len(stages(out))
