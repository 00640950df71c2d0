"""Files made to do harm, and files that went bad: an array of the right kind or a DataError."""

import io
import os
import struct
import subprocess
import sys
import zlib
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image

from ecgan.data.files import MAX_PIXELS, is_turned, read_gray, read_ids, read_image
from ecgan.errors import DataError

RANDOM = np.random.default_rng(0)
PHOTO = Image.fromarray(RANDOM.integers(0, 256, (12, 16, 3), np.uint8))
IDS = Image.fromarray(RANDOM.integers(0, 9, (12, 16), np.uint8))


def encode(image: Image.Image, kind: str, **options) -> bytes:
    file = io.BytesIO()
    image.save(file, kind, **options)
    return file.getvalue()


def png_chunk(kind: bytes, data: bytes) -> bytes:
    body = kind + data
    return struct.pack(">I", len(data)) + body + struct.pack(">I", zlib.crc32(body))


def png(width: int, height: int, *chunks: bytes, data: bytes = b"\0" * 99) -> bytes:
    header = png_chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0))
    rest = png_chunk(b"IDAT", zlib.compress(data)) + png_chunk(b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + header + b"".join(chunks) + rest


def tiff(width: int, height: int, *more: tuple[int, int, int, int], after: int = 0) -> bytes:
    """One uncompressed strip of eight bytes behind the directory at offset 8."""
    size = min(width * height, 2**32 - 1)
    entries = [
        (256, 4, 1, width), (257, 4, 1, height), (258, 3, 1, 8), (259, 3, 1, 1), (262, 3, 1, 1),
        (273, 4, 1, 4096), (277, 3, 1, 1), (278, 4, 1, height), (279, 4, 1, size),
    ]  # fmt: skip
    entries = sorted({entry[0]: entry for entry in [*entries, *more]}.values())
    directory = b"".join(struct.pack("<HHII", *entry) for entry in entries)
    count = struct.pack("<H", len(entries))
    body = b"II*\0" + struct.pack("<I", 8) + count + directory + struct.pack("<I", after)
    return body.ljust(4096, b"\0") + b"\1" * 8


def bmp(width: int, height: int) -> bytes:
    header = struct.pack("<IiiHHIIiiII", 40, width, height, 1, 24, 0, 0, 0, 0, 0, 0)
    return b"BM" + struct.pack("<IHHI", 62, 0, 0, 54) + header + b"\0" * 8


def jpeg(width: int, height: int) -> bytes:
    whole = encode(PHOTO, "JPEG")
    at = whole.index(b"\xff\xc0") + 5
    return whole[:at] + struct.pack(">HH", height, width) + whole[at + 4 :]


def webp(width: int, height: int) -> bytes:
    whole = encode(PHOTO, "WEBP", lossless=True)
    at = whole.index(b"\x2f", 20) + 1
    (word,) = struct.unpack_from("<I", whole, at)
    word = word & ~0xFFFFFFF | (height - 1) << 14 | (width - 1)
    return whole[:at] + struct.pack("<I", word) + whole[at + 4 :]


ABSURD = {
    "bomb.png": png(60_000, 60_000),
    "wide.png": png(2**31 - 1, 1),
    "tall.png": png(1, 2**31 - 1),
    "over.png": png(2**31, 2**31),
    "none.png": png(0, 16),
    "bomb.tif": tiff(60_000, 60_000),
    "over.tif": tiff(2**32 - 1, 2**32 - 1),
    "none.tif": tiff(0, 4),
    "bomb.webp": webp(16_383, 16_383),
    "bomb.bmp": bmp(60_000, 60_000),
    "over.bmp": bmp(2**31 - 1, 2**31 - 1),
    "negative.bmp": bmp(-8, 4),
    "none.bmp": bmp(0, 4),
    "bomb.jpg": jpeg(65_500, 65_500),
    "none.jpg": jpeg(0, 0),
    "bomb.ppm": b"P5 60000 60000 255\n" + b"\0" * 9,
    "over.ppm": b"P6 99999999999999999999 1 255\n\0\0\0",
    "none.ppm": b"P5 0 4 255\n",
    "depth.ppm": b"P5 4 4 99999999999\n" + b"\0" * 32,
    # A size that is allowed, of which the file holds a few bytes.
    "hollow.png": png(9_999, 9_999),
    "hollow.tif": tiff(9_999, 9_999),
    "hollow.bmp": bmp(9_999, 9_999),
    "hollow.webp": webp(9_999, 9_999),
    "hollow.ppm": b"P5 9999 9999 255\n\0",
    # Tags that claim gigabytes, and directories in a circle.
    "tags.tif": tiff(4, 2, (270, 2, 2**32 - 1, 64), (700, 1, 2**31, 64)),
    "circle.tif": tiff(4, 2, after=8),
    "strips.tif": tiff(4, 2, (273, 4, 2**31, 64), (279, 4, 2**31, 64)),
}
_BOMB = zlib.compress(b"\0" * 300_000_000, 9)
TEXT_BOMBS = {
    "profile.png": png(4, 2, png_chunk(b"iCCP", b"x\0\0" + _BOMB), data=b"\0" * 10),
    "text.png": png(4, 2, png_chunk(b"zTXt", b"x\0\0" + _BOMB), data=b"\0" * 10),
    "international.png": png(4, 2, png_chunk(b"iTXt", b"x\0\1\0\0\0" + _BOMB), data=b"\0" * 10),
    "texts.png": png(
        4, 2, *[png_chunk(b"zTXt", b"x\0\0" + zlib.compress(b"\0" * 1_000_000))] * 300,
        data=b"\0" * 10,
    ),
}  # fmt: skip
# Reads every file with every reader and tells what came of it, in little memory.
_READ_ALL = """
import resource, sys
from pathlib import Path
from ecgan.data.files import read_gray, read_ids, read_image
from ecgan.errors import DataError
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
used = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
resource.setrlimit(resource.RLIMIT_AS, (used + (2 << 30),) * 2)
resource.setrlimit(resource.RLIMIT_CPU, (100, 100))
for path in sorted(Path(sys.argv[1]).iterdir()):
    for reader in (read_image, read_ids, read_gray):
        try:
            print(path.name, reader(path).shape)
        except DataError as error:
            assert path.name in str(error) and "\\n" not in str(error), str(error)
            print(path.name, "refused")
print("mebibytes", (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) >> 10)
"""


def read_all(folder: Path, files: dict[str, bytes]) -> tuple[dict[str, set[str]], int]:
    """What each reader made of each file, in a process of its own, and how much memory it took."""
    for name, content in files.items():
        (folder / name).write_bytes(content)
    done = subprocess.run(
        [sys.executable, "-c", _READ_ALL, str(folder)],
        capture_output=True,
        text=True,
        timeout=200,
    )
    assert done.returncode == 0, done.stderr
    # Pillow may warn of damaged comments, but not of sizes: those have an error of ours.
    assert "DecompressionBomb" not in done.stderr
    *lines, last = done.stdout.splitlines()
    results: dict[str, set[str]] = {name: set() for name in files}
    for line in lines:
        name, _, result = line.partition(" ")
        results[name].add(result)
    return results, int(last.split()[1])


def test_absurd_sizes_are_refused_in_little_memory(tmp_path: Path):
    results, mebibytes = read_all(tmp_path, ABSURD)
    # What a circle of directories or a vast comment stands beside can be read.
    readable = {"circle.tif", "tags.tif", "hollow.webp"}
    assert {name for name, result in results.items() if result != {"refused"}} <= readable
    # One image of 100 million gray pixels that turn out not to be there; no copy of it.
    assert mebibytes < 700


def test_text_bombs_are_refused_in_little_memory(tmp_path: Path):
    results, mebibytes = read_all(tmp_path, TEXT_BOMBS)
    assert results.pop("profile.png") <= {"refused", "(2, 4)", "(2, 4, 3)"}
    assert set().union(*results.values()) == {"refused"}
    assert mebibytes < 200


VALID = {
    "rgb.jpg": encode(PHOTO, "JPEG"),
    "progressive.jpg": encode(PHOTO.convert("CMYK"), "JPEG", progressive=True),
    "rgb.png": encode(PHOTO, "PNG"),
    "alpha.png": encode(PHOTO.convert("RGBA"), "PNG"),
    "palette.png": encode(PHOTO.quantize(9), "PNG", bits=4, transparency=3),
    "ids.png": encode(IDS, "PNG", pnginfo=None),
    "bits.png": encode(IDS.convert("1"), "PNG"),
    "wide.png": encode(Image.fromarray(np.asarray(IDS).astype(np.uint16) * 300), "PNG"),
    "rgb.bmp": encode(PHOTO, "BMP"),
    "ids.bmp": encode(IDS, "BMP"),
    "rgb.tif": encode(PHOTO, "TIFF"),
    "deflate.tif": encode(PHOTO, "TIFF", compression="tiff_adobe_deflate"),
    "lzw.tif": encode(IDS, "TIFF", compression="tiff_lzw"),
    "wide.tif": encode(Image.fromarray(np.asarray(IDS).astype(np.uint16) * 300), "TIFF"),
    "deep.tif": encode(Image.fromarray(np.asarray(IDS).astype(np.int32) * 70_000), "TIFF"),
    "rgb.webp": encode(PHOTO, "WEBP"),
    "lossless.webp": encode(PHOTO.convert("RGBA"), "WEBP", lossless=True),
    "rgb.ppm": encode(PHOTO, "PPM"),
    "ids.pgm": encode(IDS, "PPM"),
}


def pixels(path: Path, reader) -> np.ndarray | None:
    try:
        return reader(path)
    except DataError:
        return None


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("name", VALID)
def test_a_file_cut_off_anywhere_is_refused_unless_it_lacks_no_pixel(tmp_path: Path, name):
    path, content = tmp_path / name, VALID[name]
    path.write_bytes(content)
    whole, refused = read_image(path), 0
    for length in range(len(content)):
        path.write_bytes(content[:length])
        got = pixels(path, read_image)
        refused += got is None
        assert got is None or np.array_equal(got, whole), length
    # What may be missing are the last chunk of a PNG or the pointer to a next page.
    assert refused >= len(content) - 21


@pytest.mark.parametrize("name", ["ids.png", "palette.png", "wide.png", "bits.png"])
def test_no_flipped_bit_changes_the_ids_of_a_png(tmp_path: Path, name):
    path, content = tmp_path / name, VALID[name]
    path.write_bytes(content)
    whole = read_ids(path)
    for at in range(len(content)):
        for bit in (1, 8, 128):
            flipped = bytearray(content)
            flipped[at] ^= bit
            path.write_bytes(flipped)
            got = pixels(path, read_ids)
            assert got is None or np.array_equal(got, whole), at


def test_a_wrong_check_sum_is_told(tmp_path: Path):
    content = bytearray(VALID["ids.png"])
    content[-16] ^= 1  # The last byte before the last chunk: of the sum of the pixel data.
    (tmp_path / "a.png").write_bytes(content)
    for reader in (read_ids, read_image, read_gray):
        with pytest.raises(
            DataError, match=r"a\.png cannot be read .* check sum of the pixel data"
        ):
            reader(tmp_path / "a.png")


@st.composite
def damaged(draw: st.DrawFn) -> tuple[str, bytes]:
    """A valid file with bytes overwritten, cut out, repeated or cut off."""
    name = draw(st.sampled_from(sorted(VALID)))
    content = bytearray(VALID[name])
    for _ in range(draw(st.integers(1, 4))):
        # The header is where a byte matters most.
        end = draw(st.sampled_from([min(64, len(content)), len(content)]))
        at = draw(st.integers(0, max(0, end - 1)))
        what = draw(st.sampled_from(["byte", "word", "cut", "repeat", "end"]))
        if what == "byte":
            content[at : at + 1] = bytes([draw(st.integers(0, 255))])
        elif what == "word":
            content[at : at + 4] = draw(
                st.sampled_from([b"\0" * 4, b"\xff" * 4, b"\x7f\xff\xff\xff"])
            )
        elif what == "cut":
            del content[at : at + draw(st.integers(1, 16))]
        elif what == "repeat":
            content[at:at] = content[at : at + draw(st.integers(1, 64))]
        else:
            del content[at:]
    return name, bytes(content)


@pytest.mark.filterwarnings("ignore")
@settings(
    max_examples=int(os.environ.get("ECGAN_FUZZ", "400")),
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
@given(file=damaged())
def test_damaged_files_give_an_array_or_a_sentence(tmp_path: Path, file: tuple[str, bytes]):
    name, content = file
    path = tmp_path / name
    path.write_bytes(content)
    for reader, rank in ((read_image, 3), (read_ids, 2), (read_gray, 2)):
        text, array = "", None
        try:
            array = reader(path)
        except DataError as error:
            text = str(error)
        if array is None:
            assert name in text
            assert "\n" not in text
            assert " at 0x" not in text
            continue
        assert array.ndim == rank
        assert 0 < array.size <= 3 * MAX_PIXELS
        kinds = (np.uint8, np.uint16, np.int32) if reader is read_ids else (np.uint8,)
        assert array.dtype in kinds
        assert array.dtype.isnative
    assert is_turned(path) in (True, False)
