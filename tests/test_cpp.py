"""The C++ side: CTest (the CUDA kernels on the CPU, under sanitizers too) and the CMake package."""

import fcntl
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.cpp import plant

ROOT = Path(__file__).parents[1]
BUILD = ROOT / "build" / "cpp-tests"  # kept, so that a second run builds what has changed only
# The environment's own scripts first: the dev extra brings cmake and ninja.
PATH = os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])
PAIRWISE = ("pixel_contrast", "similarity_bce")
JOBS = str(min(2, os.cpu_count() or 1))


def missing() -> str | None:
    for tool in ("cmake", "ctest", "ninja", os.environ.get("CXX", "c++")):
        if shutil.which(tool, path=PATH) is None:
            return f"{tool} is not installed"
    machine = os.uname().machine if hasattr(os, "uname") else "this system"
    return None if machine == "x86_64" else f"the CUDA emulator runs on x86-64, not on {machine}"


pytestmark = pytest.mark.skipif(missing() is not None, reason=str(missing()))


def run(*command: str | Path, cwd: Path | None = None) -> str:
    done = subprocess.run(
        [str(c) for c in command],
        capture_output=True,
        text=True,
        env={**os.environ, "PATH": PATH},
        cwd=cwd,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def build() -> Path:
    BUILD.mkdir(parents=True, exist_ok=True)
    with (BUILD / ".lock").open("w") as lock:  # each of pytest's workers may come here
        fcntl.flock(lock, fcntl.LOCK_EX)
        run("cmake", "--preset", "tests", cwd=ROOT)
        run("cmake", "--build", BUILD, "-j", JOBS)
    return BUILD


@pytest.mark.slow
def test_ctest(build: Path) -> None:
    report = run(
        "ctest", "--test-dir", build, "-j", JOBS, "--output-on-failure", "--no-tests=error"
    )
    assert "100% tests passed" in report
    names = (
        "emulator",
        "class_conv2d",
        "edge_transfer",
        "edge_transfer_lrelu",
        "label_conv2d",
        "label_spade",
        "pixel_contrast",
        "similarity_bce",
    )
    for variant in ("plain", "asan", "tsan"):  # none may drop out unnoticed
        for name in names:
            assert re.search(rf"{name}_test\.{variant}\S* \.* +Passed", report), report


def test_faults_can_be_planted(tmp_path: Path) -> None:
    for i, fault in enumerate(plant.load()):
        csrc = tmp_path / str(i)
        (csrc / fault.file).parent.mkdir(parents=True)
        shutil.copy(ROOT / "csrc" / fault.file, csrc / fault.file)
        fault.plant(csrc)


def test_every_fault_was_caught() -> None:
    table = plant.PAGE.read_text().split(plant.BEGIN)[1].split(plant.END)[0]
    rows = table.strip().splitlines()[2:]
    faults = plant.load()
    assert len(rows) == len(faults)
    for fault, row in zip(faults, rows, strict=True):
        assert row.startswith(plant.row(fault, "plain", "").removesuffix("**nothing** |")), row
        assert any(f"| {name}: " in row for name in plant.VARIANTS.values()), row


def test_missing_barrier_is_a_data_race(build: Path, tmp_path: Path) -> None:
    fault = next(f for f in plant.load() if f.what.startswith("weights overwrite products"))
    assert plant.catch(fault, "tsan", tmp_path) == "data race"


def test_installed_package_links(build: Path, tmp_path: Path) -> None:
    run("cmake", "--install", build, "--prefix", tmp_path / "prefix")
    consumer = tmp_path / "consumer"
    source = ROOT / "tests" / "cpp" / "consumer"
    prefix = f"-DCMAKE_PREFIX_PATH={tmp_path / 'prefix'}"
    run("cmake", "-G", "Ninja", "-S", source, "-B", consumer, prefix)
    run("cmake", "--build", consumer)
    assert run(consumer / "consumer") == "linked and right\n"
