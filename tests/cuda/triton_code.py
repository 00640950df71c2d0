"""What Triton makes of its kernels: the operators' own launches, compiled and not run.

A driver that only says which GPU there is stands in for the GPU, so the launchers choose dtypes,
block sizes and constants as they would on it.
"""

from __future__ import annotations

import functools
import re
import subprocess
import tempfile
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import torch
import triton
from ecgan_kernels.triton import (
    class_conv2d,
    edge_transfer,
    edge_transfer_lrelu,
    label_conv2d,
    pixel_contrast,
    similarity_bce,
)
from triton.backends.compiler import GPUTarget
from triton.backends.nvidia.compiler import get_ptxas
from triton.runtime.jit import JITFunction

from tests.cuda.machine_code import resources

# 86 has 80's code; Triton has no tensor core path for 70 and 75, where the matrix kernels are not
# used (see ecgan_kernels/_dispatch.py).
ARCHITECTURES = (70, 75, 80, 90)
# Bytes of shared memory that a block may have.
SHARED = {70: 96 << 10, 75: 64 << 10, 80: 163 << 10, 90: 227 << 10}
MATRIX_OPERATORS = ("class_conv2d", "pixel_contrast", "similarity_bce")
DTYPES = (torch.float32, torch.float16)


@dataclass(frozen=True)
class TritonKernel:
    """One launch's machine code for one architecture."""

    operator: str
    name: str
    dtype: str
    architecture: int
    registers: int
    shared: int
    stack: int
    spills: int
    warps: int
    matrix_products: bool

    def faults(self) -> Iterable[str]:
        """Yields what must not be, in words."""
        if self.operator in MATRIX_OPERATORS and self.architecture < 80:
            return  # never launched
        if self.operator in MATRIX_OPERATORS and not self.matrix_products:
            yield "no tensor core instruction"
        if self.shared > SHARED[self.architecture]:
            yield f"{self.shared} bytes of shared memory, more than there are"


class _Gpu:
    """As much of a Triton driver as compiling asks for."""

    def __init__(self, architecture: int) -> None:
        self.architecture = architecture

    def get_current_target(self) -> GPUTarget:
        return GPUTarget("cuda", self.architecture, 32)

    def get_current_device(self) -> int:
        return self.architecture  # which keys Triton's cache of compiled kernels

    def get_current_stream(self, device: int) -> int:
        return 0


@contextmanager
def _compiling(architecture: int) -> Iterator[list]:
    """Launches of Triton kernels compile them for `architecture`, into the list, and do not run."""
    compiled: list = []

    def launch(kernel: JITFunction, grid: object) -> Callable[..., object]:
        def compile_alone(*args: object, **constants: object) -> None:
            compiled.append(kernel.run(*args, grid=grid, warmup=True, **constants))

        return compile_alone

    original = JITFunction.__getitem__
    JITFunction.__getitem__ = launch
    triton.runtime.driver.set_active(_Gpu(architecture))
    try:
        yield compiled
    finally:
        JITFunction.__getitem__ = original
        triton.runtime.driver._active = None


def compile_all(architecture: int) -> list[TritonKernel]:
    """Compiles every kernel as it is launched for float32 and float16 tensors."""
    kernels = []
    for dtype in DTYPES:
        for operator, launches in _launches(dtype).items():
            with _compiling(architecture) as compiled:
                for launch in launches:
                    launch()
            name = str(dtype).removeprefix("torch.")
            kernels += [_measure(operator, name, architecture, k) for k in compiled]
    return kernels


def _measure(operator: str, dtype: str, architecture: int, kernel: object) -> TritonKernel:
    ptx = kernel.asm["ptx"]  # type: ignore[attr-defined]
    metadata = kernel.metadata  # type: ignore[attr-defined]
    target = re.search(r"\.target (sm_\w+)", ptx)
    assert target, ptx[:200]
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder, "kernel.ptx")
        file.write_text(ptx)
        ptxas = get_ptxas(architecture).path  # of the two that Triton brings
        command = [ptxas, "-v", f"-arch={target[1]}", "-o", Path(folder, "kernel.cubin"), file]
        report = subprocess.run(command, capture_output=True, text=True, check=True).stderr
    ((_, registers, _, stack, spills),) = resources(report)
    return TritonKernel(
        operator,
        metadata.name,
        dtype,
        architecture,
        registers,
        metadata.shared,
        stack,
        spills,
        metadata.num_warps,
        bool(re.search(r"\b(wg)?mma\.(sync|async|mma_async)", ptx)),
    )


def _launches(dtype: torch.dtype) -> dict[str, list[Callable[[], object]]]:
    """Returns calls that launch every kernel, at the sizes of the paper's networks."""
    feature = torch.empty(2, 64, 32, 32, dtype=dtype)
    labels = torch.zeros(2, 32, 32, dtype=torch.int64)
    weight = torch.empty(64, 64, 3, 3)
    of_labels = torch.empty(128, 35, 3, 3, dtype=dtype)
    out = torch.empty(2, 128, 32, 32, dtype=dtype)
    probs = torch.empty(2, 35, 32, 32, dtype=dtype)
    vectors, classes = torch.empty(256, 64, dtype=dtype), torch.zeros(256, dtype=torch.int64)
    row = torch.zeros(256)
    geometry = (None, None, (1, 1), (1, 1), 255)
    sets = (vectors, classes, vectors, classes, True, 0.07, 255)
    run = functools.partial
    return {
        "class_conv2d": [
            run(class_conv2d.forward, feature, labels, weight, weight[0, 0, 0, :1], 0.2),
            run(class_conv2d.backward, feature, feature, labels, weight, 0.2, True, True, True),
        ],
        "edge_transfer": [
            run(edge_transfer.forward, feature, feature, "tanh"),
            run(edge_transfer.backward, feature, feature, feature, "tanh", True, True),
        ],
        "edge_transfer_lrelu": [
            run(edge_transfer_lrelu.forward, feature, feature, 0.2),
            run(edge_transfer_lrelu.backward, *[feature] * 4, 0.2, True, True),
        ],
        "label_conv2d": [
            run(label_conv2d.forward, labels, of_labels, None, *geometry),
            run(label_conv2d.backward, out, labels, of_labels, *geometry, True, True),
        ],
        "pixel_contrast": [
            run(pixel_contrast.forward, *sets, True),
            run(pixel_contrast.backward, row, *sets, classes, row, row, True, False),
        ],
        "similarity_bce": [
            run(similarity_bce.forward, probs, labels, 255, 1e-6, "exact", True),
            run(similarity_bce.forward, probs, labels, 255, 1e-6, "exact", False),
        ],
    }
