from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from ecgan.data import build_dataset
from ecgan.data.sources import read_pair
from ecgan.data.validation import check_pairs
from ecgan.errors import DataError

SIZE = (12, 16)


@pytest.fixture
def folder(tmp_path: Path, pairs):
    pairs(tmp_path / "train")
    pairs(tmp_path / "val", ["v"])
    return tmp_path / "train"


def sentence(cfg, folder) -> str:
    data = build_dataset(cfg, str(folder.parent), SIZE, "train")
    with pytest.raises(DataError) as caught:
        data.validate()
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_sound_data_passes_and_reports_progress(cfg, folder):
    calls = []
    data = build_dataset(cfg, str(folder.parent), SIZE, "train")
    data.validate(lambda done, total: calls.append((done, total)))
    assert calls == [(1, 3), (2, 3), (3, 3)]
    calls.clear()
    data.validate(lambda done, total: calls.append((done, total)), limit=2)
    assert calls == [(1, 2), (2, 2)]


def test_wrong_label_ids(cfg, folder, save):
    labels = np.zeros((12, 16), np.uint8)
    labels[3, 4], labels[5, 6], labels[0, 0] = 7, 200, 255
    file = save(folder / "labels" / "b.png", labels)
    text = sentence(cfg, folder)
    assert f"label map {file}: class ids 7, 200 out of range" in text
    assert "expected 0..4 or 255 for void" in text


def test_one_or_many_wrong_ids(cfg, folder, save):
    save(folder / "labels" / "a.png", np.full((12, 16), 60000, np.uint16))
    assert "class id 60000 out of range" in sentence(cfg, folder)
    save(folder / "labels" / "a.png", np.arange(192, dtype=np.uint8).reshape(12, 16))
    assert "class ids 5, 6, 7, 8, 9, 10, 11, 12 and 179 more out of range" in sentence(cfg, folder)


def test_colour_coded_labels(cfg, folder, save):
    save(folder / "labels" / "c.png", np.zeros((12, 16, 3), np.uint8))
    assert "c.png is colour-coded (RGB): expected a label map with one channel" in sentence(
        cfg, folder
    )


def test_unreadable_image(cfg, folder):
    file = folder / "images" / "b.png"
    file.write_bytes(file.read_bytes()[:-30])
    assert f"{file} cannot be read as an image: " in sentence(cfg, folder)


def test_sizes_that_differ(cfg, folder, save):
    save(folder / "labels" / "a.png", np.zeros((12, 15), np.uint8))
    text = sentence(cfg, folder)
    label = folder / "labels" / "a.png"
    assert f"{label} is 12 pixels high and 15 wide: expected 12 and 16" in text
    assert str(folder / "images" / "a.png") in text


def test_instances_and_edges_are_checked_too(cfg, folder, save):
    cfg.instance_edges = True
    for name in "abc":
        save(folder / "instances" / f"{name}.png", np.zeros((12, 16), np.uint16))
        save(folder / "edges" / f"{name}.png", np.zeros((6, 8), np.uint8))
    data = build_dataset(cfg, str(folder.parent), SIZE, "train")
    data.validate()
    save(folder / "instances" / "a.png", np.zeros((4, 4), np.uint16))
    save(folder / "instances" / "b.png", np.zeros((12, 16, 3), np.uint8))
    (folder / "edges" / "c.png").write_text("no image")
    faults = data.faults()
    assert [(fault.kind, fault.file.parent.name) for fault in faults] == [
        ("size", "instances"),
        ("mode", "instances"),
        ("unreadable", "edges"),
    ]
    assert "(2 more faults" in sentence(cfg, folder)


def test_every_fault_of_every_pair_is_listed(cfg, folder, save):
    save(folder / "labels" / "a.png", np.full((3, 3), 9, np.uint8))
    (folder / "images" / "c.png").write_bytes(b"")
    (folder / "labels" / "c.png").write_bytes(b"")
    data = build_dataset(cfg, str(folder.parent), SIZE, "train")
    found = [(fault.kind, fault.file.name) for fault in data.faults()]
    assert found == [("labels", "a.png"), ("size", "a.png")] + [("unreadable", "c.png")] * 2


def test_faults_that_appear_later_are_named_when_loaded(cfg, folder, save):
    data = build_dataset(cfg, str(folder.parent), SIZE, "train")
    save(folder / "labels" / "a.png", np.full((12, 16), 9, np.uint8))
    with pytest.raises(DataError, match=r"label map .*a\.png: class id 9 out of range"):
        data[0]
    save(folder / "labels" / "b.png", np.zeros((3, 3), np.uint8))
    with pytest.raises(DataError, match=r"b\.png is 3 pixels high and 3 wide: expected 12 and 16"):
        data[1]
    (folder / "labels" / "c.png").unlink()
    with pytest.raises(DataError, match=r"^\S*c\.png does not exist$"):
        data[2]


def test_scenes_have_no_files_to_check(cfg):
    cfg.num_classes = 0
    build_dataset(cfg, "scenes", SIZE, "train").validate()


def test_a_map_of_the_wrong_kind_and_size_has_two_faults(cfg, folder, save):
    save(folder / "labels" / "a.png", np.zeros((3, 4, 3), np.uint8))
    data = build_dataset(cfg, str(folder.parent), SIZE, "train")
    assert [(fault.kind, fault.pair, fault.split) for fault in data.faults()] == [
        ("mode", "a", "train"),
        ("size", "a", "train"),
    ]


@pytest.mark.parametrize("orientation", [1, 3, 6, 8])
def test_a_turned_photo_whose_label_map_is_not(cfg, folder, orientation):
    exif = Image.Exif()
    exif[0x0112] = orientation
    Image.new("RGB", (16, 12)).save(folder / "images" / "a.png", exif=exif)
    data = build_dataset(cfg, str(folder.parent), SIZE, "train")
    if orientation in (1, 3):
        assert data.faults() == []  # Half a turn keeps the size: nothing tells.
        return
    (fault,) = data.faults()
    assert fault.kind == "size"
    assert "is 12 pixels high and 16 wide: expected 16 and 12" in fault.message
    assert "which its EXIF orientation turns: turn the label map alike" in fault.message


def test_a_check_that_fails_does_not_end_the_others(cfg, folder, monkeypatch, save):
    save(folder / "labels" / "c.png", np.full((12, 16), 9, np.uint8))

    def fail(files, classes):
        if files.name == "a":
            raise RuntimeError("out of\nluck")
        return read_pair(files, classes)

    monkeypatch.setattr("ecgan.data.validation.read_pair", fail)
    data = build_dataset(cfg, str(folder.parent), SIZE, "train")
    assert [(fault.kind, fault.pair) for fault in data.faults()] == [
        ("error", "a"),
        ("labels", "c"),
    ]
    assert data.faults()[0].message.endswith("cannot be checked: RuntimeError out of\\nluck")


def test_the_number_of_threads_changes_nothing(cfg, folder, save):
    save(folder / "labels" / "b.png", np.full((3, 3), 9, np.uint8))
    (folder / "images" / "c.png").write_bytes(b"")
    data = build_dataset(cfg, str(folder.parent), SIZE, "train")
    pairs = data.source.pairs * 700  # More than are handed out at a time.
    found = [check_pairs(pairs, data.source.classes, workers=n) for n in (1, 5)]
    assert found[0] == found[1]
    assert len(found[0]) == 2100
