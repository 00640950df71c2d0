"""``ecgan info``: what is installed, built and used on this machine. Needs torch, nothing else."""

from __future__ import annotations

import platform
from collections.abc import Sequence

from ecgan import __version__
from ecgan.cli.arguments import Parser

Row = tuple[str, ...]

_DEVICES = {
    "cpu": "CPU",
    "sm_70": "GPU before Ampere (V100, T4)",
    "sm_80": "Ampere and later",
    "other": "other devices",
}


def main(arguments: Sequence[str]) -> int:
    """Runs the command; see ``ecgan info --help``."""
    Parser(
        prog="ecgan info",
        description="Shows what is installed, what was built and loads, and which implementation "
        "each operator takes on each device and why.",
    ).parse_args(arguments)
    _print("Machine", ("what", "is"), _machine())
    _print("Compiled libraries of ecgan_kernels", ("library", "state"), _libraries())
    operators, reasons = _operators()
    _print("Operators: implementation taken", ("operator", *_DEVICES.values()), operators)
    if reasons:
        _print("Why not the first choice", ("implementation", "reason"), reasons)
    _print("Packages", ("package", "version"), _packages())
    return 0


def _machine() -> list[Row]:
    import torch

    rows: list[Row] = [
        ("ecgan", __version__),
        ("python", platform.python_version()),
        ("system", platform.platform()),
        ("torch", torch.__version__),
        ("CUDA of torch", torch.version.cuda or "none: a CPU build"),
        ("CPU", f"{torch.backends.cpu.get_cpu_capability()}, {torch.get_num_threads()} threads"),
    ]
    for index in range(torch.cuda.device_count()):
        gpu = torch.cuda.get_device_properties(index)
        memory = f"{gpu.total_memory / 2**30:.0f} GiB"
        rows.append((f"GPU {index}", f"{gpu.name}, sm_{gpu.major}{gpu.minor}, {memory}"))
    if not torch.cuda.is_available():
        rows.append(("GPU", "none that torch can use"))
    return rows


def _libraries() -> list[Row]:
    from ecgan_kernels import cpu_isa, libraries

    rows: list[Row] = []
    for library in libraries():
        name = library.path.name if library.path else library.name
        rows.append((name, library.problem or "loaded"))
    return [*rows, ("CPU kernels run with", cpu_isa() or "no compiled kernels: the reference")]


def _operators() -> tuple[list[Row], list[Row]]:
    from ecgan_kernels import info

    chosen: dict[str, dict[str, str]] = {}
    reasons: dict[str, str] = {}
    for row in info():
        chosen.setdefault(row.op, {})[row.device] = row.chosen
        reasons |= row.problems
    table = [(op, *(by.get(device, "-") for device in _DEVICES)) for op, by in chosen.items()]
    return table, sorted(reasons.items())


def _packages() -> list[Row]:
    from ecgan.training.environment import package_versions

    missing = "missing: pip install 'ecgan[train]'"
    optional = {"triton": "missing: GPU kernels in Triton are not available"}
    return [
        (name, version or optional.get(name, missing))
        for name, version in package_versions().items()
    ]


def _print(title: str, header: Row, rows: list[Row]) -> None:
    try:
        from rich.console import Console
        from rich.table import Table
    except ModuleNotFoundError:
        _print_plain(title, header, rows)
        return
    table = Table(title=title, title_justify="left", title_style="bold")
    for name in header:
        table.add_column(name, overflow="fold")
    for row in rows:
        table.add_row(*row)
    Console().print(table)


def _print_plain(title: str, header: Row, rows: list[Row]) -> None:
    widths = [max(len(row[i]) for row in [header, *rows]) for i in range(len(header))]
    print(f"\n{title}")
    for row in [header, *rows]:
        print(
            "  ".join(f"{cell:<{width}}" for cell, width in zip(row, widths, strict=True)).rstrip()
        )
