import os
import shutil
import tempfile
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from ecgan.config import DatasetConfig


@pytest.fixture
def save():
    """Writes an array as an image, with its folders."""

    def save(path: Path, array) -> Path:
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(np.asarray(array)).save(path)
        return path

    return save


@pytest.fixture
def coded():
    """A label map of two-pixel blocks, ids below ``high``, and a photo that repeats the ids."""

    def coded(height: int = 12, width: int = 16, high: int = 5, seed: int = 0):
        rng = np.random.default_rng(seed)
        blocks = rng.integers(0, high, ((height + 1) // 2, (width + 1) // 2), np.uint8)
        labels = blocks.repeat(2, 0).repeat(2, 1)[:height, :width]
        return labels, np.stack([labels * (255 // high)] * 3, 2)

    return coded


@pytest.fixture
def pairs(save, coded):
    """Writes pairs into a folder in the layout ``folder`` and returns the names."""

    def pairs(base: Path, names=("a", "b", "c"), **shape):
        for seed, name in enumerate(names):
            labels, image = coded(seed=seed, **shape)
            save(base / "images" / f"{name}.png", image)
            save(base / "labels" / f"{name}.png", labels)
        return list(names)

    return pairs


@pytest.fixture
def cfg():
    """Five classes."""
    return DatasetConfig(num_classes=5)


@pytest.fixture
def unprivileged():
    """A folder of a user whom permissions stop; root becomes nobody while a test runs."""
    folder = Path(tempfile.mkdtemp())  # pytest's own folders are closed to everybody else.
    root = os.geteuid() == 0
    if root:
        os.chown(folder, 65534, 65534)
        os.seteuid(65534)
    yield folder
    if root:
        os.seteuid(0)
    shutil.rmtree(folder)
