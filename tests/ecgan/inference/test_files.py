import functools
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from ecgan.errors import CheckpointError, ConfigError, DataError
from ecgan.inference import ECGAN
from ecgan.inference.files import synthesize_files

load = functools.lru_cache(ECGAN.from_pretrained)


def synthesize(source: Path, labels: Path, out: Path, **options) -> list[Path]:
    return synthesize_files(load(source), labels, out, **options)


@pytest.fixture
def labels(tmp_path: Path) -> Path:
    folder = tmp_path / "labels"
    folder.mkdir()
    for index, name in enumerate(("a.png", "b c.png")):
        ids = np.full((20, 40), index, np.uint8)
        ids[10:] = 2
        Image.fromarray(ids).save(folder / name)
    return folder


def test_images_and_edges_without_photos(b6_run: Path, labels: Path, tmp_path: Path):
    written = synthesize(b6_run, labels, tmp_path / "out")
    assert [p.name for p in written] == ["a.png", "b c.png"]
    for path in written:
        edge = tmp_path / "out" / "edges" / path.name
        with Image.open(path) as image, Image.open(edge) as lines:
            assert (image.size, image.mode) == ((64, 32), "RGB")
            assert (lines.size, lines.mode) == ((64, 32), "L")


def test_a_map_alone_gives_the_same(b6_run: Path, labels: Path, tmp_path: Path):
    checkpoint = b6_run / "checkpoints" / "step-000004"
    (_, together) = synthesize(b6_run, labels, tmp_path / "1")
    (alone,) = synthesize(checkpoint, labels / "b c.png", tmp_path / "2")
    assert alone.read_bytes() == together.read_bytes()


def test_samples_and_size(b6_run: Path, labels: Path, tmp_path: Path):
    written = synthesize(b6_run, labels / "a.png", tmp_path / "out", samples=2, size="64x32")
    assert [p.name for p in written] == ["a_0.png", "a_1.png"]
    with Image.open(written[0]) as image:
        assert image.size == (32, 64)


def test_wrong_ids_are_named_before_anything_is_written(b6_run: Path, labels: Path, tmp_path: Path):
    Image.fromarray(np.full((8, 8), 77, np.uint8)).save(labels / "z.png")
    with pytest.raises(DataError, match=r"z\.png.*77"):
        synthesize(b6_run, labels, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_what_is_missing_is_named(b6_run: Path, labels: Path, tmp_path: Path):
    out = tmp_path / "out"
    with pytest.raises(DataError, match="do not exist"):
        synthesize(b6_run, tmp_path / "nope", out)
    with pytest.raises(DataError, match="holds no label map"):
        synthesize(b6_run, b6_run / "samples" / "..", out)
    with pytest.raises(CheckpointError, match="neither a checkpoint nor a run folder"):
        synthesize(tmp_path, labels, out)
    with pytest.raises(ConfigError, match="at least 1"):
        synthesize(b6_run, labels, out, samples=0)
    with pytest.raises(ConfigError, match="30x64"):
        synthesize(b6_run, labels, out, size="30x64")
