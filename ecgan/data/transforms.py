"""Geometry shared by the photo, label map, instance map and edge map of a pair."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

Size = tuple[int, int]
"""Height, width in pixels."""


def resize_bicubic(image: NDArray[np.uint8], size: Size) -> NDArray[np.uint8]:
    """Resizes a photo [H, W, 3] or gray image [H, W], antialiased when it shrinks.

    Pillow's filter, which the published protocols use: OpenCV's bicubic does not widen its kernel
    and would alias a 1024x2048 photo at 256x512.
    """
    if image.shape[:2] == size:
        return image
    return np.array(Image.fromarray(image).resize(size[::-1], Image.Resampling.BICUBIC))


def resize_nearest(ids: NDArray[np.integer], size: Size) -> NDArray[np.integer]:
    """Resizes a map of ids [H, W] of any integer type, pixel centres aligned with the photo's."""
    if ids.shape == size:
        return ids
    rows, columns = (
        ((np.arange(new) + 0.5) * (old / new)).astype(np.intp)
        for new, old in zip(size, ids.shape, strict=True)
    )
    return ids[rows].take(columns, axis=1)


def instance_edges(instances: NDArray[np.integer]) -> NDArray[np.uint8]:
    """Boundary of instances: 1 where a 4-neighbour has another id, on both sides.

    Args:
        instances: integer [H, W].

    Returns:
        uint8 [H, W] of 0 and 1.
    """
    edges = np.zeros(instances.shape, bool)
    across = instances[:, 1:] != instances[:, :-1]
    edges[:, 1:] |= across
    edges[:, :-1] |= across
    down = instances[1:] != instances[:-1]
    edges[1:] |= down
    edges[:-1] |= down
    return edges.astype(np.uint8)


def to_uint8(image: Tensor) -> NDArray[np.uint8]:
    """Images or edges [B, C, H, W] in [-1, 1] as [B, H, W, 3]; what lies outside is clamped."""
    scaled = (image.detach().float().clamp(-1, 1) + 1) * 127.5
    array = scaled.expand(-1, 3, -1, -1).permute(0, 2, 3, 1).round().to(torch.uint8)
    return array.cpu().numpy()


@dataclass(frozen=True)
class Window:
    """A crop and a mirroring, the same for every map of a pair."""

    top: int
    left: int
    height: int
    width: int
    flip: bool

    @classmethod
    def whole(cls, size: Size) -> Window:
        """The window that changes nothing."""
        return cls(0, 0, *size, flip=False)

    @classmethod
    def draw(cls, rng: np.random.Generator, load_size: Size, size: Size, flip: bool) -> Window:
        """A uniformly placed crop, mirrored half of the time if ``flip``.

        Three numbers are drawn whatever the settings, so that switching one of them off leaves the
        others as they were.
        """
        top = int(rng.integers(load_size[0] - size[0] + 1))
        left = int(rng.integers(load_size[1] - size[1] + 1))
        return cls(top, left, *size, flip=bool(rng.random() < 0.5) and flip)

    def __call__(self, array: NDArray[Any]) -> NDArray[Any]:
        """Cuts [H, W, ...]; a view."""
        view = array[self.top : self.top + self.height, self.left : self.left + self.width]
        return view[:, ::-1] if self.flip else view
