"""What nvcc makes of the CUDA sources: registers, shared memory, spills and instructions."""

from __future__ import annotations

import json
import re
import subprocess
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from tests.cuda.toolkits import ROOT, Toolkit

CSRC = ROOT / "csrc"
SOURCES: list[str] = json.loads((CSRC / "sources.json").read_text())["cuda"]
ARCHITECTURES = (70, 75, 80, 86, 90)
# What PyTorch's own build passes: the half types lose their operators and conversions.
HALF_FLAGS = (
    "-D__CUDA_NO_HALF_OPERATORS__",
    "-D__CUDA_NO_HALF_CONVERSIONS__",
    "-D__CUDA_NO_HALF2_OPERATORS__",
    "-D__CUDA_NO_BFLOAT16_CONVERSIONS__",
)
# Of csrc/cuda/launch.h: what every kernel is launched with.
THREADS = 256
# The kernels that multiply matrices; all others are bound by memory or multiply floats.
MATRIX_KERNEL = "pair_tiles"


@dataclass(frozen=True)
class Kernel:
    """One kernel's machine code for one architecture."""

    source: str
    name: str  # as in the source, with its template arguments
    architecture: int
    registers: int
    static_shared: int
    stack: int
    spills: int  # bytes stored and loaded
    instructions: Counter[str]

    @property
    def shared(self) -> int:
        """Bytes of shared memory of a block, with what its launch adds."""
        return self.static_shared + dynamic_shared(self.source, self.name)

    @property
    def matrix_products(self) -> int:
        """Tensor core instructions, each counted once however often it runs."""
        return sum(n for op, n in self.instructions.items() if op.startswith(("HMMA", "HGMMA")))

    def faults(self) -> Iterable[str]:
        """Yields what must not be, in words."""
        if self.stack or self.spills:
            yield f"{self.stack} bytes of stack, {self.spills} bytes spilled"
        if any(op.startswith(("LDL", "STL")) for op in self.instructions):
            yield "reads or writes local memory"
        if self.name.startswith(MATRIX_KERNEL):
            if not self.matrix_products:
                yield "no tensor core instruction"
            if any(op.startswith("HMMA") and ".F32" not in op for op in self.instructions):
                yield "a tensor core instruction that does not add up in float32"


@dataclass(frozen=True)
class Limits:
    """A multiprocessor, as CUDA's programming guide gives it by compute capability."""

    warps: int
    blocks: int
    shared: int  # bytes of all blocks
    reserved: int  # bytes of shared memory that the system takes of each block
    granularity: int  # of a block's shared memory


LIMITS = {
    70: Limits(64, 32, 96 << 10, 0, 256),
    75: Limits(32, 16, 64 << 10, 0, 256),
    80: Limits(64, 32, 164 << 10, 1 << 10, 128),
    86: Limits(48, 16, 100 << 10, 1 << 10, 128),
    90: Limits(64, 32, 228 << 10, 1 << 10, 128),
}


def round_up(n: int, multiple: int) -> int:
    return -(-n // multiple) * multiple


def occupancy(architecture: int, registers: int, shared: int, threads: int = THREADS) -> float:
    """Returns the share of a multiprocessor's warps that its resources let run at once."""
    limits = LIMITS[architecture]
    warps = threads // 32
    # Each of the four schedulers has 16384 registers, and gives a warp whole 256s of them.
    by_registers = 16384 // round_up(registers * 32, 256) * 4 // warps
    taken = round_up(shared + limits.reserved, limits.granularity)
    by_shared = limits.shared // taken if taken else limits.blocks
    blocks = min(limits.blocks, limits.warps // warps, by_registers, by_shared)
    return blocks * warps / limits.warps


def dynamic_shared(source: str, name: str) -> int:
    """Returns the bytes that a kernel's launch asks for, of label_conv2d under a 3x3 kernel.

    As in `launch_tiles` of csrc/cuda/pairwise.h and `shared_bytes` of csrc/cuda/label_conv2d.cu.
    """
    if name.startswith(MATRIX_KERNEL):
        operator, split = re.match(r"\w+<(\w+), (\w+)", name).groups()  # type: ignore[union-attr]
        label = 4 if operator == "Similarity" else 8
        values = 3 if operator == "ContrastGradient" else 0
        slices = (2 if split == "true" else 1) * 64 * 72 * 2
        return slices + 8 * 16 * 72 * 4 + 64 * (label + (1 + values) * 4)
    if source == "cuda/label_conv2d.cu" and name.startswith("forward"):
        return 32 * (129 + 2 * 9) * 4
    if source == "cuda/label_conv2d.cu" and name.startswith("backward"):
        return 64 * (33 + 2 * 9) * 4
    return 0


def compile_source(toolkit: Toolkit, source: str, architecture: int, folder: Path) -> list[Kernel]:
    """Compiles one of `SOURCES` and returns its kernels.

    Raises:
        RuntimeError: it does not compile without a warning; the message is the compiler's.
    """
    cubin = folder / f"{Path(source).stem}.{architecture}.cubin"
    target = f"-gencode=arch=compute_{architecture},code=sm_{architecture}"
    flags = ["-std=c++17", "-O3", "-cubin", target, "-Xptxas=-v", "-Werror=all-warnings"]
    if toolkit.release < (12, 0):
        flags.append("-allow-unsupported-compiler")  # than g++-11, which is newer where this runs
    command = [toolkit.nvcc, *flags, *HALF_FLAGS, "-o", cubin, CSRC / source]
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        raise RuntimeError(done.stdout + done.stderr)
    instructions = disassemble(toolkit.disassembler, cubin)
    used = list(resources(done.stderr))
    names = demangle([mangled for mangled, *_ in used])
    return [
        Kernel(source, name, architecture, *numbers, instructions[mangled])
        for name, (mangled, *numbers) in zip(names, used, strict=True)
    ]


def resources(report: str) -> Iterable[tuple[str, int, int, int, int]]:
    """Yields symbol, registers, static shared memory, stack and spills from `ptxas -v`."""
    for entry in report.split("Compiling entry function ")[1:]:
        symbol = entry.split("'")[1]
        # Also those of functions that it calls, if any.
        frames = re.findall(r"(\d+) bytes stack frame, (\d+) \D+, (\d+) ", entry)
        registers = re.search(r"Used (\d+) registers", entry)
        shared = re.search(r"(\d+) bytes smem", entry)
        assert frames, entry
        assert registers, entry
        stack = sum(int(frame) for frame, _, _ in frames)
        spills = sum(int(stores) + int(loads) for _, stores, loads in frames)
        yield symbol, int(registers[1]), int(shared[1]) if shared else 0, stack, spills


def disassemble(disassembler: Path, cubin: Path) -> dict[str, Counter[str]]:
    """Returns how often each instruction stands in each kernel."""
    command = [disassembler, "-c", cubin]
    text = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    sections = re.split(r"^\.text\.(\S+):$", text, flags=re.MULTILINE)[1:]
    instruction = re.compile(r"/\*[0-9a-f]{4,}\*/\s+(?:@\S+\s+)?([A-Z][\w.]+)")
    return {
        symbol: Counter(instruction.findall(code))
        for symbol, code in zip(sections[::2], sections[1::2], strict=True)
    }


def demangle(symbols: list[str]) -> list[str]:
    """Returns names as in the source: without namespaces and parameters."""
    text = "\n".join(symbols)
    run = subprocess.run(["c++filt"], input=text, capture_output=True, text=True, check=True)
    names = []
    for name in run.stdout.splitlines():
        name = re.sub(r"\(anonymous namespace\)::|ecgan::|cuda::|pairwise::|^void ", "", name)
        name = re.sub(r"\(\w+\)(\d)", r"\1", name)  # an enumerator's type
        name = name.replace("__half", "half").replace("__nv_bfloat16", "bfloat16")
        names.append(name.split("(")[0])
    return names
