"""The files of a folder by name, with everything that users' folders hold besides."""

from __future__ import annotations

import os
import unicodedata
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from ecgan.data.faults import Fault, shown


@dataclass(frozen=True)
class Folder:
    """A folder whose files play one role; keys are relative paths without ``ending`` and suffix."""

    path: Path
    ending: str = ""
    optional_ending: bool = False

    def key(self, relative: Path) -> str | None:
        """What a file is paired by; None for a file of another role."""
        stem = relative.with_suffix("").as_posix()
        if self.ending and stem.endswith(self.ending):
            stem = stem[: -len(self.ending)]
        elif self.ending and not self.optional_ending:
            return None
        return unicodedata.normalize("NFC", stem)


@dataclass
class Listing:
    """What a folder holds.

    Attributes:
        files: files by key.
        ambiguous: keys that several files have; none of them is in ``files``.
        alike: any file, whatever its suffix, and its key, by the key without regard to case.
    """

    files: dict[str, Path] = field(default_factory=dict)
    ambiguous: set[str] = field(default_factory=set)
    alike: dict[str, tuple[str, Path]] = field(default_factory=dict)

    def hint(self, key: str) -> str:
        """Why ``key`` may be missing, as the end of a sentence; empty where nothing is like it."""
        other, file = self.alike.get(key.casefold(), (None, None))
        if file is None:
            return ""
        why = "upper and lower case differ"
        if other == key:
            why = f"the suffix {file.suffix} is not read" if file.suffix else "it has no suffix"
        return f" (there is {shown(file.name)}, but {why})"


def list_files(folder: Folder, suffixes: tuple[str, ...], faults: list[Fault]) -> Listing:
    """Lists a folder and those below it; hidden files are left out, links are followed.

    Args:
        folder: where.
        suffixes: in lower case; other files only serve as hints.
        faults: gets files of one name, folders that cannot be read or have a file's name, and
            links that lead in circles.
    """
    listing = Listing()
    for file in _walk(folder.path, suffixes, faults):
        key = folder.key(file.relative_to(folder.path))
        if key is None:
            continue
        listing.alike.setdefault(key.casefold(), (key, file))
        if file.suffix.lower() not in suffixes:
            continue
        if key in listing.files:
            text = (
                f"{shown(file)} has the same name as {shown(listing.files[key].name)}: expected "
                "one file a name"
            )
            faults.append(Fault("ambiguous", file, text))
            listing.ambiguous.add(key)
        else:
            listing.files[key] = file
    for key in listing.ambiguous:
        del listing.files[key]
    return listing


def _walk(top: Path, suffixes: tuple[str, ...], faults: list[Fault]) -> Iterator[Path]:
    # A stack instead of recursion: folders may be nested deeper than Python's calls.
    waiting: list[tuple[Path, frozenset[tuple[int, int]]]] = [(top, frozenset())]
    while waiting:
        folder, above = waiting.pop()
        try:
            status = os.stat(folder)
            with os.scandir(folder) as scan:
                entries = sorted(scan, key=lambda entry: entry.name)
        except OSError as error:
            text = f"folder {shown(folder)} cannot be read: {error.strerror or error}"
            faults.append(Fault("unreadable", folder, text))
            continue
        identity = (status.st_dev, status.st_ino)
        if identity in above:
            text = f"{shown(folder)} is a link to a folder above it: expected no circles"
            faults.append(Fault("unreadable", folder, text))
            continue
        inner = []
        for entry in entries:
            if entry.name.startswith("."):
                continue
            path = folder / entry.name
            if not os.path.isdir(path) if entry.is_symlink() else not entry.is_dir():
                yield path
            elif path.suffix.lower() in suffixes:
                text = f"{shown(path)} is a folder: expected an image file"
                faults.append(Fault("unreadable", path, text))
            else:
                inner.append((path, above | {identity}))
        waiting += reversed(inner)
