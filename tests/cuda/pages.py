"""docs/cuda-kernels.md, from what was compiled."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

from tests.cuda.machine_code import ARCHITECTURES, LIMITS, MATRIX_KERNEL, THREADS, Kernel, occupancy

if TYPE_CHECKING:
    from tests.cuda.triton_code import TritonKernel

T = TypeVar("T")
HEAD = """\
# The GPU kernels' machine code

Written by `make check-cuda`, which compiles every kernel for every architecture and fails where a
CUDA kernel has a stack frame or spills, or a matrix kernel no tensor core products that add up in
float32. **This is what compilers and arithmetic say; none of it has run on a GPU.**
"""
CUDA = """\
## CUDA

Compilers: {compilers}.{missing} Blocks have {threads} threads. A cell is *registers of a thread,
occupancy*: the share of a multiprocessor's warps that registers and shared memory let run at once,
by the limits of CUDA's programming guide. Shared memory is that of a block, static and dynamic,
under a 3x3 kernel for `label_conv2d`. A row stands for all instantiations of a template, by dtype
and the like, and shows the one with the most registers.
"""
MATRIX = """\
### Tensor cores

`pair_tiles` is the engine of the pairwise losses: <operator, split products, split weights, 16s of
the gradient's elements>. A cell is *registers of a thread, occupancy, tensor core instructions in
the code*; all of them add up in float32. Volta's are the smallest, so it needs most. The products
of the other operators are of floats, which tensor cores before Ampere do not multiply.
"""
TRITON = """\
## Triton

Compiled ahead of time from the operators' own launches with the PTX assembler of Triton's package.
A cell is *registers, KiB of shared memory, bytes spilled, mma where it multiplies on tensor cores*.
Before Ampere Triton has no tensor core products; `impl="auto"` never takes a matrix operator's
Triton kernel there, and prefers the CUDA kernel everywhere.
"""


def cuda_page(kernels: list[Kernel], compilers: dict[int, str], missing: str) -> str:
    by_compiler = group(compilers, lambda architecture: compilers[architecture])
    text = "; ".join(
        f"{name} for {', '.join(f'sm_{a}' for a in sorted(architectures))}"
        for name, architectures in sorted(by_compiler.items())
    )
    parts = [
        HEAD,
        CUDA.format(compilers=text, missing=f" {missing}." * bool(missing), threads=THREADS),
    ]
    columns = ["shared", *(f"sm_{a}" for a in ARCHITECTURES)]
    rows = []
    for (source, name), alike in group(kernels, lambda k: (k.source, family(k.name))).items():
        rows.append([f"`{name}`", Path(source).stem, shared(alike), *cells(alike, False)])
    parts.append(table(["kernel", "source", *columns], rows))
    matrix = [k for k in kernels if k.name.startswith(MATRIX_KERNEL)]
    rows = [
        [f"`{name}`", shared(alike), *cells(alike, True)]
        for name, alike in group(matrix, lambda k: k.name).items()
    ]
    parts += [MATRIX, table(["kernel", *columns], rows)]
    stack, spills = max(k.stack for k in kernels), max(k.spills for k in kernels)
    parts.append(
        f"Of all {len(kernels)} compiled kernels the largest stack frame has {stack} bytes; "
        f"the most that one spills is {spills} bytes.\n"
    )
    limits = [
        [f"sm_{a}", str(x.warps), str(x.blocks), f"{x.shared >> 10} KB"] for a, x in LIMITS.items()
    ]
    parts.append("Limits of a multiprocessor; each has 65536 registers:\n")
    parts.append(table(["architecture", "warps", "blocks", "shared memory"], limits))
    return "\n".join(parts)


def triton_section(kernels: list[TritonKernel]) -> str:
    architectures = sorted({k.architecture for k in kernels})
    rows = []
    for (operator, name, dtype), alike in group(
        kernels, lambda k: (k.operator, k.name, k.dtype)
    ).items():
        row = [operator, f"`{name}`", dtype]
        for architecture in architectures:
            worst = max(
                (k for k in alike if k.architecture == architecture),
                key=lambda k: (k.spills, k.registers),
            )
            shown = [str(worst.registers), f"{-(-worst.shared // 1024)} KiB"]
            shown += [f"{worst.spills} spilled"] * bool(worst.spills)
            shown += ["mma"] * worst.matrix_products
            row.append(", ".join(shown))
        rows.append(row)
    head = ["operator", "kernel", "dtype", *(f"sm_{a}" for a in architectures)]
    return "\n".join(["", TRITON, table(head, rows)])


def family(name: str) -> str:
    return re.sub(r"<.*", "", name)


def cells(kernels: list[Kernel], products: bool) -> Iterable[str]:
    for architecture in ARCHITECTURES:
        here = [k for k in kernels if k.architecture == architecture]
        if not here:
            yield "missing"
            continue
        worst = max(here, key=lambda k: (k.registers, k.shared))
        share = occupancy(architecture, worst.registers, worst.shared)
        yield f"{worst.registers}, {share:.0%}" + f", {worst.matrix_products}" * products


def shared(kernels: list[Kernel]) -> str:
    low, high = min(k.shared for k in kernels), max(k.shared for k in kernels)
    return f"{low}" if low == high else f"{low} to {high}"


def group(items: Iterable[T], key: Callable[[T], object]) -> dict:
    groups: dict = {}
    for item in items:
        groups.setdefault(key(item), []).append(item)
    return groups


def table(head: list[str], rows: list[list[str]]) -> str:
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines) + "\n"
