"""The C++ side: CTest (the CUDA kernels on the CPU, under sanitizers too) and the CMake package."""

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

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


def run(*command: str | Path) -> str:
    done = subprocess.run(
        [str(c) for c in command], capture_output=True, text=True, env={**os.environ, "PATH": PATH}
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def build() -> Path:
    configure = ("cmake", "-G", "Ninja", "-S", ROOT, "-B", BUILD)
    run(*configure, "-DECGAN_TESTS=ON", "-DECGAN_CUDA=OFF", "-DCMAKE_INSTALL_LIBDIR=lib")
    run("cmake", "--build", BUILD, "-j", JOBS)
    return BUILD


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


def test_installed_package_links(build: Path, tmp_path: Path) -> None:
    run("cmake", "--install", build, "--prefix", tmp_path / "prefix")
    consumer = tmp_path / "consumer"
    source = ROOT / "tests" / "cpp" / "consumer"
    prefix = f"-DCMAKE_PREFIX_PATH={tmp_path / 'prefix'}"
    run("cmake", "-G", "Ninja", "-S", source, "-B", consumer, prefix)
    run("cmake", "--build", consumer)
    assert run(consumer / "consumer") == "linked and right\n"
