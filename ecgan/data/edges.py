"""Real edge maps I_e: the authors' Canny rule, OpenCV's Canny, or HED, with a cache on disk."""

from __future__ import annotations

import hashlib
import os
import tempfile
import warnings
from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray
from PIL import Image

from ecgan.config import EdgeConfig
from ecgan.data.files import read_gray
from ecgan.errors import ConfigError, DataError

EdgeExtractor = Callable[[NDArray[np.uint8]], NDArray[np.float32]]
"""A photo, uint8 [H, W, 3], to edge probabilities, float32 [H, W] in 0..1."""

# The 5x5 Gaussian of the rule (sigma about 1.4), times 159.
_GAUSSIAN = np.array(
    [[2, 4, 5, 4, 2], [4, 9, 12, 9, 4], [5, 12, 15, 12, 5], [4, 9, 12, 9, 4], [2, 4, 5, 4, 2]],
    np.float32,
)
_SOBEL_X = np.array([[-1, 0, 1], [-2, 0, 2], [-1, 0, 1]], np.float32)
_TAN_22_5 = np.sqrt(2.0) - 1.0


def _gradients(
    image: NDArray[np.uint8], border: int
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Sobel of the smoothed gray image, both times 159 so that every value is an integer.

    None exceeds 159 * 255 * 8 < 2**24, hence exact in the filters' float32.
    """
    gray = cv2.cvtColor(image, cv2.COLOR_RGB2GRAY) if image.ndim == 3 else image
    smooth = cv2.filter2D(gray.astype(np.float32), -1, _GAUSSIAN, borderType=border)
    dx = cv2.filter2D(smooth, -1, _SOBEL_X, borderType=border)
    dy = cv2.filter2D(smooth, -1, _SOBEL_X.T, borderType=border)
    return dx.astype(np.float64), dy.astype(np.float64)


def canny(image: NDArray[np.uint8], low: float = 0.075, high: float = 0.175) -> NDArray[np.uint8]:
    """The rule of the authors' edge script.

    Gray, 5x5 Gaussian over 159, Sobel, non-maximum suppression along the gradient rounded to 0,
    45, 90 or 135 degrees (ties stay, the outermost pixels go), thresholds relative to the largest
    surviving magnitude, and one pass of hysteresis: above ``high`` is an edge, from ``low`` on
    only beside a pixel above ``high`` (8 neighbours); nothing propagates further.

    Args:
        image: uint8 [H, W, 3] RGB or [H, W].
        low: lower threshold, as a fraction of the largest magnitude.
        high: upper threshold, likewise.

    Returns:
        uint8 [H, W] of 0 and 255.
    """
    # Outside the image is zero, as in the authors' script; the suppression removes the frame.
    dx, dy = _gradients(image, cv2.BORDER_CONSTANT)
    # Squared magnitudes are integers below 2**53: comparisons are exact, no root is needed.
    squared = np.pad(dx * dx + dy * dy, 1)
    height, width = dx.shape

    def shifted(array: NDArray, down: int, right: int) -> NDArray:
        return array[1 + down : 1 + down + height, 1 + right : 1 + right + width]

    steep, flat = np.abs(dy), np.abs(dx)
    horizontal = steep <= _TAN_22_5 * flat
    vertical = flat < _TAN_22_5 * steep
    # Rows grow downwards, so a gradient with dx * dy > 0 points along the main diagonal.
    main = dx * dy > 0
    masks = (horizontal, vertical & ~horizontal, main, ~main)
    steps = ((0, 1), (1, 0), (1, 1), (1, -1))
    ahead = np.select(masks, [shifted(squared, down, right) for down, right in steps])
    behind = np.select(masks, [shifted(squared, -down, -right) for down, right in steps])
    centre = shifted(squared, 0, 0)
    thin = np.where((centre >= ahead) & (centre >= behind), centre, 0.0)
    thin[[0, -1]] = 0.0
    thin[:, [0, -1]] = 0.0

    largest = thin.max()
    strong = thin > high * high * largest
    beside = cv2.dilate(strong.astype(np.uint8), np.ones((3, 3), np.uint8)) > 0
    edges = strong | (beside & (thin >= low * low * largest) & (thin > 0))
    return edges.astype(np.uint8) * 255


def opencv_canny(
    image: NDArray[np.uint8], low: float = 0.075, high: float = 0.175
) -> NDArray[np.uint8]:
    """OpenCV's Canny (hysteresis that propagates) on the same gradients and relative thresholds.

    Args and returns as `canny`.
    """
    dx, dy = _gradients(image, cv2.BORDER_REPLICATE)
    # cv2.Canny takes 16 bits: the largest gradient, 4 * 255 * 159, becomes 16320.
    dx16, dy16 = (np.rint(g * (16 / 159)).astype(np.int16) for g in (dx, dy))
    largest = float(np.sqrt((dx16.astype(np.float64) ** 2 + dy16.astype(np.float64) ** 2).max()))
    if largest == 0:
        return np.zeros(dx.shape, np.uint8)
    edges = cv2.Canny(dx16, dy16, low * largest, high * largest, L2gradient=True)
    return edges.astype(np.uint8, copy=False)


class EdgeSource:
    """Computes edge maps as the configuration says and keeps them where it says.

    Args:
        cfg: method, thresholds and cache folder.
        extractor: the network of method ``hed``.

    Raises:
        ConfigError: ``hed`` without an extractor, or thresholds that are no fractions in order.
    """

    def __init__(self, cfg: EdgeConfig, extractor: EdgeExtractor | None = None) -> None:
        if cfg.method == "hed" and extractor is None:
            raise ConfigError("dataset.edges.method hed needs dataset.edges.hed_weights")
        if not 0.0 <= cfg.low <= cfg.high <= 1.0:
            raise ConfigError(
                f"dataset.edges.low {cfg.low} and high {cfg.high}: expected 0 <= low <= high <= 1"
            )
        self.cfg = cfg
        self.cache = Path(cfg.cache).expanduser() if cfg.cache else None
        self._extractor = extractor
        self._recipe = f"{cfg.method} {cfg.low!r} {cfg.high!r}"
        if cfg.method == "hed":
            self._recipe = f"hed {file_identity(Path(cfg.hed_weights))}"

    def __call__(self, image: NDArray[np.uint8], identity: str | None = None) -> NDArray[np.uint8]:
        """The edge map of a photo that already has its training size.

        Args:
            image: uint8 [H, W, 3].
            identity: names the file's content for the cache; None is never cached.

        Returns:
            uint8 [H, W], 0..255.
        """
        if self.cache is None or identity is None:
            return self._compute(image)
        height, width = image.shape[:2]
        text = f"{self._recipe}\n{height}x{width}\n{identity}"
        key = hashlib.sha256(os.fsencode(text)).hexdigest()
        path = self.cache / key[:2] / f"{key[2:]}.png"
        if path.is_file():
            try:
                edges = read_gray(path)
                if edges.shape == (height, width):
                    return edges
            except DataError:
                pass  # A damaged entry is computed and written again.
        edges = self._compute(image)
        try:
            write_atomically(path, edges)
        except OSError as error:
            # A full or read-only disk costs the cache, not the run.
            warnings.warn(f"edge map cache {self.cache} cannot be written: {error}", stacklevel=2)
            self.cache = None
        return edges

    def _compute(self, image: NDArray[np.uint8]) -> NDArray[np.uint8]:
        if self._extractor is not None and self.cfg.method == "hed":
            return np.rint(self._extractor(image).clip(0.0, 1.0) * 255).astype(np.uint8)
        rule = canny if self.cfg.method == "canny" else opencv_canny
        return rule(image, self.cfg.low, self.cfg.high)


def file_identity(path: Path) -> str:
    """Changes when the file is replaced: its absolute path, length and time of change."""
    if not path.is_file():
        return str(path)
    stat = path.stat()
    return f"{path.resolve()} {stat.st_size} {stat.st_mtime_ns}"


def write_atomically(path: Path, image: NDArray[np.uint8]) -> None:
    """Writes a PNG that is there in whole or not at all, whoever else writes the same one."""
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, temporary = tempfile.mkstemp(dir=path.parent, suffix=".tmp")
    try:
        with os.fdopen(handle, "wb") as file:
            Image.fromarray(image).save(file, "PNG")
        os.replace(temporary, path)
    except BaseException:
        Path(temporary).unlink(missing_ok=True)
        raise
