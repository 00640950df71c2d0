"""The layouts on disk: which files belong together, and what their ids mean.

Every format is a list of folders with one role each. Files are paired by name, never by order, and
what has no partner is reported.

- ``folder``: ``{train,val}/{images,labels[,instances][,edges]}``, or the same without the split;
  ``classes.json`` beside them names the classes.
- ``cityscapes``: ``leftImg8bit``, ``gtFine`` and, optionally, ``edge``, each with
  ``{train,val}/CITY``.
- ``ade20k``: ``images`` and ``annotations``, each with ``{training,validation}``.
- ``coco_stuff``: ``{train,val}_{img,label,inst[,edge]}`` and, for training, ``*_portrait``.
"""

from __future__ import annotations

import hashlib
import json
import os
import unicodedata
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np

from ecgan.data.classes import ADE20K, CITYSCAPES, COCO_STUFF, ClassTable, plain_classes
from ecgan.data.files import IMAGE_SUFFIXES, LOSSLESS_SUFFIXES
from ecgan.errors import ConfigError, DataError

Split = Literal["train", "val"]
Format = Literal["folder", "cityscapes", "ade20k", "coco_stuff"]

_HOLD_OUT = 10  # One pair in ten is held out where a folder has no val part.
_ADE_SPLIT = {"train": "training", "val": "validation"}


@dataclass(frozen=True)
class PairFiles:
    """The files of one pair; ``name`` is unique within the data set."""

    name: str
    image: Path
    labels: Path
    instances: Path | None = None
    edges: Path | None = None


@dataclass(frozen=True)
class Fault:
    """Something wrong with one file; ``message`` is a whole sentence that names it."""

    kind: Literal["unpaired", "ambiguous", "unreadable", "size", "mode", "labels"]
    file: Path
    message: str


@dataclass
class Inventory:
    """What a data set's folders hold for one split."""

    classes: ClassTable
    pairs: list[PairFiles]
    faults: list[Fault]


@dataclass(frozen=True)
class _Folder:
    """A folder whose files play one role; keys are relative paths without ``ending`` and suffix."""

    path: Path
    ending: str = ""
    optional_ending: bool = False

    def key(self, relative: Path) -> str | None:
        stem = relative.with_suffix("").as_posix()
        if self.ending and stem.endswith(self.ending):
            stem = stem[: -len(self.ending)]
        elif self.ending and not self.optional_ending:
            return None
        return unicodedata.normalize("NFC", stem)


@dataclass(frozen=True)
class _Group:
    """Folders that are paired with each other; names start with ``prefix``."""

    images: _Folder
    labels: _Folder
    instances: _Folder | None = None
    edges: _Folder | None = None
    prefix: str = ""


def _groups(data_format: Format, root: Path, split: Split) -> list[_Group]:
    if data_format == "folder":
        base = next((root / s for s in (split, "train") if (root / s / "images").is_dir()), root)
        roles = ("images", "labels", "instances", "edges")
        images, labels, instances, edges = (_Folder(base / role) for role in roles)
        return [_Group(images, labels, instances, edges)]
    if data_format == "cityscapes":
        fine = root / "gtFine" / split
        return [
            _Group(
                _Folder(root / "leftImg8bit" / split, "_leftImg8bit"),
                _Folder(fine, "_gtFine_labelIds"),
                _Folder(fine, "_gtFine_instanceIds"),
                _Folder(root / "edge" / split, "_leftImg8bit", optional_ending=True),
            )
        ]
    if data_format == "ade20k":
        part = _ADE_SPLIT[split]
        return [
            _Group(
                _Folder(root / "images" / part),
                _Folder(root / "annotations" / part),
                edges=_Folder(root / "edges" / part),
            )
        ]
    groups = []
    for suffix in ("", "_portrait") if split == "train" else ("",):
        roles = ("img", "label", "inst", "edge")
        images, labels, instances, edges = (
            _Folder(root / f"{split}_{role}{suffix}") for role in roles
        )
        if not suffix or images.path.is_dir():
            prefix = "portrait/" if suffix else ""
            groups.append(_Group(images, labels, instances, edges, prefix))
    return groups


_MARKS: dict[Format, tuple[tuple[str, ...], ...]] = {
    "cityscapes": (("leftImg8bit", "gtFine"),),
    "ade20k": (("images/training", "annotations/training"),
               ("images/validation", "annotations/validation")),
    "coco_stuff": (("train_img", "train_label"), ("val_img", "val_label")),
    "folder": (("train/images", "train/labels"), ("val/images", "val/labels"),
               ("images", "labels")),
}  # fmt: skip


def find_root(root: str) -> Path:
    """The data set's folder; ADE20K's own top folder may be left out.

    Raises:
        DataError: it does not exist or is no folder.
    """
    path = Path(root).expanduser()
    if not path.is_dir():
        what = "is a file" if path.exists() else "does not exist"
        raise DataError(f"{path} {what}: expected the folder of a data set, or scenes")
    inner = path / "ADEChallengeData2016"
    return inner if inner.is_dir() else path


def recognise(root: Path) -> Format:
    """Tells the format from the names of the folders in ``root``.

    Raises:
        DataError: none fits; the message lists what was looked for.
    """
    for data_format, alternatives in _MARKS.items():
        for folders in alternatives:
            if all((root / folder).is_dir() for folder in folders):
                return data_format
    wanted = "; ".join(
        f"{' or '.join('+'.join(folders) for folders in alternatives)} ({data_format})"
        for data_format, alternatives in _MARKS.items()
    )
    raise DataError(f"{root} holds no known data set: looked for {wanted}")


def take_inventory(
    data_format: Format, root: Path, split: Split, *, num_classes: int, instances: bool
) -> Inventory:
    """Lists and pairs the files of one split.

    Args:
        data_format: the layout.
        root: from `find_root`.
        split: train or val. A folder without a val part holds one pair in ten out of training,
            chosen by a hash of its name.
        num_classes: what the configuration asks for; 0 leaves it to the data set.
        instances: whether instance maps are needed.

    Returns:
        Pairs sorted by name; files without a partner as faults.

    Raises:
        ConfigError: ``num_classes`` contradicts the data set or is needed.
        DataError: a folder is missing or empty, or classes.json is broken.
    """
    classes = _classes(data_format, root, num_classes)
    inventory = Inventory(classes, [], [])
    for group in _groups(data_format, root, split):
        if instances and (group.instances is None or not group.instances.path.is_dir()):
            where = f"no folder {group.instances.path}" if group.instances else "none in ADE20K"
            raise DataError(
                f"instance maps are needed by dataset.instance_edges, but there is {where}: "
                "switch it off or add them"
            )
        _pair(group, instances, inventory)
    inventory.pairs.sort(key=lambda pair: pair.name)
    if data_format == "folder" and not (root / "val" / "images").is_dir():
        inventory.pairs = _hold_out(inventory.pairs, split)
    return inventory


def _list_files(folder: _Folder, suffixes: tuple[str, ...], faults: list[Fault]) -> dict[str, Path]:
    found: dict[str, Path] = {}
    for parent, folders, names in os.walk(folder.path):
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        for name in sorted(names):
            file = Path(parent, name)
            if name.startswith(".") or file.suffix.lower() not in suffixes:
                continue
            key = folder.key(file.relative_to(folder.path))
            if key is None:
                continue
            if key in found:
                text = f"{file} has the same name as {found[key].name}: expected one file a name"
                faults.append(Fault("ambiguous", file, text))
            else:
                found[key] = file
    return found


def _pair(group: _Group, instances: bool, inventory: Inventory) -> None:
    for folder in (group.images, group.labels):
        if not folder.path.is_dir():
            raise DataError(f"{folder.path} does not exist: expected a folder")
    faults = inventory.faults
    images = _list_files(group.images, IMAGE_SUFFIXES, faults)
    labels = _list_files(group.labels, IMAGE_SUFFIXES + LOSSLESS_SUFFIXES, faults)
    for folder, files in ((group.images, images), (group.labels, labels)):
        if not files:
            kind = f"*{folder.ending} " if folder.ending else ""
            raise DataError(
                f"{folder.path} is empty: expected {kind}images with the suffixes "
                f"{' '.join(IMAGE_SUFFIXES if folder is group.images else LOSSLESS_SUFFIXES)}"
            )
    extra: dict[str, dict[str, Path]] = {}
    if instances and group.instances is not None:
        extra["instances"] = _list_files(group.instances, LOSSLESS_SUFFIXES, faults)
    if group.edges is not None and group.edges.path.is_dir():
        extra["edges"] = _list_files(group.edges, IMAGE_SUFFIXES + LOSSLESS_SUFFIXES, faults)

    for key, label in labels.items():
        if key not in images:
            where = group.images.path / f"{key}{group.images.ending}.*"
            text = f"label map {label} has no image: expected {where}"
            faults.append(Fault("unpaired", label, text))
    for key, image in images.items():
        if key not in labels:
            where = group.labels.path / f"{key}{group.labels.ending}.png"
            text = f"image {image} has no label map: expected {where}"
            faults.append(Fault("unpaired", image, text))
            continue
        if labels[key].suffix.lower() not in LOSSLESS_SUFFIXES:
            text = (
                f"label map {labels[key]} is in a lossy format: expected one of "
                f"{' '.join(LOSSLESS_SUFFIXES)}"
            )
            faults.append(Fault("mode", labels[key], text))
            continue
        lacking = [role for role, files in extra.items() if key not in files]
        for role in lacking:
            what = "instance map" if role == "instances" else "edge map"
            text = f"image {image} has no {what} though the others have: expected {key}.png"
            faults.append(Fault("unpaired", image, text))
        if not lacking:
            more = {role: files[key] for role, files in extra.items()}
            pair = PairFiles(group.prefix + key, image, labels[key], **more)
            inventory.pairs.append(pair)


def _hold_out(pairs: list[PairFiles], split: Split) -> list[PairFiles]:
    if len(pairs) < 2:
        return pairs
    by_hash = sorted(pairs, key=lambda pair: hashlib.sha256(pair.name.encode()).digest())
    held = {pair.name for pair in by_hash[: max(1, len(pairs) // _HOLD_OUT)]}
    return [pair for pair in pairs if (pair.name in held) == (split == "val")]


def _classes(data_format: Format, root: Path, num_classes: int) -> ClassTable:
    if data_format != "folder":
        tables = {"cityscapes": CITYSCAPES, "ade20k": ADE20K, "coco_stuff": COCO_STUFF}
        classes, source = tables[data_format], str(data_format)
    elif (root / "classes.json").is_file():
        source = str(root / "classes.json")
        classes = _read_classes(root / "classes.json")
    elif num_classes > 0:
        return plain_classes(num_classes)
    else:
        raise ConfigError(f"{root} has no classes.json: set dataset.num_classes or add the file")
    check_num_classes(num_classes, classes, source)
    return classes


def check_num_classes(num_classes: int, classes: ClassTable, source: str) -> None:
    """Refuses a configured class count that is not the data set's.

    Raises:
        ConfigError: they differ and ``num_classes`` is not 0.
    """
    if num_classes not in (0, len(classes)):
        raise ConfigError(
            f"dataset.num_classes is {num_classes}, but {source} has {len(classes)} classes: "
            "leave it 0 or make them agree"
        )


def _read_classes(path: Path) -> ClassTable:
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        entries = content["classes"]
        ids = tuple(int(entry["id"]) for entry in entries)
        names = tuple(str(entry.get("name", entry["id"])) for entry in entries)
        ignore = content.get("ignore_id", 255)
        void = [] if ignore is None else ignore if isinstance(ignore, list) else [ignore]
        void_ids = tuple(int(value) for value in void if int(value) not in ids)
        colours = plain_classes(len(entries)).colours
        for index, entry in enumerate(entries):
            if "color" in entry:
                colours[index] = np.array(entry["color"], np.uint8).reshape(3)
    except (OSError, ValueError, KeyError, TypeError, AttributeError, OverflowError) as error:
        raise DataError(
            f'{path} cannot be used ({type(error).__name__}: {error}): expected {{"classes": '
            '[{"id": 0, "name": "sky", "color": [128, 128, 128]}, ...], "ignore_id": 255}'
        ) from error
    if not ids or len(set(ids)) != len(ids) or min((*ids, *void_ids)) < 0:
        raise DataError(f"{path} has no, repeated or negative class ids: expected each id once")
    if max((*ids, *void_ids)) > 65535 or content.get("num_classes", len(ids)) != len(ids):
        raise DataError(
            f"{path} has {len(ids)} classes, num_classes {content.get('num_classes')} and ids up "
            f"to {max(ids)}: expected equal counts and 16-bit ids"
        )
    return ClassTable(names, colours, ids, void_ids)
