"""Fixtures shared by the tests of the model, data, training and command line."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from ecgan.config import TrainConfig
from ecgan.training import train
from ecgan.training.settings import compose

# The small settings under which a whole B6 run takes seconds on one core.
TINY: dict[str, object] = {
    "size": "32x64",
    "batch_size": 2,
    "log_every": 1,
    "sample_every": 2,
    "save_every": 2,
    "keep": 2,
    "seed": 3,
    "dataset.scenes": 8,
    "dataset.workers": 0,
    "model.ngf": 8,
    "model.ndf": 8,
    "model.num_upsamples": 3,
    "model.spade_hidden": 8,
    "model.projection_dim": 16,
    "loss.contrastive.budget": 128,
    "loss.perceptual_network.network": "efficientnet_lite0",
    "segmenter.steps": 2,
    "segmenter.batch_size": 2,
    "optim.steps": 4,
}


@pytest.fixture(scope="session")
def tiny_layer() -> dict[str, object]:
    """Dotted configuration keys of a run that takes seconds."""
    return dict(TINY)


@pytest.fixture(scope="session")
def tiny_arguments() -> list[str]:
    """The same as arguments of ``ecgan train``."""
    return [f"--{key}={value}" for key, value in TINY.items()]


@pytest.fixture(scope="session")
def b6_run(tiny_layer, tmp_path_factory) -> Path:
    """Run folder of four B6 steps on scenes, with checkpoints at steps 2 and 4."""
    out = tmp_path_factory.mktemp("b6") / "run"
    return train(compose([tiny_layer, {"preset": "B6", "out": str(out)}], TrainConfig))


@pytest.fixture
def pairs_folder(tmp_path: Path) -> Path:
    """A sound data set in the layout ``folder``: 6 pairs of 40x60 pixels, 3 classes, void 255."""
    root = tmp_path / "pairs"
    random = np.random.default_rng(0)
    for name in ("images", "labels"):
        (root / name).mkdir(parents=True)
    for index in range(6):
        labels = np.repeat(np.arange(4), 15)[None, :].repeat(40, 0).astype(np.uint8)
        labels[labels == 3] = 255
        image = random.integers(0, 255, (40, 60, 3), np.uint8)
        Image.fromarray(image).save(root / "images" / f"pair_{index}.png")
        Image.fromarray(np.roll(labels, index, 1)).save(root / "labels" / f"pair_{index}.png")
    return root


@pytest.fixture(scope="session")
def test_data() -> Callable[[str], Path]:
    """Finds a folder of real pairs below $ECGAN_TEST_DATA, or skips the test."""

    def find(name: str) -> Path:
        root = os.environ.get("ECGAN_TEST_DATA", "")
        if not root or not (Path(root) / name).is_dir():
            pytest.skip(f"needs real pairs: set ECGAN_TEST_DATA to a folder that holds {name}/")
        return Path(root) / name

    return find


@pytest.fixture
def read_json() -> Callable[[Path], dict]:
    """Reads a JSON file."""
    return lambda path: json.loads(path.read_text(encoding="utf-8"))
