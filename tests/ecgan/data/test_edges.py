import io
import math
import os
import warnings
from pathlib import Path

import cv2
import numpy as np
import pytest
from PIL import Image

from ecgan.config import EdgeConfig
from ecgan.data.edges import EdgeSource, canny, file_identity, opencv_canny
from ecgan.errors import ConfigError


def literal_canny(gray, low, high):
    """The rule pixel by pixel, in the order in which it is told."""
    height, width = gray.shape
    kernel = [[2, 4, 5, 4, 2], [4, 9, 12, 9, 4], [5, 12, 15, 12, 5], [4, 9, 12, 9, 4],
              [2, 4, 5, 4, 2]]  # fmt: skip

    def at(image, row, column):
        inside = 0 <= row < height and 0 <= column < width
        return image[row][column] if inside else 0.0

    def every(function):
        return [[function(r, c) for c in range(width)] for r in range(height)]

    gray = gray.astype(int).tolist()
    smooth = every(
        lambda r, c: (
            sum(kernel[i][j] * at(gray, r + i - 2, c + j - 2) for i in range(5) for j in range(5))
            / 159
        )
    )
    weights = (1, 2, 1)
    dx = every(
        lambda r, c: sum(
            weights[i] * (at(smooth, r + i - 1, c + 1) - at(smooth, r + i - 1, c - 1))
            for i in range(3)
        )
    )
    dy = every(
        lambda r, c: sum(
            weights[j] * (at(smooth, r + 1, c + j - 1) - at(smooth, r - 1, c + j - 1))
            for j in range(3)
        )
    )
    size = every(lambda r, c: math.hypot(dx[r][c], dy[r][c]))
    neighbours = {0: (0, 1), 45: (1, 1), 90: (1, 0), 135: (1, -1)}

    def thin(r, c):
        if r in (0, height - 1) or c in (0, width - 1):
            return 0.0
        angle = math.degrees(math.atan2(dy[r][c], dx[r][c])) % 180
        down, right = neighbours[int((angle + 22.5) // 45) % 4 * 45]
        rivals = size[r + down][c + right], size[r - down][c - right]
        # Ties stay; the sums above differ from exact ones in their last digits.
        return size[r][c] if size[r][c] >= max(rivals) - 1e-9 else 0.0

    kept = every(thin)
    largest = max(map(max, kept))

    def edge(r, c):
        if kept[r][c] < low * largest or kept[r][c] == 0:
            return 0
        if kept[r][c] > high * largest:
            return 255
        around = [
            at(kept, r + i, c + j) for i in (-1, 0, 1) for j in (-1, 0, 1) if (i, j) != (0, 0)
        ]
        return 255 * any(value > high * largest for value in around)

    return np.array(every(edge), np.uint8)


def blobs(height, width, seed):
    rng = np.random.default_rng(seed)
    image = rng.integers(0, 256, (height, width)).astype(np.float32)
    image = cv2.GaussianBlur(image, (0, 0), 2.0)
    image = (image - image.min()) / np.ptp(image) * 220
    cv2.circle(image, (width // 2, height // 3), height // 4, 240.0, -1)
    return image.astype(np.uint8)


@pytest.mark.parametrize(("height", "width", "seed"), [(24, 31, 0), (17, 40, 1), (33, 9, 2)])
@pytest.mark.parametrize(("low", "high"), [(0.075, 0.175), (0.2, 0.6)])
def test_canny_is_the_literal_rule(height, width, seed, low, high):
    gray = blobs(height, width, seed)
    want = literal_canny(gray, low, high)
    assert 0 < (want > 0).mean() < 0.6
    np.testing.assert_array_equal(canny(gray, low, high), want)


def test_canny_hysteresis_is_one_pass():
    # Along a step that fades, edge strength decays: the pixels between the two thresholds that
    # touch no strong one are dropped, where OpenCV's hysteresis would follow them.
    gray = np.zeros((40, 60), np.uint8)
    gray[20:] = np.linspace(200, 0, 60).astype(np.uint8)
    official, opencv = canny(gray, 0.1, 0.7), opencv_canny(gray, 0.1, 0.7)
    assert opencv[:, 45].any()
    assert not official[:, 45].any()
    assert official[:, 5].any()


def test_canny_turns_with_the_image():
    gray = blobs(20, 28, 4)
    np.testing.assert_array_equal(canny(gray[:, ::-1]), canny(gray)[:, ::-1])
    np.testing.assert_array_equal(canny(gray.T), canny(gray).T)


@pytest.mark.parametrize("rule", [canny, opencv_canny])
def test_flat_and_tiny_images_have_no_edges(rule):
    assert not rule(np.zeros((9, 9, 3), np.uint8)).any()
    assert rule(np.full((1, 5), 77, np.uint8)).shape == (1, 5)
    # The image's own frame is no edge.
    assert not rule(np.full((12, 12), 200, np.uint8)).any()


def test_opencv_canny_finds_a_step():
    image = np.zeros((20, 20, 3), np.uint8)
    image[:, 10:] = 180
    columns = np.flatnonzero(opencv_canny(image)[10])
    assert len(columns) == 1
    assert columns[0] in (9, 10)


def test_cache_is_used_and_keyed(tmp_path: Path):
    cfg = EdgeConfig(cache=str(tmp_path / "cache"))
    image = blobs(16, 20, 0)
    first = EdgeSource(cfg)(image, "a")
    files = list((tmp_path / "cache").rglob("*.png"))
    assert len(files) == 1
    # The entry answers, whatever the image: proof that it is read.
    assert np.array_equal(EdgeSource(cfg)(np.zeros_like(image), "a"), first)
    assert first.any()
    for other in (EdgeConfig(cache=cfg.cache, high=0.3), EdgeConfig("opencv", cache=cfg.cache)):
        assert not EdgeSource(other)(np.zeros_like(image), "a").any()
    assert not EdgeSource(cfg)(np.zeros_like(image), "b").any()
    assert EdgeSource(cfg)(np.zeros((8, 8), np.uint8), "a").shape == (8, 8)
    assert len(list((tmp_path / "cache").rglob("*.png"))) == 5
    assert not list((tmp_path / "cache").rglob("*.tmp"))


def wrong_size(whole: bytes) -> bytes:
    return png_of(np.zeros((16, 21), np.uint8))


def png_of(array) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(array).save(buffer, "PNG")
    return buffer.getvalue()


@pytest.mark.parametrize(
    "damage",
    [
        lambda whole: whole[: len(whole) // 2],
        lambda whole: b"",
        lambda whole: whole[:-20] + bytes([whole[-20] ^ 1]) + whole[-19:],
        lambda whole: b"no image",
        lambda whole: whole.replace(b"IHDR\0\0\0\x14", b"IHDR\x7f\0\0\x14"),
        wrong_size,
    ],
    ids=["cut", "empty", "flipped bit", "text", "absurd size", "other size"],
)
def test_damaged_cache_entry_is_replaced(tmp_path: Path, damage):
    source = EdgeSource(EdgeConfig(cache=str(tmp_path)))
    image = blobs(16, 20, 0)
    want = source(image, "a")
    (entry,) = tmp_path.rglob("*.png")
    whole = entry.read_bytes()
    entry.write_bytes(damage(whole))
    assert entry.read_bytes() != whole
    assert np.array_equal(source(image, "a"), want)
    assert entry.read_bytes() == whole
    assert [path for path in tmp_path.rglob("*") if path.is_file()] == [entry]


def test_an_entry_is_written_in_whole_or_not_at_all(tmp_path: Path, monkeypatch):
    def fail(*arguments):
        raise OSError("disk full")

    monkeypatch.setattr(os, "replace", fail)
    source = EdgeSource(EdgeConfig(cache=str(tmp_path)))
    with pytest.warns(UserWarning, match="disk full"):
        source(blobs(16, 20, 0), "a")
    assert not [path for path in tmp_path.rglob("*") if path.is_file()]


def test_unwritable_cache_warns_once_and_goes_on(tmp_path: Path):
    (tmp_path / "file").write_text("")
    source = EdgeSource(EdgeConfig(cache=str(tmp_path / "file" / "cache")))
    image = blobs(16, 20, 0)
    with pytest.warns(UserWarning, match="cannot be written"):
        source(image, "a")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert np.array_equal(source(image, "b"), canny(image))


def test_file_identity_follows_the_content(tmp_path: Path):
    file = tmp_path / "a"
    file.write_bytes(b"1")
    before = file_identity(file)
    assert before == file_identity(file)
    file.write_bytes(b"22")
    assert file_identity(file) != before


def test_hed_uses_the_extractor():
    def network(image):
        assert image.dtype == np.uint8
        return np.linspace(-0.5, 1.5, image.shape[1], dtype=np.float32)[None].repeat(4, 0)

    edges = EdgeSource(EdgeConfig("hed"), network)(np.zeros((4, 5, 3), np.uint8))
    assert edges.tolist() == [[0, 0, 128, 255, 255]] * 4
    with pytest.raises(ConfigError, match="hed_weights"):
        EdgeSource(EdgeConfig("hed"))


def test_thresholds_are_checked():
    with pytest.raises(ConfigError, match="low <= high"):
        EdgeSource(EdgeConfig(low=0.5, high=0.2))
