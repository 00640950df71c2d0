import io
import os
import struct
import zlib
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from ecgan.data.files import MAX_PIXELS, read_gray, read_ids, read_image
from ecgan.errors import DataError


@pytest.fixture
def ramp():
    return np.arange(6 * 8, dtype=np.uint8).reshape(6, 8) * 5


def test_rgb_gray_and_palette_photos(tmp_path: Path, ramp):
    rgb = np.stack([ramp, ramp.T.reshape(6, 8), ramp[::-1]], 2)
    for name, image in {
        "rgb.png": Image.fromarray(rgb),
        "rgb.bmp": Image.fromarray(rgb),
        "rgb.tif": Image.fromarray(rgb),
        "palette.png": Image.fromarray(rgb).quantize(64),
    }.items():
        image.save(tmp_path / name)
        assert np.array_equal(read_image(tmp_path / name), np.array(image.convert("RGB"))), name
    Image.fromarray(ramp).save(tmp_path / "gray.png")
    assert np.array_equal(read_image(tmp_path / "gray.png"), np.stack([ramp] * 3, 2))
    Image.fromarray(rgb).convert("CMYK").save(tmp_path / "cmyk.jpg", quality=100)
    assert read_image(tmp_path / "cmyk.jpg").shape == (6, 8, 3)


def test_16_bit_gray_photo_is_scaled(tmp_path: Path):
    Image.fromarray(np.array([[0, 257, 65535]], np.uint16)).save(tmp_path / "a.png")
    assert read_image(tmp_path / "a.png")[..., 0].tolist() == [[0, 1, 255]]


def test_transparency_lies_over_white(tmp_path: Path):
    rgba = np.zeros((1, 3, 4), np.uint8)
    rgba[0, :, 3] = 0, 128, 255
    Image.fromarray(rgba).save(tmp_path / "a.png")
    assert read_image(tmp_path / "a.png")[0, :, 1].tolist() == [255, 127, 0]


@pytest.mark.parametrize("suffix", ["jpg", "png", "tif", "webp"])
def test_exif_orientation(tmp_path: Path, suffix):
    image = Image.new("RGB", (8, 4))
    image.paste((255, 255, 255), (0, 0, 4, 4))
    exif = Image.Exif()
    exif[0x0112] = 6  # Turn by 90 degrees clockwise: left becomes top.
    image.save(tmp_path / f"a.{suffix}", exif=exif)
    got = read_image(tmp_path / f"a.{suffix}")
    assert got.shape == (8, 4, 3)
    assert got[0].min() > 200
    assert got[-1].max() < 60


@pytest.mark.parametrize("name", ["a b.png", "straße 東京.png", "percent%20#1.png"])
def test_ids_are_unchanged(tmp_path: Path, name):
    ids = np.array([[0, 1, 200], [255, 7, 3]], np.uint8)
    Image.fromarray(ids).save(tmp_path / name)
    assert np.array_equal(read_ids(tmp_path / name), ids)
    palette = Image.fromarray(ids)
    palette.putpalette(np.random.default_rng(0).integers(0, 256, 768).tolist())
    assert palette.mode == "P"
    palette.save(tmp_path / name)
    assert np.array_equal(read_ids(tmp_path / name), ids)


def test_ids_keep_16_bits(tmp_path: Path):
    ids = np.array([[26001, 26002], [24, 65535]], np.uint16)
    Image.fromarray(ids).save(tmp_path / "a.png")
    assert read_ids(tmp_path / "a.png").tolist() == ids.tolist()
    Image.fromarray(ids).save(tmp_path / "a.tif")
    assert read_ids(tmp_path / "a.tif").tolist() == ids.tolist()


def test_one_bit_maps(tmp_path: Path):
    Image.fromarray(np.array([[True, False]])).save(tmp_path / "a.png")
    assert read_ids(tmp_path / "a.png").tolist() == [[1, 0]]
    assert read_gray(tmp_path / "a.png").tolist() == [[255, 0]]


@pytest.mark.parametrize("mode", ["RGB", "RGBA", "LA"])
def test_colour_coded_ids_are_refused(tmp_path: Path, mode):
    Image.new(mode, (4, 4)).save(tmp_path / "a.png")
    with pytest.raises(DataError, match=r"a\.png is colour-coded .* one channel of integer ids"):
        read_ids(tmp_path / "a.png")


def test_ids_are_integers(tmp_path: Path):
    Image.fromarray(np.ones((3, 3), np.float32)).save(tmp_path / "a.tif")
    with pytest.raises(DataError, match=r"a\.tif holds real numbers"):
        read_ids(tmp_path / "a.tif")


@pytest.mark.parametrize("suffix", ["png", "jpg", "bmp", "tif", "webp"])
def test_truncated_files_are_named(tmp_path: Path, suffix):
    file = tmp_path / f"cut.{suffix}"
    noise = np.random.default_rng(0).integers(0, 256, (32, 32, 3), np.uint8)
    Image.fromarray(noise).save(file)
    whole = file.read_bytes()
    for length in (0, 4, len(whole) // 3, len(whole) - 40):
        file.write_bytes(whole[:length])
        with pytest.raises(DataError, match=rf"cut\.{suffix} cannot be read as an image") as caught:
            read_image(file)
        assert "\n" not in str(caught.value)


def test_other_files_are_no_images(tmp_path: Path):
    file = tmp_path / "a.png"
    file.write_text("hello")
    with pytest.raises(DataError, match="cannot be read as an image"):
        read_image(file)
    # PostScript under a photo's name must not start an interpreter.
    file.write_text("%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 8 8\n%%EndComments\nshowpage\n")
    with pytest.raises(DataError, match="cannot be read as an image"):
        read_image(file)
    with pytest.raises(DataError, match="does not exist"):
        read_image(tmp_path / "none.png")


@pytest.mark.filterwarnings("ignore::PIL.Image.DecompressionBombWarning")
@pytest.mark.parametrize("side", [11_000, 60_000])
def test_decompression_bombs_are_refused(tmp_path: Path, side):
    def chunk(kind, data):
        body = kind + data
        return struct.pack(">I", len(data)) + body + struct.pack(">I", zlib.crc32(body))

    header = struct.pack(">IIBBBBB", side, side, 8, 0, 0, 0, 0)
    assert side * side > MAX_PIXELS
    (tmp_path / "bomb.png").write_bytes(
        b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(b"\0" * 99))
    )
    with pytest.raises(DataError, match=r"bomb\.png .* at most 100,000,000 pixels"):
        read_image(tmp_path / "bomb.png")


def test_16_bit_colour_photos_keep_their_high_bytes(tmp_path: Path):
    # Pillow writes no such file: three samples of 16 bits each, 0x12, 0x80 and 0xff in front.
    def chunk(kind, data):
        body = kind + data
        return struct.pack(">I", len(data)) + body + struct.pack(">I", zlib.crc32(body))

    pixel = bytes([0x12, 0x01, 0x80, 0x02, 0xFF, 0x03])
    (tmp_path / "a.png").write_bytes(
        b"\x89PNG\r\n\x1a\n"
        + chunk(b"IHDR", struct.pack(">IIBBBBB", 2, 1, 16, 2, 0, 0, 0))
        + chunk(b"IDAT", zlib.compress(b"\0" + pixel * 2))
        + chunk(b"IEND", b"")
    )
    assert read_image(tmp_path / "a.png").tolist() == [[[0x12, 0x80, 0xFF]] * 2]
    with pytest.raises(DataError, match=r"a\.png is colour-coded \(RGB\)"):
        read_ids(tmp_path / "a.png")


def test_gray_with_transparency_lies_over_white(tmp_path: Path):
    Image.fromarray(np.array([[[0, 0], [0, 255], [100, 255]]], np.uint8), "LA").save(
        tmp_path / "a.png"
    )
    assert read_image(tmp_path / "a.png")[0, :, 2].tolist() == [255, 0, 100]


def test_photos_of_real_numbers_are_refused(tmp_path: Path):
    Image.fromarray(np.ones((3, 3), np.float32)).save(tmp_path / "a.tif")
    for reader in (read_image, read_gray):
        with pytest.raises(DataError, match=r"a\.tif holds real numbers: expected a photo of 8 or"):
            reader(tmp_path / "a.tif")


def test_ids_come_in_the_order_of_this_machine(tmp_path: Path):
    swapped = Image.frombytes("I;16B", (2, 1), b"\x12\x34\0\x07")
    swapped.save(tmp_path / "a.tif")
    ids = read_ids(tmp_path / "a.tif")
    assert ids.tolist() == [[0x1234, 7]]
    assert ids.dtype.isnative


@pytest.mark.parametrize("suffix", ["png", "webp", "tif"])
def test_animations_and_pages_are_refused(tmp_path: Path, ramp, suffix):
    first, second = Image.fromarray(ramp), Image.fromarray(ramp[::-1].copy())
    first.save(tmp_path / f"a.{suffix}", save_all=True, append_images=[second])
    for reader in (read_image, read_ids, read_gray):
        with pytest.raises(DataError, match=rf"a\.{suffix} holds several images"):
            reader(tmp_path / f"a.{suffix}")


def test_the_first_view_of_a_camera_counts(tmp_path: Path, ramp):
    first = Image.new("RGB", (16, 8), "white")
    first.save(tmp_path / "a.jpg", "MPO", save_all=True, append_images=[Image.new("RGB", (16, 8))])
    assert read_image(tmp_path / "a.jpg").min() == 255


@pytest.mark.parametrize(("kind", "readable"), [
    ("JPEG", True), ("TIFF", True), ("GIF", False), ("PDF", False), ("EPS", False), ("ICO", False),
])  # fmt: skip
def test_the_content_counts_not_the_suffix(tmp_path: Path, kind, readable):
    Image.new("RGB", (16, 16), "white").save(tmp_path / "a.png", kind)
    if readable:
        assert read_image(tmp_path / "a.png").min() == 255
        return
    with pytest.raises(DataError, match=r"a\.png cannot be read as an image: it is none, or"):
        read_image(tmp_path / "a.png")


def test_what_is_no_file(tmp_path: Path):
    def refused(name: str, text: str) -> None:
        for reader in (read_image, read_ids, read_gray):
            with pytest.raises(DataError, match=text) as caught:
                reader(tmp_path / name)
            assert "\n" not in str(caught.value)
            assert str(caught.value).isprintable()

    (tmp_path / "folder.png").mkdir()
    refused("folder.png", r"folder\.png is a folder: expected an image")
    os.mkfifo(tmp_path / "pipe.png")  # Opening it would wait for ever.
    refused("pipe.png", r"pipe\.png is no regular file: expected an image")
    (tmp_path / "zero.png").symlink_to("/dev/zero")
    refused("zero.png", r"zero\.png is no regular file")
    (tmp_path / "gone.png").symlink_to("nowhere.png")
    refused("gone.png", r"gone\.png is a link to a file that does not exist")
    (tmp_path / "loop.png").symlink_to("loop.png")
    refused("loop.png", r"loop\.png cannot be read: Too many levels of symbolic links")
    (tmp_path / "empty.png").touch()
    refused("empty.png", r"empty\.png cannot be read as an image: it is empty")
    refused("a\0b.png", r"a\\x00b\.png is no file name: embedded null byte")
    refused("n" * 300 + ".png", "cannot be read: File name too long")
    refused("two\nlines\x1b[31m\udcff.png", r"two\\nlines\\x1b\[31m\\udcff\.png does not exist$")


def test_files_that_are_too_large_are_not_read(tmp_path: Path):
    with (tmp_path / "a.png").open("wb") as file:
        file.truncate(5 << 30)  # Takes no room on disk.
    with pytest.raises(DataError, match=r"a\.png has 5,368,709,120 bytes: expected at most"):
        read_image(tmp_path / "a.png")


def test_files_without_permission(tmp_path: Path, unprivileged):
    file = unprivileged / "a.png"
    Image.new("L", (4, 4)).save(file)
    file.chmod(0)
    with pytest.raises(DataError, match=r"a\.png cannot be read: Permission denied"):
        read_image(file)


def test_a_profile_that_says_nonsense_does_not_matter(tmp_path: Path, ramp):
    buffer = io.BytesIO()
    Image.fromarray(ramp).save(buffer, "PNG", icc_profile=b"no profile")
    (tmp_path / "a.png").write_bytes(buffer.getvalue())
    assert np.array_equal(read_ids(tmp_path / "a.png"), ramp)


@pytest.mark.parametrize(
    "error", [KeyError("ImageWidth"), TypeError(), MemoryError(), OverflowError("too\nlarge")]
)
def test_whatever_a_decoder_raises_becomes_a_sentence(tmp_path: Path, monkeypatch, error):
    def fail(*arguments, **options):
        raise error

    Image.new("L", (4, 4)).save(tmp_path / "a.png")
    monkeypatch.setattr(Image, "open", fail)
    for reader in (read_image, read_ids, read_gray):
        with pytest.raises(DataError, match=r"a\.png cannot be read as an image: \S") as caught:
            reader(tmp_path / "a.png")
        assert "\n" not in str(caught.value)
