"""``ecgan bench``."""

from __future__ import annotations

import importlib.util
import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

from ecgan.cli.arguments import Parser
from ecgan.errors import ConfigError

_DESCRIPTION = """Measures the operators against eager PyTorch, torch.compile and their floors.

The benchmarks are those of the source tree; their rows go to benchmarks/results as JSON with the
device, versions and commit. With --plot nothing is measured: the rows there are drawn.
"""
# Not of one operator: run by their own commands.
_HELPERS = (
    "common",
    "record",
    "layouts",
    "b6",
    "plans",
    "tables",
    "targets",
    "capacity",
    "kill_points",
)


def main(arguments: Sequence[str]) -> int:
    """Runs the command; see ``ecgan bench --help``."""
    from argparse import RawDescriptionHelpFormatter

    parser = Parser(
        prog="ecgan bench",
        description=_DESCRIPTION,
        formatter_class=RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    parser.add_argument(
        "operator", nargs="*", metavar="OPERATOR", help="default: all, and the step of B6"
    )
    parser.add_argument("--quick", action="store_true", help="the smallest size, a few times")
    parser.add_argument("--plot", action="store_true", help="draw the rows instead of measuring")
    parser.add_argument("--results", type=Path, metavar="DIR", help="where the rows are")
    parser.add_argument("--out", type=Path, metavar="DIR", help="of the figures (default: plots)")
    given = parser.parse_args(arguments)
    if given.out and not given.plot:
        raise ConfigError("--out is where the figures of --plot go; rows go to --results")
    if given.plot:
        if given.operator or given.quick:
            raise ConfigError("--plot draws all rows and measures nothing")
        from ecgan.figures import draw_measurements

        results = given.results or _benchmarks() / "results"
        out = given.out or Path("plots")
        written = draw_measurements(results, out)
        print(f"{len(written) // 2} figures in {out}, each as PDF and PNG")
        return 0
    return _measure(given.operator, given.results, given.quick)


def _measure(operators: Sequence[str], results: Path | None, quick: bool) -> int:
    folder = _benchmarks()
    known = sorted(
        path.stem
        for path in folder.glob("*.py")
        if path.stem not in _HELPERS and not path.stem.startswith("_")
    )
    unknown = [name for name in operators if name not in known]
    if unknown:
        raise ConfigError(f"there is no benchmark {unknown[0]!r}; there are {', '.join(known)}")
    if importlib.util.find_spec("pytest_benchmark") is None:
        raise ConfigError("package pytest-benchmark is not installed: pip install 'ecgan[dev]'")
    environment = dict(os.environ)
    if results:
        environment["ECGAN_BENCHMARK_RESULTS"] = str(results.absolute())
    if quick:
        environment["ECGAN_BENCHMARK_QUICK"] = "1"
    files = [str(folder / f"{name}.py") for name in operators or known]
    command = [sys.executable, "-m", "pytest", "-q", *files]
    # pytest's status 1 says that some failed: the same to a shell as ours.
    return subprocess.run(command, cwd=folder.parent, env=environment).returncode


def _benchmarks() -> Path:
    folder = Path(__file__).parents[2] / "benchmarks"
    if not (folder / "common.py").is_file():
        raise ConfigError(
            "the benchmarks are in the source tree, not in an installed package: "
            "run this from a checkout, or name a folder of rows with --plot --results DIR"
        )
    return folder
