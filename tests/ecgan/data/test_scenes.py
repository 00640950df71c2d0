import cv2
import numpy as np
import pytest

from ecgan.config import DatasetConfig
from ecgan.data import build_dataset
from ecgan.data.edges import canny
from ecgan.data.scenes import SCENE_CLASSES, render_scene

NAMES = SCENE_CLASSES.names


@pytest.fixture(scope="module")
def scenes():
    return [render_scene((1, 0, index), (48, 64)) for index in range(24)]


@pytest.mark.parametrize("size", [(1, 1), (7, 33), (32, 64), (64, 48)])
def test_any_size(size):
    scene = render_scene(5, size)
    assert scene.image.shape == (*size, 3)
    assert scene.labels.shape == scene.instances.shape == size
    assert scene.image.dtype == scene.labels.dtype == np.uint8


def test_a_scene_is_its_seed(scenes):
    again = render_scene((1, 0, 3), (48, 64))
    for key in ("image", "labels", "instances"):
        assert np.array_equal(getattr(again, key), getattr(scenes[3], key))
    assert len({scene.image.tobytes() for scene in scenes}) == len(scenes)
    assert not np.array_equal(render_scene((2, 0, 3), (48, 64)).image, again.image)


def test_all_classes_occur_often(scenes):
    counts = np.array([np.bincount(scene.labels.ravel(), minlength=12) for scene in scenes])
    assert counts.shape[1] == len(NAMES) == 12
    present = (counts > 0).mean(0)
    assert all(present > 0.2), dict(zip(NAMES, present, strict=True))
    share = counts.sum(0) / counts.sum()
    for name in ("sky", "building", "road"):
        assert 0.05 < share[NAMES.index(name)] < 0.6


def test_instances_refine_labels(scenes):
    for scene in scenes:
        thing = scene.instances >= 1000
        assert np.array_equal(np.where(thing, scene.instances // 1000, scene.instances),
                              scene.labels)  # fmt: skip
        counted = [NAMES.index(name) for name in ("car", "person", "traffic sign", "traffic light")]
        assert np.array_equal(thing, np.isin(scene.labels, counted))
    cars = [len(np.unique(s.instances[s.labels == NAMES.index("car")])) for s in scenes]
    assert max(cars) > 2


def test_photo_follows_labels(scenes):
    # Grass is green, the sky is brighter than the road, shading differs between scenes.
    pixels = np.concatenate([scene.image.reshape(-1, 3) for scene in scenes]).astype(float)
    labels = np.concatenate([scene.labels.ravel() for scene in scenes])
    mean = [pixels[labels == index].mean(0) for index in range(12)]
    grass, sky, road = (mean[NAMES.index(name)] for name in ("grass", "sky", "road"))
    assert grass[1] > grass[2] + 10
    assert sky.mean() > road.mean() + 20
    brightness = [scene.image.mean() for scene in scenes]
    assert np.std(brightness) > 5
    assert 40 < np.mean(brightness) < 200


def test_edges_lie_on_and_inside_regions(scenes):
    on = inside = border = 0
    for scene in scenes:
        edges = canny(scene.image) > 0
        step = cv2.morphologyEx(scene.labels, cv2.MORPH_GRADIENT, np.ones((3, 3), np.uint8)) > 0
        on, inside = on + (edges & step).sum(), inside + (edges & ~step).sum()
        border += step.sum()
    # Three times as likely at a border as chance has it, yet much is left for texture.
    share = border / (len(scenes) * 48 * 64)
    assert on / (on + inside) > 1.5 * share
    assert inside > 0.2 * (on + inside)


def test_dataset_of_scenes():
    cfg = DatasetConfig(scenes=20, instance_edges=True)
    train, val = (
        build_dataset(cfg, "scenes", (24, 32), split, seed=4) for split in ("train", "val")
    )
    assert (len(train), len(val)) == (20, 2)
    assert train.name == "scenes"
    assert train.class_names == list(NAMES)
    item = train[0]
    assert item["labels"].max() < 12
    assert item["instance_edges"].mean() > 0.02
    assert item["name"] == "scene_train_000000"
    assert not np.array_equal(val[0]["image"], train[0]["image"])
    # Another epoch shows the same scene, perhaps mirrored.
    labels = item["labels"]
    for epoch in range(1, 5):
        again = train[epoch * 20]["labels"]
        assert (again == labels).all() or (again.flip(1) == labels).all()
    assert not (build_dataset(cfg, "scenes", (24, 32), "val", seed=5)[0]["labels"]
                == val[0]["labels"]).all()  # fmt: skip
