"""``ecgan report``."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from ecgan.cli.arguments import Parser


def main(arguments: Sequence[str]) -> int:
    """Runs the command; see ``ecgan report --help``."""
    parser = Parser(
        prog="ecgan report",
        description="Makes one self-contained HTML page of a run, finished or going on: curves, "
        "samples, metrics, memory and speed, settings, environment, warnings.",
        allow_abbrev=False,
    )
    parser.add_argument("run", metavar="RUN", type=Path)
    parser.add_argument("--out", type=Path, metavar="FILE", help="default: RUN/report.html")
    given = parser.parse_args(arguments)

    from ecgan.pages import write_report

    page = write_report(given.run, given.out)
    print(f"report: {page} ({page.stat().st_size / 2**20:.1f} MiB)")
    return 0
