"""Real pairs, where ECGAN_TEST_DATA points to them."""

import os
from pathlib import Path

import numpy as np
import pytest

from ecgan.config import DatasetConfig
from ecgan.data import build_dataset

ROOT = os.environ.get("ECGAN_TEST_DATA", "")
pytestmark = pytest.mark.skipif(not ROOT, reason="ECGAN_TEST_DATA names no folder of real pairs")


@pytest.mark.parametrize(
    ("name", "classes", "void"),
    [("camvid", 11, True), ("facades", 12, False), ("coco_stuff", 182, True)],
)
@pytest.mark.parametrize("split", ["train", "val"])
def test_real_pairs(name, classes, void, split):
    instances = name == "coco_stuff"
    root = Path(ROOT) / name
    if not root.is_dir():
        pytest.skip(f"no {name} here")
    data = build_dataset(DatasetConfig(instance_edges=instances), str(root), (48, 64), split)
    data.validate(limit=40)
    assert data.num_classes == classes
    assert len(data) >= 8
    step = max(1, len(data) // 12)
    items = [data[index] for index in range(0, len(data), step)]
    labels = np.concatenate([item["labels"].numpy().ravel() for item in items])
    assert labels.min() >= 0
    assert (labels.max() == classes) == void
    assert len(np.unique(labels)) > min(classes, 30) * 0.7
    image = np.stack([item["image"].numpy() for item in items])
    assert -0.8 < image.mean() < 0.5
    assert image.std() > 0.2
    edges = np.stack([item["edge"].numpy() for item in items])
    assert set(np.unique(edges)) == {-1.0, 1.0}
    assert 0.01 < (edges > 0).mean() < 0.4
    if instances:
        marked = np.stack([item["instance_edges"].numpy() for item in items]).mean()
        assert 0.01 < marked < 0.5
