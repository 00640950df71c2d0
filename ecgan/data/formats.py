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

import dataclasses
import hashlib
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from ecgan.data.classes import (
    ADE20K,
    CITYSCAPES,
    COCO_STUFF,
    ClassTable,
    plain_classes,
    read_classes_json,
)
from ecgan.data.faults import Fault, raise_first, shown
from ecgan.data.files import IMAGE_SUFFIXES, LOSSLESS_SUFFIXES
from ecgan.data.listing import Folder, Listing, list_files
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


@dataclass
class Inventory:
    """What a data set's folders hold for one split."""

    classes: ClassTable
    pairs: list[PairFiles]
    faults: list[Fault]


@dataclass(frozen=True)
class _Group:
    """Folders that are paired with each other; names start with ``prefix``."""

    images: Folder
    labels: Folder
    instances: Folder | None = None
    edges: Folder | None = None
    prefix: str = ""


def _groups(data_format: Format, root: Path, split: Split) -> list[_Group]:
    if data_format == "folder":
        base = next((root / s for s in (split, "train") if (root / s / "images").is_dir()), root)
        roles = ("images", "labels", "instances", "edges")
        images, labels, instances, edges = (Folder(base / role) for role in roles)
        return [_Group(images, labels, instances, edges)]
    if data_format == "cityscapes":
        fine = root / "gtFine" / split
        return [
            _Group(
                Folder(root / "leftImg8bit" / split, "_leftImg8bit"),
                Folder(fine, "_gtFine_labelIds"),
                Folder(fine, "_gtFine_instanceIds"),
                Folder(root / "edge" / split, "_leftImg8bit", optional_ending=True),
            )
        ]
    if data_format == "ade20k":
        part = _ADE_SPLIT[split]
        return [
            _Group(
                Folder(root / "images" / part),
                Folder(root / "annotations" / part),
                edges=Folder(root / "edges" / part),
            )
        ]
    groups = []
    for suffix in ("", "_portrait") if split == "train" else ("",):
        roles = ("img", "label", "inst", "edge")
        images, labels, instances, edges = (
            Folder(root / f"{split}_{role}{suffix}") for role in roles
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
        Pairs sorted by name; files that belong to no pair as faults.

    Raises:
        ConfigError: ``num_classes`` contradicts the data set or is needed.
        DataError: a folder is missing or empty, or classes.json is broken.
    """
    classes = find_classes(data_format, root, num_classes)
    pairs, faults = list_pairs(data_format, root, split, instances=instances)
    raise_first([fault for fault in faults if fault.kind == "folder"])
    return Inventory(classes, pairs, faults)


def list_pairs(
    data_format: Format, root: Path, split: Split, *, instances: bool
) -> tuple[list[PairFiles], list[Fault]]:
    """As `take_inventory`, but missing and empty folders are faults, too; no class is looked up."""
    pairs: list[PairFiles] = []
    faults: list[Fault] = []
    for group in _groups(data_format, root, split):
        if instances and (group.instances is None or not group.instances.path.is_dir()):
            missing = group.instances.path if group.instances else root
            where = f"no folder {shown(missing)}" if group.instances else "none in ADE20K"
            text = (
                f"instance maps are needed by dataset.instance_edges, but there is {where}: "
                "switch it off or add them"
            )
            faults.append(Fault("folder", missing, text))
        pairs += _pair(group, instances, faults)
    pairs.sort(key=lambda pair: pair.name)
    if data_format == "folder" and not (root / "val" / "images").is_dir():
        pairs = _hold_out(pairs, split)
    return pairs, [dataclasses.replace(fault, split=split) for fault in faults]


def _list_roles(group: _Group, instances: bool, faults: list[Fault]) -> dict[str, Listing]:
    """The files of each role that every pair must have; a role without files is a fault."""
    roles = {
        "image": (group.images, IMAGE_SUFFIXES, IMAGE_SUFFIXES),
        "label map": (group.labels, IMAGE_SUFFIXES + LOSSLESS_SUFFIXES, LOSSLESS_SUFFIXES),
    }
    if instances and group.instances is not None:
        roles["instance map"] = (group.instances, LOSSLESS_SUFFIXES, LOSSLESS_SUFFIXES)
    if group.edges is not None:
        roles["edge map"] = (group.edges, IMAGE_SUFFIXES + LOSSLESS_SUFFIXES, LOSSLESS_SUFFIXES)
    listings = {}
    for role, (folder, suffixes, wanted) in roles.items():
        needed = role in ("image", "label map")
        if not folder.path.is_dir():
            if needed:
                text = f"{shown(folder.path)} does not exist: expected a folder"
                faults.append(Fault("folder", folder.path, text))
            continue
        listings[role] = list_files(folder, suffixes, faults)
        if needed and not listings[role].files and not listings[role].ambiguous:
            kind = f"*{folder.ending} " if folder.ending else ""
            text = (
                f"{shown(folder.path)} is empty: expected {kind}images with the suffixes "
                f"{' '.join(wanted)}"
            )
            faults.append(Fault("folder", folder.path, text))
    return listings


def _pair(group: _Group, instances: bool, faults: list[Fault]) -> list[PairFiles]:
    listings = _list_roles(group, instances, faults)
    if not all(role in listings and listings[role].files for role in ("image", "label map")):
        return []
    images, labels = listings.pop("image"), listings.pop("label map")

    def unpaired(file: Path, text: str) -> None:
        faults.append(Fault("unpaired", file, text))

    for key, label in labels.files.items():
        if key not in images.files and key not in images.ambiguous:
            where = shown(group.images.path / f"{key}{group.images.ending}.*")
            text = f"label map {shown(label)} has no image: expected {where}{images.hint(key)}"
            unpaired(label, text)
    pairs = []
    for key, image in images.files.items():
        if key in labels.ambiguous:
            continue
        if key not in labels.files:
            where = shown(group.labels.path / f"{key}{group.labels.ending}.png")
            text = f"image {shown(image)} has no label map: expected {where}{labels.hint(key)}"
            unpaired(image, text)
            continue
        label = labels.files[key]
        if label.suffix.lower() not in LOSSLESS_SUFFIXES:
            text = (
                f"label map {shown(label)} is in a lossy format: expected one of "
                f"{' '.join(LOSSLESS_SUFFIXES)}"
            )
            faults.append(Fault("mode", label, text))
            continue
        lacking = [role for role, listing in listings.items() if key not in listing.files]
        for role in lacking:
            text = (
                f"image {shown(image)} has no {role} though the others have: expected "
                f"{shown(key)}.png{listings[role].hint(key)}"
            )
            unpaired(image, text)
        if not lacking:
            instance, edge = (
                listings[role].files[key] if role in listings else None
                for role in ("instance map", "edge map")
            )
            pairs.append(PairFiles(group.prefix + key, image, label, instance, edge))
    return pairs


def _hold_out(pairs: list[PairFiles], split: Split) -> list[PairFiles]:
    if len(pairs) < 2:
        return pairs
    by_hash = sorted(pairs, key=lambda pair: hashlib.sha256(os.fsencode(pair.name)).digest())
    held = {pair.name for pair in by_hash[: max(1, len(pairs) // _HOLD_OUT)]}
    return [pair for pair in pairs if (pair.name in held) == (split == "val")]


def find_classes(data_format: Format, root: Path, num_classes: int) -> ClassTable:
    """The classes of a data set: of its format, of its classes.json, or as many as configured.

    Raises:
        ConfigError: ``num_classes`` contradicts the data set or is needed.
        DataError: classes.json is broken.
    """
    if data_format != "folder":
        tables = {"cityscapes": CITYSCAPES, "ade20k": ADE20K, "coco_stuff": COCO_STUFF}
        classes, source = tables[data_format], str(data_format)
    elif (root / "classes.json").is_file():
        source = str(root / "classes.json")
        classes = read_classes_json(root / "classes.json")
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
