"""Everything that users' folders hold besides the pairs."""

import os
import subprocess
import sys
import unicodedata
from pathlib import Path

import numpy as np
import pytest

from ecgan.data import build_dataset
from ecgan.data.faults import Fault
from ecgan.data.files import IMAGE_SUFFIXES
from ecgan.data.formats import list_pairs
from ecgan.data.listing import Folder, list_files
from ecgan.errors import DataError

SIZE = (12, 16)


def inventory(root: Path) -> tuple[list[str], list[tuple[str, str, str]]]:
    """Names of the pairs, and kind, file name and sentence of every fault."""
    pairs, faults = list_pairs("folder", root, "train", instances=False)
    assert all(fault.message.isprintable() for fault in faults)
    assert all(fault.split == "train" for fault in faults)
    return [p.name for p in pairs], [(f.kind, f.file.name, f.message) for f in faults]


@pytest.fixture
def root(tmp_path: Path, pairs) -> Path:
    """Three pairs for training; the val part keeps any from being held out."""
    pairs(tmp_path / "train")
    pairs(tmp_path / "val", ["v"])
    return tmp_path


@pytest.fixture
def images(root: Path) -> Path:
    return root / "train" / "images"


@pytest.fixture
def labels(root: Path) -> Path:
    return root / "train" / "labels"


def test_names_with_spaces_accents_and_signs(tmp_path: Path, pairs):
    names = ["a b", " front", "straße 東京", "percent%20#1", "q?*[x]", 'it\'s "so"', "x.y.z", "🐈"]
    pairs(tmp_path / "train", names)
    pairs(tmp_path / "val", ["v"])
    assert inventory(tmp_path) == (sorted(names), [])


@pytest.mark.parametrize("forms", [("NFC", "NFD"), ("NFD", "NFC")])
def test_accents_match_in_any_normal_form(tmp_path: Path, save, coded, forms):
    ids, image = coded()
    for role, array, form in (("images", image, forms[0]), ("labels", ids, forms[1])):
        name = unicodedata.normalize(form, "Ürümqi é.png")
        save(tmp_path / "train" / role / name, array)
    (tmp_path / "val" / "images").mkdir(parents=True)
    assert inventory(tmp_path) == (["Ürümqi é"], [])


def test_two_forms_of_one_name_are_ambiguous(root, images, labels, save, coded):
    ids, image = coded()
    for form in ("NFC", "NFD"):
        save(images / unicodedata.normalize(form, "é.png"), image)
    save(labels / "é.png", ids)
    names, faults = inventory(root)
    assert names == ["a", "b", "c"]
    ((kind, _, text),) = faults
    assert kind == "ambiguous"
    assert "has the same name as" in text


@pytest.mark.parametrize("role", ["images", "labels"])
def test_files_of_one_name_leave_their_pair_out(root, save, coded, role):
    ids, image = coded()
    save(root / "train" / role / "b.tif", image if role == "images" else ids)
    names, faults = inventory(root)
    assert names == ["a", "c"]
    assert [fault[:2] for fault in faults] == [("ambiguous", "b.tif")]


def test_a_name_that_differs_in_case_is_pointed_out(root, labels):
    (labels / "b.png").rename(labels / "B.png")
    names, faults = inventory(root)
    assert names == ["a", "c"]
    assert {fault[:2] for fault in faults} == {("unpaired", "b.png"), ("unpaired", "B.png")}
    assert "(there is B.png, but upper and lower case differ)" in faults[1][2]


def test_suffixes_in_capitals_are_read_and_unknown_ones_pointed_out(root, images, labels):
    (images / "a.png").rename(images / "a.PNG")
    (images / "b.png").rename(images / "b.gif")
    (labels / "c.png").rename(labels / "c")
    names, faults = inventory(root)
    assert names == ["a"]
    texts = " ".join(fault[2] for fault in faults)
    assert "(there is b.gif, but the suffix .gif is not read)" in texts
    assert "(there is c, but it has no suffix)" in texts


def test_a_folder_with_a_files_name(root, labels):
    (labels / "b.png").unlink()
    (labels / "b.png").mkdir()
    names, faults = inventory(root)
    assert names == ["a", "c"]
    assert [fault[:2] for fault in faults] == [("unreadable", "b.png"), ("unpaired", "b.png")]
    assert "b.png is a folder: expected an image file" in faults[0][2]


def test_links_to_folders_and_files_are_followed(tmp_path: Path, root, images, labels, pairs, cfg):
    pairs(tmp_path / "elsewhere", ["x"])
    for folder in (images, labels):
        (folder / "more").symlink_to(tmp_path / "elsewhere" / folder.name)
        (folder / "link.png").symlink_to(folder / "a.png")
    assert inventory(root) == (["a", "b", "c", "link", "more/x"], [])
    assert build_dataset(cfg, str(root), SIZE, "train")[3]["name"] == "link"


def test_links_in_circles_end(root, images, labels):
    (images / "up").symlink_to("..")
    (labels / "self").symlink_to("self")
    (labels / "here").symlink_to(".")
    names, faults = inventory(root)
    assert names == ["a", "b", "c"]
    circles = [fault for fault in faults if fault[0] == "unreadable"]
    assert {fault[1] for fault in circles} == {"images", "here"}
    assert all("is a link to a folder above it: expected no circles" in c[2] for c in circles)


def test_folders_nested_deeper_than_python_calls(tmp_path: Path):
    # Made by steps: the whole path is longer than the system takes.
    code = "import os, sys\nos.chdir(sys.argv[1])\n"
    code += "for _ in range(1500):\n os.mkdir('d')\n os.chdir('d')"
    subprocess.run([sys.executable, "-c", code, str(tmp_path)], check=True)
    faults: list[Fault] = []
    assert list_files(Folder(tmp_path), IMAGE_SUFFIXES, faults).files == {}
    assert all("cannot be read" in fault.message for fault in faults)
    subprocess.run(["rm", "-rf", str(tmp_path / "d")], check=True)


def test_a_folder_without_permission(unprivileged, pairs):
    pairs(unprivileged / "train", ["a", "closed/x"])
    pairs(unprivileged / "val", ["v"])
    closed = unprivileged / "train" / "labels" / "closed"
    closed.chmod(0)
    names, faults = inventory(unprivileged)
    closed.chmod(0o755)
    assert names == ["a"]
    assert [fault[:2] for fault in faults] == [("unreadable", "closed"), ("unpaired", "x.png")]
    assert "cannot be read: Permission denied" in faults[0][2]


def test_names_that_are_no_text(root, images, labels, cfg):
    for folder in (images, labels):
        os.link(folder / "a.png", os.fsencode(folder) + b"/two\nlines \xff.png")
    os.link(images / "a.png", os.fsencode(images) + b"/alone\n\xff.png")
    names, faults = inventory(root)
    assert names[-1] == "two\nlines \udcff"
    assert "alone\\n\\udcff.png has no label map" in faults[0][2]
    cfg.edges.cache = str(root / "cache")
    data = build_dataset(cfg, str(root), SIZE, "train", strict=False)
    assert data[3]["name"] == names[-1]
    # A tenth is held out by a hash of the name.
    (root / "val" / "images").rename(root / "val" / "none")
    assert len(build_dataset(cfg, str(root), SIZE, "train", strict=False)) == 3


def test_hidden_and_other_files_do_not_matter(root, images):
    for name in (".DS_Store", "._a.png", ".hidden.png", "Thumbs.db", "notes.txt", "a.png.part"):
        (images / name).write_bytes(b"\0")
    (images / ".ipynb_checkpoints").mkdir()
    np.save(images / "a.npy", np.zeros(3))
    assert inventory(root) == (["a", "b", "c"], [])


def test_every_folder_that_is_missing_or_empty_is_listed(root, images, cfg):
    for file in images.iterdir():
        file.unlink()
    names, faults = inventory(root)
    assert names == []
    assert [fault[:2] for fault in faults] == [("folder", "images")]
    _, found = list_pairs("coco_stuff", root, "val", instances=True)
    assert [fault.file.name for fault in found] == ["val_inst", "val_img", "val_label"]
    with pytest.raises(DataError, match=r"images is empty: expected images with the suffixes"):
        build_dataset(cfg, str(root), SIZE, "train", strict=False)
