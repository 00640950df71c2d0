"""Compiles every CUDA and Triton kernel for every architecture and writes docs/cuda-kernels.md.

Fails where a CUDA kernel has a stack frame or spills, or a matrix kernel no tensor core products
that add up in float32. `make check-cuda` runs it.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from tests.cuda import pages
from tests.cuda.machine_code import ARCHITECTURES, SOURCES, Kernel, compile_source
from tests.cuda.toolkits import ROOT, MissingError, Toolkit, local_toolkit, volta_toolkit

PAGE = ROOT / "docs" / "cuda-kernels.md"


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--jobs", type=int, default=2, help="compilers at a time")
    parser.add_argument("--without-sm70", action="store_true", help="a missing sm_70 is no failure")
    parser.add_argument("--without-triton", action="store_true", help="leaves Triton's table out")
    options = parser.parse_args()
    try:
        toolkits = dict.fromkeys(ARCHITECTURES[1:], local_toolkit())
    except MissingError as error:
        print(error, file=sys.stderr)
        return 1
    missing = ""
    try:
        toolkits[70] = volta_toolkit()
    except MissingError as error:
        missing = f"sm_70 could not be compiled here: {error}"
        print(missing, file=sys.stderr)

    kernels = compile_cuda(toolkits, options.jobs)
    faults = [
        f"sm_{kernel.architecture} {kernel.source} {kernel.name}: {fault}"
        for kernel in kernels
        for fault in kernel.faults()
    ]
    text = pages.cuda_page(kernels, {a: kit.name for a, kit in toolkits.items()}, missing)
    if not options.without_triton:
        from tests.cuda import triton_code  # takes torch and Triton, which the rest does not

        compiled = [k for a in triton_code.ARCHITECTURES for k in triton_code.compile_all(a)]
        faults += [
            f"sm_{kernel.architecture} Triton's {kernel.operator} {kernel.name}: {fault}"
            for kernel in compiled
            for fault in kernel.faults()
        ]
        text += pages.triton_section(compiled)
    PAGE.write_text(text)
    for fault in faults:
        print(fault, file=sys.stderr)
    print(f"{len(kernels)} CUDA kernels, {len(faults)} faults; {PAGE.relative_to(ROOT)} is written")
    return int(bool(faults) or (bool(missing) and not options.without_sm70))


def compile_cuda(toolkits: dict[int, Toolkit], jobs: int) -> list[Kernel]:
    with tempfile.TemporaryDirectory() as folder, ThreadPoolExecutor(jobs) as pool:
        compiling = [
            pool.submit(compile_source, toolkits[architecture], source, architecture, Path(folder))
            for source in SOURCES
            for architecture in sorted(toolkits)
        ]
        return [kernel for future in compiling for kernel in future.result()]


if __name__ == "__main__":
    sys.exit(main())
