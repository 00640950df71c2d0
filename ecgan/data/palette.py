"""Colours of label maps."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray


def pascal_palette(num_colours: int) -> NDArray[np.uint8]:
    """Distinct colours by PASCAL VOC's rule, without its leading black.

    Bit ``b`` of each of the three interleaved bit planes of the index becomes bit ``7 - b`` of a
    channel, so neighbouring ids differ most and no two of the first 2**24 - 1 colours agree.

    Args:
        num_colours: number of colours.

    Returns:
        uint8 [num_colours, 3], RGB.
    """
    index = np.arange(1, num_colours + 1)
    colours = np.zeros((num_colours, 3), np.uint8)
    for bit in range(8):
        for channel in range(3):
            plane = index >> (3 * bit + channel) & 1
            colours[:, channel] |= (plane << (7 - bit)).astype(np.uint8)
    return colours


def with_void(colours: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Appends black, the colour of void: uint8 [N, 3] becomes [N + 1, 3]."""
    return np.concatenate([colours, np.zeros((1, 3), np.uint8)])


def colorize(labels: object, palette: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Paints a label map.

    Args:
        labels: integer array or CPU tensor [...], values 0..N; anything else is painted as void.
        palette: uint8 [N + 1, 3], void last.

    Returns:
        uint8 [..., 3], RGB.
    """
    ids = np.asarray(labels)
    void = len(palette) - 1
    return palette[np.where((ids >= 0) & (ids < void), ids, void)]
