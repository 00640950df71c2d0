"""``ecgan check-data``."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, get_args

from ecgan.cli.arguments import CheckProgress, Parser, normalize
from ecgan.errors import ConfigError, DataError

if TYPE_CHECKING:
    from ecgan.data import Fault

_DESCRIPTION = """Decodes every file of a data set and lists everything that is wrong with it: files
without a partner, files that cannot be read, sizes that differ, label ids that are no class.
Status 0: nothing is wrong; 2: something is."""


def main(arguments: Sequence[str]) -> int:
    """Runs the command; see ``ecgan check-data --help``."""
    from ecgan.config import DatasetConfig
    from ecgan.data.formats import Format

    parser = Parser(prog="ecgan check-data", description=_DESCRIPTION, allow_abbrev=False)
    parser.add_argument("--data", required=True, metavar="DIR", help="folder of the data set")
    parser.add_argument(
        "--format",
        default="auto",
        choices=("auto", *get_args(Format)),
        help="layout on disk (default: auto, by the folder names)",
    )
    parser.add_argument(
        "--num_classes",
        type=int,
        default=0,
        metavar="N",
        help="number of classes (default: the data set's)",
    )
    parser.add_argument(
        "--instance_edges",
        default="false",
        choices=("true", "false"),
        help="whether every pair needs an instance map (default: false)",
    )
    parser.add_argument(
        "--split", default="both", choices=("train", "val", "both"), help="default: both"
    )
    parser.add_argument(
        "--workers", type=int, default=0, metavar="N", help="threads (default: one a core)"
    )
    parser.add_argument(
        "--out", type=Path, metavar="FILE", help="table of every fault, .csv or .json"
    )
    given = parser.parse_args(normalize(arguments))
    for name in ("num_classes", "workers"):
        if getattr(given, name) < 0:
            raise ConfigError(f"--{name} must be at least 0, not {getattr(given, name)}")
    if given.out is not None:
        _check_out(given.out)

    from ecgan.data import scan, write_faults
    from ecgan.data.faults import faulty_pairs

    cfg = DatasetConfig(
        format=given.format,
        num_classes=given.num_classes,
        instance_edges=given.instance_edges == "true",
    )
    start = time.perf_counter()
    try:
        found = scan(
            cfg,
            given.data,
            ("train", "val") if given.split == "both" else (given.split,),
            progress=CheckProgress(),
            workers=given.workers,
        )
    except ConfigError as error:
        message = str(error).replace("dataset.num_classes", "--num_classes")
        raise ConfigError(message) from error
    seconds = time.perf_counter() - start
    total = sum(found.pairs.values())
    counts = ", ".join(f"{count} {split}" for split, count in found.pairs.items())
    print(f"{found.format} layout, {_count(total, 'pair')} decoded ({counts}) in {seconds:.1f} s")
    if given.out is not None:
        try:
            write_faults(given.out, found.faults)
        except OSError as error:
            raise ConfigError(f"--out {given.out} cannot be written: {error.strerror}") from error
    if not found.faults:
        print("no faults")
        return 0
    _print(found.faults, everything=given.out is None)
    spoilt = faulty_pairs(found.faults)
    others = len({fault.file for fault in found.faults if not fault.pair})
    parts = [f"{spoilt} of {_count(total, 'pair')}"] if spoilt else []
    parts += [f"{_count(others, 'file or folder')} outside of pairs"] if others else []
    where = "listed above" if given.out is None else f"listed in {given.out}"
    raise DataError(
        f"{given.data} has {_count(len(found.faults), 'fault')}, in {' and '.join(parts)}: "
        f"{'it is' if len(found.faults) == 1 else 'they are'} {where}"
    )


def _count(number: int, noun: str) -> str:
    if number == 1:
        return f"1 {noun}"
    return f"{number} " + " or ".join(f"{word}s" for word in noun.split(" or "))


def _check_out(out: Path) -> None:
    if out.suffix.lower() not in (".csv", ".json"):
        raise ConfigError(f"--out {out} must end in .csv or .json")
    if out.is_dir() or not out.parent.is_dir():
        what = "is a folder" if out.is_dir() else f"lies in {out.parent}, which does not exist"
        raise ConfigError(f"--out {out} {what}: expected a file in a folder that exists")


def _print(faults: Sequence[Fault], everything: bool) -> None:
    from rich.console import Console
    from rich.table import Table

    from ecgan.data.faults import KINDS, MEANING

    if everything:
        for fault in faults:
            print(f"{fault.kind}: {fault.message}")
    counts = Counter(fault.kind for fault in faults)
    table = Table("kind", "what it is", "faults", title="Faults by kind", title_justify="left")
    table.columns[2].justify = "right"
    for kind in KINDS:
        if counts[kind]:
            table.add_row(kind, MEANING[kind], str(counts[kind]))
    Console().print(table)
