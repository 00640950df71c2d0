"""Checks of a data set before anything is trained on it."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

from ecgan.config import DatasetConfig
from ecgan.data.classes import ClassTable, plain_classes
from ecgan.data.faults import Fault, shown
from ecgan.data.formats import PairFiles, Split, find_classes, find_root, list_pairs, recognise
from ecgan.data.sources import read_pair
from ecgan.errors import DataError

Progress = Callable[[int, int], None]
"""Called with the number of pairs done and the number of all."""

_AT_ONCE = 1024  # Pairs handed to the threads at a time: a million waiting calls take a gigabyte.


def check_pair(pair: PairFiles, classes: ClassTable | None) -> list[Fault]:
    """Decodes every file of a pair and compares sizes and ids.

    Args:
        pair: what to check.
        classes: the ids that labels may hold; None, where they are not known, takes any.

    Returns:
        Every fault found; empty for a sound pair.
    """
    try:
        return read_pair(pair, classes)[1]
    except Exception as error:
        # What no reader foresaw is told as well, and the other pairs are checked all the same.
        text = f"{shown(pair.image)} and its label map cannot be checked: "
        reason = " ".join(shown(error).split())
        text += f"{type(error).__name__} {reason}".strip()
        return [Fault("error", pair.image, text, pair.name)]


def check_pairs(
    pairs: Sequence[PairFiles],
    classes: ClassTable | None,
    progress: Progress | None = None,
    limit: int = 0,
    workers: int = 0,
) -> list[Fault]:
    """Checks pairs in parallel threads; decoding releases Python's lock.

    Args:
        pairs: what to check.
        classes: as in `check_pair`.
        progress: called after each pair, from the calling thread.
        limit: check that many pairs, evenly spread; 0 checks all. All of COCO-Stuff's 118287 pairs
            cost about 20 ms each and core.
        workers: threads, each of which holds one decoded pair; 0 takes one a core, at most 16.

    Returns:
        Faults in the order of the pairs.
    """
    if 0 < limit < len(pairs):
        pairs = [pairs[index * len(pairs) // limit] for index in range(limit)]
    faults: list[Fault] = []
    done = 0
    with ThreadPoolExecutor(workers or min(16, os.cpu_count() or 1)) as pool:
        try:
            for start in range(0, len(pairs), _AT_ONCE):
                some = pairs[start : start + _AT_ONCE]
                for found in pool.map(lambda pair: check_pair(pair, classes), some):
                    faults += found
                    done += 1
                    if progress is not None:
                        progress(done, len(pairs))
        except BaseException:
            pool.shutdown(cancel_futures=True)
            raise
    return faults


@dataclass
class Scan:
    """What a data set holds and everything that is wrong with it.

    Attributes:
        format: the layout.
        pairs: number of complete pairs of each split.
        faults: every fault, in the order of splits and pairs.
    """

    format: str
    pairs: dict[Split, int]
    faults: list[Fault]


def scan(
    cfg: DatasetConfig,
    root: str,
    splits: Sequence[Split],
    *,
    progress: Progress | None = None,
    workers: int = 0,
) -> Scan:
    """Looks for every fault of a data set; none of them ends the search.

    Args:
        cfg: format, number of classes and whether instance maps are needed.
        root: folder of the data set.
        splits: the parts to look at.
        progress: as in `check_pairs`, over all splits.
        workers: as in `check_pairs`.

    Raises:
        ConfigError: the number of classes is needed or contradicts the data set.
        DataError: there is no folder, or no known data set in it.
    """
    folder = find_root(root)
    data_format = recognise(folder) if cfg.format == "auto" else cfg.format
    if data_format == "scenes":
        raise DataError("the built-in scenes have no files: expected the folder of a data set")
    faults: list[Fault] = []
    classes: ClassTable | None = None
    try:
        classes = find_classes(data_format, folder, cfg.num_classes)
    except DataError as error:
        faults.append(Fault("classes", folder / "classes.json", str(error)))
        if cfg.num_classes > 0:
            classes = plain_classes(cfg.num_classes)

    parts: dict[Split, list[PairFiles]] = {}
    for split in splits:
        pairs, found = list_pairs(data_format, folder, split, instances=cfg.instance_edges)
        # Both splits list the same folders where one is held out of the other.
        known = {(fault.file, fault.message) for fault in faults}
        faults += [fault for fault in found if (fault.file, fault.message) not in known]
        parts[split] = pairs
        if not pairs and not any(fault.kind == "folder" for fault in found):
            text = f"{shown(folder)} has no complete pair for {split}: expected at least one"
            faults.append(Fault("folder", folder, text, split=split))

    total, before = sum(map(len, parts.values())), 0
    for split, pairs in parts.items():

        def advance(done: int, _: int, before: int = before) -> None:
            if progress is not None:
                progress(before + done, total)

        found = check_pairs(pairs, classes, advance, workers=workers)
        faults += [dataclasses.replace(fault, split=split) for fault in found]
        before += len(pairs)
    return Scan(data_format, {split: len(pairs) for split, pairs in parts.items()}, faults)
