"""The folder of a run's checkpoints: what is complete, what takes its place, what goes.

Names that start with a dot are never checkpoints: ``.step-000300.writing`` is being written,
``.step-000300.old`` waits to be replaced, ``.step-000300.deleting`` is on its way out.
"""

from __future__ import annotations

import contextlib
import os
import re
import shutil
from collections.abc import Iterator
from pathlib import Path

from ecgan.errors import CheckpointError

_NAME = re.compile(r"step-(\d{6,})")
_LEFTOVER = re.compile(r"\.step-\d{6,}\.(writing|old|deleting)")


def is_run(path: Path) -> bool:
    """Whether a folder is that of a run, begun or finished."""
    return (path / "config.yaml").is_file() and (path / "checkpoints").is_dir()


def list_checkpoints(folder: Path) -> list[Path]:
    """Complete checkpoints of a folder, oldest first."""
    if not folder.is_dir():
        return []
    found = [path for path in folder.iterdir() if path.is_dir() and _NAME.fullmatch(path.name)]
    return sorted(found, key=lambda path: int(path.name.removeprefix("step-")))


def find_checkpoint(path: Path) -> Path:
    """The checkpoint that a user means: the folder itself, or the newest of a run folder.

    Raises:
        CheckpointError: there is none.
    """
    if (path / "state.json").is_file():
        return path
    found = list_checkpoints(path / "checkpoints") or list_checkpoints(path)
    if not found:
        raise CheckpointError(f"{path} is neither a checkpoint nor a run folder that holds one")
    return found[-1]


def generator_weights(checkpoint: Path) -> Path:
    """The file of the generator to show: the moving average of the weights, where there is one."""
    average = checkpoint / "generator_ema.safetensors"
    return average if average.is_file() else checkpoint / "generator.safetensors"


@contextlib.contextmanager
def place(final: Path) -> Iterator[Path]:
    """Gives a temporary folder to fill; it becomes ``final`` when the block ends without error.

    Its files are on the disk before it gets its name, and the name before this returns. Where
    ``final`` exists already it is replaced (by a run that went on from an older checkpoint).

    Raises:
        OSError: the disk is full, read-only or gone; the temporary folder is removed.
    """
    temporary = _hidden(final, "writing")
    try:
        shutil.rmtree(temporary, ignore_errors=True)
        temporary.mkdir(parents=True)
        yield temporary
        for path in (*temporary.iterdir(), temporary):
            _sync(path)
        if final.exists():
            # Two renames: a kill between them leaves .old, which `tidy` puts back.
            final.rename(_hidden(final, "old"))
        temporary.rename(final)
        _sync(final.parent)
    except BaseException:
        shutil.rmtree(temporary, ignore_errors=True)
        raise
    shutil.rmtree(_hidden(final, "old"), ignore_errors=True)


def tidy(folder: Path) -> None:
    """Clears away what a killed process left; call it while no other process writes there."""
    if not folder.is_dir():
        return
    for path in sorted(folder.iterdir()):
        if not _LEFTOVER.fullmatch(path.name):
            continue
        final = folder / path.stem.lstrip(".")
        if path.suffix == ".old" and not final.exists():
            path.rename(final)
        else:
            shutil.rmtree(path, ignore_errors=True)


def prune(folder: Path, keep: int, budget: float = 0.0) -> None:
    """Deletes the oldest checkpoints; the newest always stays.

    Args:
        folder: the checkpoints folder.
        keep: most checkpoints to keep, at least one.
        budget: most bytes that they may take together; 0: any number.
    """
    left = list_checkpoints(folder)
    sizes = [folder_bytes(path) for path in left]
    while len(left) > max(1, keep) or (budget and len(left) > 1 and sum(sizes) > budget):
        remove(left.pop(0))
        sizes.pop(0)


def remove(checkpoint: Path) -> None:
    """Deletes a checkpoint; a kill meanwhile leaves no half of it under its name."""
    doomed = _hidden(checkpoint, "deleting")
    shutil.rmtree(doomed, ignore_errors=True)
    checkpoint.rename(doomed)
    shutil.rmtree(doomed, ignore_errors=True)


def folder_bytes(folder: Path) -> int:
    """Bytes of a folder's files."""
    return sum(path.stat().st_size for path in folder.iterdir())


def _hidden(final: Path, suffix: str) -> Path:
    return final.with_name(f".{final.name}.{suffix}")


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
