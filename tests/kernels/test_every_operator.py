"""Every operator where torch and numpy are all that there is, and on a GPU."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import ecgan_kernels
import numpy
import pytest
import torch

PROGRAM = Path(__file__).with_name("every_operator.py")

# numpy, torch and what torch itself requires.
ALLOWED = {
    *("numpy", "torch", "torchgen", "functorch", "typing_extensions", "filelock", "fsspec"),
    *("jinja2", "markupsafe", "mpmath", "networkx", "sympy"),
    *("nvidia", "cuda"),  # folders of libraries beside a CUDA build of torch
}


def run(*command: str, **environment: str) -> str:
    run = subprocess.run(
        [sys.executable, *command],
        cwd=PROGRAM.parent,  # where no package is
        env={**os.environ, **environment},
        capture_output=True,
        text=True,
    )
    assert run.returncode == 0, run.stdout + run.stderr
    return run.stdout


def test_needs_torch_and_numpy_alone(tmp_path):
    (tmp_path / "ecgan_kernels").symlink_to(Path(ecgan_kernels.__file__).parent)
    for folder in {Path(package.__file__).parents[1] for package in (torch, numpy)}:
        for entry in folder.iterdir():
            if entry.name.partition(".")[0] in ALLOWED:
                (tmp_path / entry.name).symlink_to(entry)
    # -S: no site-packages.
    missing = "import importlib.util as i; print([n for n in {} if i.find_spec(n)])"
    others = ["ecgan", "triton", "cv2", "pybind11", "transformers", "accelerate", "pytest"]
    path = {"PYTHONPATH": str(tmp_path)}
    assert run("-S", "-c", missing.format(others), **path).strip() == "[]"
    lines = run("-S", str(PROGRAM), "cpu", "auto", **path).splitlines()
    ran = {line.partition(":")[0].partition(",")[0] for line in lines}
    operators = {row.op for row in ecgan_kernels.info()} - {"label_spade"}
    assert ran == operators | {"LabelSPADE", "sample_pixels", "PixelQueue"}


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
@pytest.mark.parametrize("impl", ["cuda", "triton", "auto", "reference"])
def test_on_a_gpu(impl):
    run(str(PROGRAM), "cuda", impl)
