"""The build: one complete list of sources, sensible results without tools, a pure import."""

from __future__ import annotations

import ctypes
import importlib.util
import json
import os
import re
import runpy
import shutil
import subprocess
import sys
from pathlib import Path

import ecgan_kernels
import pytest
import setuptools
import torch

ROOT = Path(__file__).parents[2]
CSRC = ROOT / "csrc"

pytestmark = pytest.mark.skipif(not CSRC.is_dir(), reason="needs the source tree")


def listed() -> dict[str, list[str]]:
    groups = json.loads((CSRC / "sources.json").read_text())
    return {name: files for name, files in groups.items() if name != "isa"}


def test_every_source_is_listed_once():
    files = [file for group in listed().values() for file in group]
    there = [
        path.relative_to(CSRC).as_posix()
        for path in CSRC.rglob("*")
        if path.is_file() and path.name != "sources.json"
    ]
    assert sorted(files) == sorted(there)


def test_only_ops_know_torch():
    for path in CSRC.rglob("*.*"):
        if path.parent.name != "ops" and path.suffix != ".json":
            assert not re.search(r'#include\s*[<"](torch|ATen|c10)', path.read_text()), path


def test_ops_use_the_stable_abi_alone():
    for path in (CSRC / "ops").iterdir():
        for header in re.findall(r"#include\s*<((?:torch|ATen|c10)[^>]*)>", path.read_text()):
            stable = (
                "torch/csrc/stable/",
                "torch/headeronly/",
                "torch/csrc/inductor/aoti_torch/c/",
            )
            assert header.startswith(stable), (path, header)


@pytest.fixture
def run_setup(monkeypatch):
    """Runs setup.py up to its call of setup(): returns its globals and that call's arguments."""

    def run(**environment: str) -> tuple[dict, dict]:
        call: dict = {}
        monkeypatch.chdir(ROOT)
        for name in ("FORCE_CUDA", "CUDA_HOME", "TORCH_CUDA_ARCH_LIST", "CXX", "DEBUG"):
            monkeypatch.delenv(name, raising=False)
        for name, value in environment.items():
            monkeypatch.setenv(name, value)
        monkeypatch.setattr(setuptools, "setup", lambda **arguments: call.update(arguments))
        return runpy.run_path("setup.py"), call

    return run


def names(call: dict) -> list[str]:
    found = [extension.name for extension in call.get("ext_modules", [])]
    # pybind11's module stands beside whatever else is built, where pybind11 is.
    expected = bool(found) and importlib.util.find_spec("pybind11") is not None
    assert ("ecgan_kernels._host" in found) == expected
    return [name for name in found if name != "ecgan_kernels._host"]


def test_no_compiler_gives_pure_python_and_says_so(run_setup, capsys):
    _, call = run_setup(CXX="/nonexistent/c++")
    assert names(call) == []
    assert "cmdclass" not in call
    assert {"ecgan", "ecgan_kernels", "ecgan_kernels.reference"} <= set(call["packages"])
    error = capsys.readouterr().err
    assert error.count("\n") == 1
    assert "no working C++ compiler (`/nonexistent/c++`): install g++" in error


def test_no_torch_gives_pure_python_and_says_so(run_setup, capsys, monkeypatch):
    monkeypatch.setitem(sys.modules, "torch", None)
    _, call = run_setup()
    assert names(call) == []
    assert "pip install --no-build-isolation" in capsys.readouterr().err


@pytest.mark.skipif(not shutil.which("c++"), reason="needs a C++ compiler")
def test_cuda_is_built_where_it_can_be(run_setup, capsys, tmp_path, monkeypatch):
    nvcc = tmp_path / "bin" / "nvcc"
    nvcc.parent.mkdir()
    nvcc.write_text("#!/bin/sh\necho 'Cuda compilation tools, release 12.6, V12.6.85'\n")
    nvcc.chmod(0o755)
    there, missing = str(tmp_path), str(tmp_path / "missing")
    monkeypatch.setattr(torch.version, "cuda", None)
    assert names(run_setup(CUDA_HOME=there)[1]) == ["ecgan_kernels._C"]
    assert "is not a CUDA build" in capsys.readouterr().err
    both = ["ecgan_kernels._C", "ecgan_kernels._C_cuda"]
    assert names(run_setup(CUDA_HOME=there, FORCE_CUDA="1")[1]) == both
    monkeypatch.setattr(torch.version, "cuda", "12.6")
    assert names(run_setup(CUDA_HOME=there)[1]) == both
    assert names(run_setup(CUDA_HOME=there, FORCE_CUDA="0")[1]) == both[:1]
    assert names(run_setup(CUDA_HOME=missing)[1]) == both[:1]
    with pytest.raises(SystemExit, match="FORCE_CUDA=1, but there is no nvcc"):
        run_setup(CUDA_HOME=missing, FORCE_CUDA="1")


@pytest.mark.parametrize(
    ("release", "wish", "expected"),
    [
        ("12.6", "", ["70", "75", "80", "86", "89", "90", "90+PTX"]),
        ("13.0", "", ["75", "80", "86", "89", "90", "100", "120", "120+PTX"]),
        ("13.0", "8.0;9.0a+PTX", ["80", "90a", "90a+PTX"]),
        ("12.6", "7.0 7.5", ["70", "75"]),
    ],
)
def test_architectures(release, wish, expected, run_setup, tmp_path, monkeypatch):
    nvcc = tmp_path / "nvcc"
    nvcc.write_text(f"#!/bin/sh\necho 'Cuda compilation tools, release {release}, V{release}.1'\n")
    nvcc.chmod(0o755)
    flags = run_setup(TORCH_CUDA_ARCH_LIST=wish)[0]["gencode_flags"](str(nvcc))
    codes = [
        re.fullmatch(r"-gencode=arch=compute_(\w+),code=(sm|compute)_\1", flag) for flag in flags
    ]
    assert [code[1] + ("+PTX" if code[2] == "compute" else "") for code in codes] == expected


def test_unknown_architecture_is_named(run_setup, tmp_path):
    nvcc = tmp_path / "nvcc"
    nvcc.write_text("#!/bin/sh\necho 'release 12.6,'\n")
    nvcc.chmod(0o755)
    gencode_flags = run_setup(TORCH_CUDA_ARCH_LIST="Volta")[0]["gencode_flags"]
    with pytest.raises(SystemExit, match=r"TORCH_CUDA_ARCH_LIST: .* got 'Volta'"):
        gencode_flags(str(nvcc))


IMPORT_SCRIPT = """
import subprocess, sys, warnings, torch
def refuse(*args, **kwargs): raise AssertionError("a process was started")
subprocess.Popen = refuse
torch.cuda.is_available = torch.cuda.get_device_capability = refuse
sys.modules["triton"] = None
import ecgan_kernels
assert ecgan_kernels.__file__.startswith(sys.argv[1]), ecgan_kernels.__file__
assert not any(library.loaded for library in ecgan_kernels.libraries())
assert ecgan_kernels.cpu_isa() is None
x = torch.ones(3, requires_grad=True)
with warnings.catch_warnings(record=True) as caught:
    warnings.simplefilter("always")
    for _ in range(3):
        ecgan_kernels.edge_transfer(x, x).sum().backward()
assert len(caught) == 1 and "_C was not built" in str(caught[0].message), caught
try:
    ecgan_kernels.edge_transfer(x, x, impl="cpu")
except RuntimeError as error:
    assert "_C was not built" in str(error)
else:
    raise AssertionError("impl='cpu' ran without its library")
assert {row.chosen for row in ecgan_kernels.info()} == {"reference"}
"""


def test_import_is_pure_and_works_without_libraries(tmp_path):
    shutil.copytree(
        Path(ecgan_kernels.__file__).parent,
        tmp_path / "ecgan_kernels",
        ignore=shutil.ignore_patterns("*.so", "__pycache__"),
    )
    run = subprocess.run(
        [sys.executable, "-c", IMPORT_SCRIPT, str(tmp_path)],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(tmp_path)},
        capture_output=True,
        text=True,
    )
    assert run.returncode == 0, run.stderr


TORCH_CUDA = """
extern "C" int aoti_torch_get_current_cuda_stream(int device, void** stream) {
  *stream = reinterpret_cast<void*>(0x1000 + device);
  return 0;
}
"""
OPERATOR = """
#include "csrc/ops/cuda_stream.h"
extern "C" void* stream_of(int device) { return ecgan::current_cuda_stream(device); }
"""


@pytest.mark.skipif(not shutil.which("c++"), reason="needs a C++ compiler")
def test_the_stream_is_found_where_python_keeps_torchs_libraries(tmp_path):
    from torch.utils.cpp_extension import include_paths, library_paths

    includes = [f"-I{folder}" for folder in (ROOT, *include_paths())]
    libraries = [f"-L{folder}" for folder in library_paths()]
    for name, program, more in (
        ("libtorch_cuda.so", TORCH_CUDA, ["-Wl,-soname,libtorch_cuda.so"]),
        ("operator.so", OPERATOR, [*includes, *libraries, "-ltorch_cpu", "-lc10"]),
    ):
        source = tmp_path / f"{name}.cpp"
        source.write_text(program)
        command = ["c++", "-std=c++20", "-shared", "-fPIC", "-o", tmp_path / name, source, *more]
        subprocess.run([*command, "-ldl"], check=True)
    # As Python loads extension modules: RTLD_LOCAL, out of the sight of other libraries.
    torch_cuda = ctypes.CDLL(str(tmp_path / "libtorch_cuda.so"))
    operator = ctypes.CDLL(str(tmp_path / "operator.so"))
    operator.stream_of.restype = ctypes.c_void_p
    assert operator.stream_of(3) == 0x1003
    del torch_cuda
