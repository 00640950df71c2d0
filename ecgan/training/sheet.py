"""Sample sheets: what the networks make of a few label maps, beside the real pairs."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor

from ecgan.data.palette import colorize
from ecgan.data.transforms import to_uint8

if TYPE_CHECKING:
    from ecgan.models.generator import Synthesis

Column = tuple[str, NDArray[np.uint8]]
"""Title and images, [B, H, W, 3]."""

_GAP = 4
_TITLE = 26
_CELL = 192


def sample_columns(
    out: Synthesis, batch: dict[str, Tensor], palette: NDArray[np.uint8]
) -> list[Column]:
    """Columns of a sheet: label, I'_e, I', I'', I_g as far as the preset has them, real pair."""
    labels = batch["labels"].cpu().numpy()
    columns = [("label", np.stack([colorize(label, palette) for label in labels]))]
    made = [
        ("edge I'_e", out.edge),
        ("image I'", out.image),
        ("refined I''", out.refined),
        ("classes I_g", out.class_image),
        ("real photo", batch["image"]),
        ("real edge", batch["edge"]),
    ]
    columns += [(title, to_uint8(image)) for title, image in made if image is not None]
    return columns


def draw_sheet(columns: Sequence[Column]) -> Image.Image:
    """One row a pair, one titled column a kind of image, on white.

    Small images are enlarged so that a cell is at least 192 pixels wide.
    """
    count, height, width = columns[0][1].shape[:3]
    zoom = max(1, -(-_CELL // width))
    cell_w, cell_h = width * zoom, height * zoom
    size = (_GAP + len(columns) * (cell_w + _GAP), _TITLE + count * (cell_h + _GAP))
    sheet = Image.new("RGB", size, "white")
    draw = ImageDraw.Draw(sheet)
    font = ImageFont.load_default(size=17)
    for i, (title, images) in enumerate(columns):
        left = _GAP + i * (cell_w + _GAP)
        draw.text((left + cell_w / 2, _TITLE / 2), title, fill="black", font=font, anchor="mm")
        for row, image in enumerate(images):
            cell = Image.fromarray(image).resize((cell_w, cell_h), Image.Resampling.BICUBIC)
            if title == "label":
                cell = Image.fromarray(image).resize((cell_w, cell_h), Image.Resampling.NEAREST)
            sheet.paste(cell, (left, _TITLE + row * (cell_h + _GAP)))
    return sheet
