"""``dataset.faults: skip``: files without a partner are left out, faulty pairs replaced."""

import dataclasses
import pickle
from pathlib import Path

import numpy as np
import pytest
import torch
from torch.utils.data import DataLoader

from ecgan.config import DatasetConfig, EdgeConfig
from ecgan.data import Fault, build_dataset, skipped
from ecgan.errors import DataError
from ecgan.training.build import open_data

SIZE = (12, 16)
NAMES = [f"n{index}" for index in range(8)]


@pytest.fixture
def cfg():
    return DatasetConfig(num_classes=5, faults="skip", resize="scale_crop", load_size="20x24")


@pytest.fixture
def root(tmp_path: Path, pairs) -> Path:
    pairs(tmp_path / "train", NAMES)
    pairs(tmp_path / "val", ["v", "w"])
    return tmp_path


@pytest.fixture
def spoiled(root: Path, save) -> Path:
    """Pairs 2, 3 and 7 are faulty, each in a way of its own, and one label map is alone."""
    train = root / "train"
    (train / "images" / "n2.png").write_bytes(b"no image")
    save(train / "labels" / "n3.png", np.full((12, 16), 9, np.uint8))
    save(train / "labels" / "n7.png", np.zeros((12, 15), np.uint8))
    save(train / "labels" / "alone.png", np.zeros((12, 16), np.uint8))
    return root


def build(cfg, root, split="train", seed=1):
    return build_dataset(cfg, str(root), SIZE, split, seed=seed)


def same(a, b, but=()):
    words = {"name", "replaced"}
    assert a.keys() == b.keys()
    return all(a[key] == b[key] for key in words - set(but)) and all(
        torch.equal(a[key], b[key]) for key in a.keys() - words
    )


def test_a_faulty_pair_gives_its_place_to_the_next_sound_one(cfg, spoiled):
    data = build(cfg, spoiled)
    items = [data[index] for index in range(8)]
    assert [item["name"] for item in items] == ["n0", "n1", "n4", "n4", "n4", "n5", "n6", "n0"]
    assert [item["replaced"] for item in items] == ["", "", "n2", "n3", "", "", "", "n7"]
    # The place's own random numbers: the same pair, cropped anew.
    assert not torch.equal(items[2]["image"], items[4]["image"])
    second = [data[8 + index] for index in range(8)]
    assert [item["replaced"] for item in second] == [item["replaced"] for item in items]
    assert not same(second[2], items[2])


def test_items_do_not_depend_on_what_was_done_before(cfg, spoiled):
    checked, fresh = build(cfg, spoiled), build(cfg, spoiled)
    assert checked.validate()
    want = [checked[index] for index in range(16)]
    assert all(same(fresh[index], want[index]) for index in reversed(range(16)))
    assert same(pickle.loads(pickle.dumps(fresh))[10], want[10])


def test_loading_processes_say_what_was_replaced(cfg, spoiled):
    batches = list(DataLoader(build(cfg, spoiled), batch_size=4, num_workers=2))
    assert [batch["replaced"] for batch in batches] == [["", "", "n2", "n3"], ["", "", "", "n7"]]
    assert batches[0]["image"].shape == (4, 3, *SIZE)


def test_sound_pairs_are_the_same_in_both_modes(cfg, root):
    refusing = build(dataclasses.replace(cfg, faults="refuse"), root)
    skipping = build(cfg, root)
    assert all(same(a, b) for a, b in zip(refusing, skipping, strict=True))
    assert all(item["replaced"] == "" for item in refusing)
    assert build_dataset(DatasetConfig(), "scenes", (32, 32), "val")[0]["replaced"] == ""


def test_refuse_is_the_default_and_refuses(spoiled):
    cfg = DatasetConfig(num_classes=5)
    with pytest.raises(DataError, match=r"alone\.png has no image"):
        build(cfg, spoiled)
    data = build_dataset(cfg, str(spoiled), SIZE, "train", strict=False)
    with pytest.raises(DataError, match="alone"):
        data.validate()
    for index, text in ((2, "n2.png"), (3, "class id 9"), (7, "12 pixels high and 15 wide")):
        with pytest.raises(DataError, match=text):
            data[index]


def test_what_the_check_finds_is_what_is_replaced(cfg, spoiled, save):
    """Also wrong instance and edge maps, which a single photo would not show."""
    for name in NAMES:
        save(spoiled / "train" / "instances" / f"{name}.png", np.zeros((12, 16), np.uint16))
        save(spoiled / "train" / "edges" / f"{name}.png", np.zeros((6, 8), np.uint8))
    save(spoiled / "train" / "instances" / "n0.png", np.zeros((6, 8), np.uint16))
    (spoiled / "train" / "edges" / "n5.png").write_text("no image")
    data = build(dataclasses.replace(cfg, instance_edges=True), spoiled)
    found = {fault.pair for fault in data.faults() if fault.pair}
    assert found == {"n0", "n2", "n3", "n5", "n7"}
    assert {item["replaced"] for item in data} == found | {""}


def test_a_fault_that_appears_in_training_is_replaced_too(cfg, root):
    data = build(cfg, root)
    assert data.validate() == []
    (root / "train" / "labels" / "n4.png").unlink()
    assert (data[4]["name"], data[4]["replaced"]) == ("n5", "n4")


def test_nothing_but_faulty_pairs_is_one_sentence(cfg, root):
    for file in (root / "train" / "images").iterdir():
        file.write_bytes(b"")
    data = build(cfg, root)
    with pytest.raises(DataError, match=r"^8 faulty pairs in a row from n5 on: .*n5\.png .* empty"):
        data[5]


def test_the_search_for_a_sound_pair_is_bounded(cfg, root, monkeypatch):
    data = build(cfg, root)
    monkeypatch.setattr("ecgan.data.dataset._MAX_TRIES", 3)
    for name in ("n0", "n1"):
        (root / "train" / "images" / f"{name}.png").unlink()
    assert data[0]["name"] == "n2"
    (root / "train" / "images" / "n2.png").unlink()
    with pytest.raises(DataError, match="3 faulty pairs in a row from n0 on"):
        data[0]


def test_more_than_half_are_too_many(cfg, spoiled):
    (spoiled / "train" / "images" / "n0.png").write_bytes(b"")
    data = build(cfg, spoiled)
    assert len({fault.pair for fault in data.validate() if fault.pair}) == 4
    (spoiled / "train" / "images" / "n1.png").write_bytes(b"")
    with pytest.raises(DataError, match=r"^5 of 8 train pairs are faulty: expected at most half"):
        data.validate()
    # Of two pairs that were looked at, n0 and n4, one.
    assert len(data.validate(limit=2)) == 2


def test_the_edge_cache_is_filled_around_them(cfg, spoiled, tmp_path):
    cfg = dataclasses.replace(cfg, edges=EdgeConfig(cache=str(tmp_path / "cache")))
    build(cfg, spoiled).fill_edge_cache()
    assert len(list((tmp_path / "cache").rglob("*.png"))) == 5


def test_opening_reports_what_it_puts_up_with(cfg, spoiled):
    (spoiled / "val" / "labels" / "w.png").write_bytes(b"")
    reports: list[list[Fault]] = []
    train, val = open_data(cfg, str(spoiled), "12x16", 1, report=reports.append)
    (faults,) = reports
    assert [(fault.split, fault.pair or fault.file.name) for fault in faults] == [
        ("train", "alone.png"), ("train", "n2"), ("train", "n3"), ("train", "n7"), ("val", "w"),
    ]  # fmt: skip
    assert skipped(faults, len(train) + len(val)) == (
        "4 of 10 pairs are faulty and will be replaced by sound ones; 1 file that belongs to no "
        "pair will be left out"
    )
    open_data(cfg, str(spoiled), "12x16", 1, validate=False, report=reports.append)
    assert len(reports) == 1


def test_opening_sound_pairs_reports_nothing(cfg, root):
    open_data(cfg, str(root), "12x16", 1, report=pytest.fail)


def test_files_that_both_parts_share_are_reported_once(cfg, tmp_path, pairs, save):
    pairs(tmp_path, NAMES)
    save(tmp_path / "labels" / "alone.png", np.zeros((12, 16), np.uint8))
    reports: list[list[Fault]] = []
    open_data(cfg, str(tmp_path), "12x16", 1, report=reports.append)
    assert [fault.file.name for fault in reports[0]] == ["alone.png"]
