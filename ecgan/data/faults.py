"""What can be wrong with the files of a data set, and tables of it."""

from __future__ import annotations

import csv
import json
import os
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, TextIO, get_args

from ecgan.errors import DataError

Kind = Literal[
    "folder", "classes", "unpaired", "ambiguous", "unreadable", "mode", "size", "labels", "error"
]
"""Kinds of faults, from those of a whole data set to those of one file."""

MEANING: dict[Kind, str] = {
    "folder": "a folder is missing or empty",
    "classes": "classes.json cannot be used",
    "unpaired": "a file has no partner of its name",
    "ambiguous": "two files share a name",
    "unreadable": "a file cannot be read or decoded",
    "mode": "a file's pixels are of the wrong kind",
    "size": "the files of a pair differ in size",
    "labels": "a label map holds ids that are no class",
    "error": "the check itself failed",
}
"""One line about each kind."""
KINDS: tuple[Kind, ...] = get_args(Kind)

COLUMNS = ("kind", "split", "pair", "file", "message")
"""Columns of a table of faults."""


@dataclass(frozen=True)
class Fault:
    """Something wrong with one file; ``message`` is a whole sentence that names it.

    Attributes:
        kind: which of `KINDS`.
        file: the file or folder.
        message: the sentence, on one line.
        pair: name of the pair that the file spoils; empty for a file that belongs to none.
        split: train, val, or empty where it does not matter.
    """

    kind: Kind
    file: Path
    message: str
    pair: str = ""
    split: str = ""

    def row(self) -> tuple[str, ...]:
        """Its values in the order of `COLUMNS`."""
        return self.kind, self.split, self.pair, str(self.file), self.message


def shown(path: object) -> str:
    """A path as it can stand in a sentence: control characters and stray bytes are escaped."""
    return "".join(
        c if c.isprintable() else c.encode("unicode_escape", "surrogatepass").decode("ascii")
        for c in str(path)
    )


def raise_first(faults: Sequence[Fault]) -> None:
    """Raises the first fault as a DataError that also counts the others."""
    if faults:
        rest = len(faults) - 1
        more = f" ({rest} more fault{'s' if rest > 1 else ''} like this or other)" if rest else ""
        raise DataError(faults[0].message + more)


def faulty_pairs(faults: Sequence[Fault]) -> int:
    """Number of pairs that the faults spoil; files that belong to no pair do not count."""
    return len({(fault.split, fault.pair) for fault in faults if fault.pair})


def skipped(faults: Sequence[Fault], pairs: int) -> str:
    """What ``dataset.faults: skip`` does about faults, as a sentence.

    Args:
        faults: of a data set.
        pairs: the number of pairs that were checked.
    """
    spoilt = faulty_pairs(faults)
    left_out = len({fault.file for fault in faults if not fault.pair})
    parts = []
    if spoilt:
        parts.append(
            f"{spoilt} of {pairs} pairs {'is' if spoilt == 1 else 'are'} faulty and will be "
            "replaced by sound ones"
        )
    if left_out:
        files = "1 file that belongs" if left_out == 1 else f"{left_out} files that belong"
        parts.append(f"{files} to no pair will be left out")
    return "; ".join(parts)


def write_faults(path: Path, faults: Sequence[Fault]) -> None:
    """Writes a table of faults, in whole or not at all.

    Args:
        path: a ``.csv`` file (UTF-8, quoted as RFC 4180 says) or a ``.json`` file (a list of
            objects), both with the columns `COLUMNS`.
        faults: the rows.

    Raises:
        OSError: it cannot be written.
    """
    handle, temporary = tempfile.mkstemp(
        dir=path.parent, prefix=f"{path.stem[:32]}.", suffix=".tmp"
    )
    try:
        # Bytes of a name that are no UTF-8 are escaped: \udcff is what JSON would write, too.
        with os.fdopen(
            handle, "w", encoding="utf-8", errors="backslashreplace", newline=""
        ) as file:
            _write(file, path.suffix.lower(), faults)
        os.chmod(temporary, 0o644)
        os.replace(temporary, path)
    except BaseException:
        Path(temporary).unlink(missing_ok=True)
        raise


def _write(file: TextIO, suffix: str, faults: Sequence[Fault]) -> None:
    if suffix == ".json":
        rows = [dict(zip(COLUMNS, fault.row(), strict=True)) for fault in faults]
        json.dump(rows, file, ensure_ascii=False, indent=1)
        file.write("\n")
        return
    writer = csv.writer(file)
    writer.writerow(COLUMNS)
    writer.writerows(fault.row() for fault in faults)
