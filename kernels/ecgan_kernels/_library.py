"""The compiled libraries: found beside this file, loaded once, and never required.

``_C`` holds the operators' schemas and CPU kernels, ``_C_cuda`` the CUDA kernels. Both use
PyTorch's stable ABI and no Python API, so one file serves torch 2.11 and later and any Python.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import torch

_BUILD_HINT = "build it with `pip install --no-build-isolation -e .` (see setup.py)"


@dataclass(frozen=True)
class Library:
    """One compiled library of this package."""

    name: str
    """``_C`` or ``_C_cuda``."""
    path: Path | None
    """The file, or None where it was not built."""
    problem: str | None
    """Why it is not loaded; None when it is."""

    @property
    def loaded(self) -> bool:
        """Whether its operators are registered with torch."""
        return self.problem is None


def _load(name: str, problem: str | None = None) -> Library:
    path = next(iter(sorted(Path(__file__).parent.glob(f"{name}.*so"))), None)
    if problem is None:
        if path is None:
            problem = f"{name} was not built: {_BUILD_HINT}"
        else:
            try:
                torch.ops.load_library(path)
            except OSError as error:
                problem = f"{path.name} does not load under torch {torch.__version__}: {error}"
    return Library(name, path, problem)


CPU = _load("_C")
CUDA = _load(
    "_C_cuda",
    # Its registrations need the schemas of _C, its streams a torch that has CUDA.
    (None if torch.version.cuda else f"torch {torch.__version__} is not a CUDA build")
    if CPU.loaded
    else CPU.problem,
)


def libraries() -> tuple[Library, ...]:
    """Returns the compiled libraries: which were built, which are loaded, and what hinders."""
    return CPU, CUDA


def cpu_isa() -> str | None:
    """The instruction set the CPU kernels run with, or None without them.

    It is the best one that processor and build share: "baseline", "avx2" or "avx512". The
    environment variable ECGAN_CPU_ISA, read once, caps it.
    """
    return torch.ops.ecgan.cpu_isa() if CPU.loaded else None
