import dataclasses
import pickle
from pathlib import Path

import numpy as np
import pytest
import torch
from torch.utils.data import DataLoader

from ecgan.config import DatasetConfig, EdgeConfig
from ecgan.data import build_dataset, canny, instance_edges
from ecgan.data.transforms import Window, resize_bicubic, resize_nearest
from ecgan.errors import ConfigError

SIZE = (12, 16)


def ids_of(image):
    """Undoes the fixture's coding of ids as gray values 51 apart."""
    return torch.round((image[0] + 1) * 127.5 / 51).long()


@pytest.fixture
def root(tmp_path: Path, pairs, save, coded):
    """Every map of a pair says the same: photo and edges repeat the ids of the label map."""
    for part in ("train", "val"):
        names = pairs(tmp_path / part, [f"n{i}" for i in range(6)])
        for seed, name in enumerate(names):
            labels, image = coded(seed=seed)
            save(tmp_path / part / "instances" / f"{name}.png", labels.astype(np.uint16) + 1000)
            save(tmp_path / part / "edges" / f"{name}.png", image[..., 0])
    return str(tmp_path)


@pytest.mark.parametrize("resize", ["stretch", "scale_crop"])
def test_every_map_is_moved_alike(root, resize):
    cfg = DatasetConfig(num_classes=5, instance_edges=True, resize=resize, load_size="12x16")
    size = SIZE if resize == "stretch" else (7, 9)
    data = build_dataset(cfg, root, size, "train", seed=3)
    whole = build_dataset(cfg, root, SIZE, "val", seed=3)
    seen = set()
    for position in range(30):
        item = data[position]
        labels = item["labels"]
        assert item["image"].shape == (3, *size)
        assert torch.equal(ids_of(item["image"]), labels)
        assert torch.equal(ids_of(item["edge"]), labels)
        assert item["instance_edges"][0].numpy().tolist() == instance_edges(labels.numpy()).tolist()
        reference = whole[position % 6]["labels"]
        places = [
            (top, left, flip)
            for flip in (False, True)
            for top in range(13 - size[0])
            for left in range(17 - size[1])
            if torch.equal(
                labels.flip(1) if flip else labels,
                reference[top : top + size[0], left : left + size[1]],
            )
        ]
        assert places, "not a window of the pair"
        seen.add(places[0])
    assert {flip for _, _, flip in seen} == {False, True}
    assert len(seen) == 2 if resize == "stretch" else len(seen) > 15


def test_items(root):
    data = build_dataset(DatasetConfig(num_classes=5, instance_edges=True), root, SIZE, "val")
    item = data[0]
    assert item["labels"].dtype == torch.int64
    for key, channels in (("image", 3), ("edge", 1), ("instance_edges", 1)):
        assert item[key].dtype == torch.float32
        assert item[key].shape == (channels, *SIZE)
        assert item[key].is_contiguous()
    assert set(item["instance_edges"].unique().tolist()) <= {0.0, 1.0}
    assert item["image"].min() == -1.0
    assert item["name"] == "n0"
    assert "instance_edges" not in build_dataset(DatasetConfig(num_classes=5), root, SIZE, "val")[0]


def same(a, b):
    words = {"name", "replaced"}
    return all(a[key] == b[key] for key in words) and all(
        torch.equal(a[key], b[key]) for key in a.keys() - words
    )


def test_items_depend_on_seed_epoch_and_index_alone(root):
    cfg = DatasetConfig(num_classes=5, resize="scale_crop", load_size="40x50")
    one, two = (build_dataset(cfg, root, SIZE, "train", seed=1) for _ in range(2))
    forward = [one[i] for i in range(12)]
    assert all(same(two[i], forward[i]) for i in reversed(range(12)))
    assert [item["name"] for item in forward[6:]] == [item["name"] for item in forward[:6]]
    assert not any(same(forward[i], forward[i + 6]) for i in range(6))
    other = build_dataset(cfg, root, SIZE, "train", seed=2)
    assert not all(same(other[i], forward[i]) for i in range(6))
    val = build_dataset(cfg, root, SIZE, "val", seed=1)
    assert all(same(val[i], val[i + 6]) for i in range(6))
    with pytest.raises(IndexError):
        one[-1]
    assert len(list(one)) == len(one) == 6


def test_flip_can_be_switched_off_and_leaves_the_crop(root):
    cfg = DatasetConfig(num_classes=5, resize="scale_crop", load_size="20x20")
    with_flip = build_dataset(cfg, root, SIZE, "train")
    without = build_dataset(dataclasses.replace(cfg, flip=False), root, SIZE, "train")
    flipped = 0
    for i in range(12):
        a, b = with_flip[i]["labels"], without[i]["labels"]
        flipped += not torch.equal(a, b)
        assert torch.equal(a, b) or torch.equal(a.flip(1), b)
    assert 1 < flipped < 11


def test_loading_processes_and_collation(root):
    data = build_dataset(DatasetConfig(num_classes=5, instance_edges=True), root, SIZE, "train")
    batches = list(DataLoader(data, batch_size=3, num_workers=2))
    assert [batch["name"] for batch in batches] == [["n0", "n1", "n2"], ["n3", "n4", "n5"]]
    assert batches[0]["labels"].shape == (3, *SIZE)
    assert torch.equal(batches[1]["image"][2], data[5]["image"])
    assert same(pickle.loads(pickle.dumps(data))[4], data[4])


def test_edges_are_made_after_resizing_and_move_with_the_photo(tmp_path, pairs):
    pairs(tmp_path, ["a"], height=40, width=60)
    cfg = DatasetConfig(num_classes=5)
    data = build_dataset(cfg, str(tmp_path), (20, 30), "train")
    for position in range(6):
        item = data[position]
        photo = ((item["image"] + 1) * 127.5).round().byte().permute(1, 2, 0).numpy()
        assert np.array_equal(((item["edge"][0] + 1) * 127.5).numpy(), canny(photo))
    cached = dataclasses.replace(cfg, edges=EdgeConfig(cache=str(tmp_path / "cache")))
    again = build_dataset(cached, str(tmp_path), (20, 30), "train")
    again.fill_edge_cache()
    (entry,) = (tmp_path / "cache").rglob("*.png")
    before = entry.stat().st_mtime_ns
    assert all(same(again[i], data[i]) for i in range(6))
    assert entry.stat().st_mtime_ns == before


def test_hed_extractor_reaches_the_items(tmp_path, pairs):
    pairs(tmp_path, ["a"])
    cfg = DatasetConfig(num_classes=5, edges=EdgeConfig("hed"))
    data = build_dataset(
        cfg,
        str(tmp_path),
        SIZE,
        "val",
        extractor=lambda image: np.ones(image.shape[:2], np.float32),
    )
    assert data[0]["edge"].unique().tolist() == [1.0]


def test_load_size_must_cover_the_crop(root):
    cfg = DatasetConfig(num_classes=5, resize="scale_crop", load_size="11x99")
    with pytest.raises(ConfigError, match="load_size 11x99 is smaller than size 12x16"):
        build_dataset(cfg, root, SIZE, "train")
    # Validation stretches to size and does not care.
    assert build_dataset(cfg, root, SIZE, "val")[0]["labels"].shape == SIZE


def test_nearest_keeps_ids_and_pixel_centres():
    ids = np.array([[26001, 3], [700, 65535]], np.uint16)
    assert np.array_equal(resize_nearest(ids, (4, 6)), ids.repeat(2, 0).repeat(3, 1))
    row = np.arange(9, dtype=np.int32)[None]
    assert resize_nearest(row, (1, 3)).tolist() == [[1, 4, 7]]
    # The photo's filter is centred there too.
    photo = np.repeat((row * 20).astype(np.uint8), 3, 0)
    assert np.abs(resize_bicubic(photo, (1, 3))[0].astype(int) - [20, 80, 140]).max() <= 3


def test_shrinking_a_photo_does_not_alias():
    stripes = np.zeros((8, 64, 3), np.uint8)
    stripes[:, ::2] = 255
    small = resize_bicubic(stripes, (2, 16))
    assert np.abs(small.astype(int) - 127).max() < 16


def test_instance_edges():
    ids = np.zeros((5, 6), np.int32)
    ids[1:3, 2:4] = 70000
    want = np.zeros((5, 6), np.uint8)
    want[1:3, 1:5] = 1
    want[0:4, 2:4] = 1
    assert np.array_equal(instance_edges(ids), want)
    assert not instance_edges(np.full((3, 3), 9)).any()


def test_windows_cover_every_place():
    rng = np.random.default_rng(0)
    drawn = {
        (w.top, w.left, w.flip)
        for w in (Window.draw(rng, (5, 4), (3, 4), True) for _ in range(200))
    }
    assert drawn == {(top, 0, flip) for top in range(3) for flip in (False, True)}
