"""Uploads: what is read, and how little a hostile file can take."""

from __future__ import annotations

import resource
import struct
import zlib
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from ecgan.data.classes import ADE20K, CITYSCAPES
from ecgan.data.scenes import SCENE_CLASSES, render_scene
from ecgan.demo import uploads
from ecgan.demo.examples import find_examples
from ecgan.demo.uploads import read_label_map, read_photo
from ecgan.errors import DataError

SIZE = (8, 12)


@pytest.fixture
def save(tmp_path: Path):
    def save_(pixels: np.ndarray, name: str = "map.png") -> Path:
        Image.fromarray(pixels).save(tmp_path / name)
        return tmp_path / name

    return save_


def test_ids_become_classes_and_are_resized(save):
    ids = np.array([[0, 1], [150, 3]], np.uint8)
    painting = read_label_map(save(ids), ADE20K, (4, 4))
    wanted = np.array([[150, 0], [149, 2]])  # 0 is void in the files, 1 the first class
    assert (painting.labels == wanted.repeat(2, 0).repeat(2, 1)).all()
    assert not painting.region.any()


def test_colours_become_classes(save):
    labels = np.arange(13).repeat(8).reshape(SIZE[0], 13)
    painting = read_label_map(save(SCENE_CLASSES.palette[labels]), SCENE_CLASSES, labels.shape)
    assert (painting.labels == labels).all()


def test_of_classes_with_one_colour_the_first_counts(save):
    pixels = np.zeros((2, 2, 3), np.uint8)
    pixels[0] = CITYSCAPES.colours[34]  # licence plates are as blue as cars
    painting = read_label_map(save(pixels), CITYSCAPES, (2, 2))
    assert painting.labels.tolist() == [[26, 26], [0, 0]]


def test_other_ids_and_colours_are_refused_by_name(save):
    for pixels, message in (
        (np.full(SIZE, 77, np.uint8), "map.png: class id 77 out of range"),
        (np.full((*SIZE, 3), 77, np.uint8), r"map.png: it has 1 colour of no class \(#4d4d4d\)"),
    ):
        with pytest.raises(DataError, match=f"^{message}"):
            read_label_map(save(pixels), SCENE_CLASSES, SIZE)


@pytest.mark.parametrize("read", [lambda p: read_label_map(p, SCENE_CLASSES, SIZE), read_photo])
def test_bombs_and_junk(read, save, tmp_path: Path, monkeypatch):
    def chunk(kind: bytes, content: bytes) -> bytes:
        body = kind + content
        return struct.pack(">I", len(content)) + body + struct.pack(">I", zlib.crc32(body))

    bomb = tmp_path / "bomb.png"
    header = chunk(b"IHDR", struct.pack(">IIBBBBB", 9000, 9000, 8, 0, 0, 0, 0))
    rows = zlib.compress(bytes(9001 * 9000))
    bomb.write_bytes(b"\x89PNG\r\n\x1a\n" + header + chunk(b"IDAT", rows) + chunk(b"IEND", b""))
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with pytest.raises(DataError, match=r"^bomb\.png is 9000x9000 pixels: expected at most"):
        read(bomb)
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 40 << 10  # KiB

    for content in (b"", b"GIF89a", bomb.read_bytes()[:60]):
        bomb.write_bytes(content)
        with pytest.raises(DataError, match=r"^bomb\.png") as error:
            read(bomb)
        assert str(tmp_path) not in str(error.value)

    monkeypatch.setattr(uploads, "MAX_BYTES", 50)
    with pytest.raises(DataError, match=r"^map\.png has 0 MiB: expected at most"):
        read(save(np.zeros((40, 40), np.uint8)))


def test_examples(save, tmp_path: Path):
    scenes = find_examples(None, SCENE_CLASSES, (32, 64))
    assert (scenes[0].labels == render_scene(20, (32, 64)).labels).all()
    assert not (scenes[0].labels == scenes[1].labels).all()
    blank = find_examples(None, ADE20K, SIZE)
    assert [one.labels.tolist() for one in blank] == [np.zeros(SIZE, int).tolist()]

    with pytest.raises(DataError, match="holds no label map"):
        find_examples(tmp_path, ADE20K, SIZE)
    for index in range(14):
        save(np.full(SIZE, 1 + index, np.uint8), f"{index:02}.png")
    found = find_examples(tmp_path, ADE20K, SIZE)
    assert [one.labels[0, 0] for one in found] == list(range(12))
    save(np.full(SIZE, 200, np.uint8), "00.png")
    with pytest.raises(DataError, match=r"00\.png: class id 200 out of range"):
        find_examples(tmp_path, ADE20K, SIZE)
