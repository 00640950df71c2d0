"""Every CUDA source compiles for sm_75 without spills and with tensor cores; no GPU needed.

`make check-cuda` does the same for all architectures, sm_70 among them, and for Triton's kernels.
"""

import re
from collections import Counter
from dataclasses import replace

import pytest

from tests.cuda.machine_code import CSRC, SOURCES, THREADS, Kernel, compile_source, occupancy
from tests.cuda.toolkits import MissingError, Toolkit, local_toolkit


@pytest.fixture(scope="module")
def toolkit() -> Toolkit:
    try:
        return local_toolkit()
    except MissingError as error:
        pytest.skip(str(error))


# One architecture, Turing, which runs what V100 does; `make check-cuda` compiles for all of them.
@pytest.mark.parametrize("source", SOURCES)
def test_machine_code(source, toolkit, tmp_path):
    kernels = compile_source(toolkit, source, 75, tmp_path)
    assert kernels
    assert {kernel.name: list(kernel.faults()) for kernel in kernels if list(kernel.faults())} == {}
    instructions = {op for kernel in kernels for op in kernel.instructions}
    for access in ("LDG.E", "STG.E"):
        wide = [op for op in instructions if op.startswith(access) and ".128" in op]
        assert wide, f"{source}: no 16-byte {access} left"


@pytest.mark.parametrize(
    ("change", "fault"),
    [
        ({"stack": 8}, "8 bytes of stack"),
        ({"spills": 4}, "4 bytes spilled"),
        ({"instructions": Counter(["HMMA.1688.F32", "STL.64"])}, "local memory"),
        ({"instructions": Counter(["FFMA"])}, "no tensor core instruction"),
        ({"instructions": Counter(["HMMA.1688.F16"])}, "does not add up in float32"),
    ],
)
def test_faults_are_named(change, fault):
    instructions = Counter(["HMMA.884.F32.F32.STEP0"])
    right = Kernel("cuda/x.cu", "pair_tiles<Op, true>", 70, 64, 0, 0, 0, instructions)
    assert list(right.faults()) == []
    assert fault in ", ".join(replace(right, **change).faults())


def test_threads_of_a_block():
    launch = (CSRC / "cuda" / "launch.h").read_text()
    assert re.search(r"constexpr int kThreads = (\d+);", launch)[1] == str(THREADS)


# By hand from the programming guide's limits; 255 registers of 256 threads fill a multiprocessor.
@pytest.mark.parametrize(
    ("architecture", "registers", "shared", "share"),
    [
        (70, 32, 0, 1.0),
        (70, 255, 0, 8 / 64),
        (75, 64, 33 << 10, 8 / 32),  # two blocks of that do not fit in 64 KB
        (80, 40, 0, 48 / 64),
        (86, 32, 0, 1.0),
        (90, 32, 113 << 10, 16 / 64),  # two of 114 KB with the system's
        (90, 32, 114 << 10, 8 / 64),
    ],
)
def test_occupancy(architecture, registers, shared, share):
    assert occupancy(architecture, registers, shared) == share
