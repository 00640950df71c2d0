"""Images larger than memory: one tile after the other, equal to the whole up to rounding.

A convolution sees its neighbourhood only, so a tile that is computed with a wide enough margin and
cut is exact. Two things reach further. Batch norms have fixed statistics in evaluation mode, but
instance norms take those of the image at hand; models with them are refused. G_s re-weights each
class by a mean over the image: a first pass over all tiles adds it up, the second uses it.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from typing import NamedTuple

import torch
from torch import Tensor

from ecgan.config import ModelConfig
from ecgan.errors import ConfigError
from ecgan.models import Generator, Layout
from ecgan.models.resolve import upsamplings


class Span(NamedTuple):
    """A tile along one axis, in pixels."""

    start: int
    stop: int
    """What is kept."""
    left: int
    right: int
    """What is computed: with the margin, cut at the image's border."""


def margin(cfg: ModelConfig) -> int:
    """Pixels around a tile that its result may depend on, a multiple of the coarsest cell.

    From the image back to the labels: 7 pixels of the heads (4 without G_s), then a SPADE block a
    level. A block looks 2 cells around in its input (two 3x3 convolutions) and 4 in the labels (a
    5x5 neighbourhood beneath each of them); each doubling halves the cells, rounded up; features
    fused into F come by bilinear interpolation, one more cell.

    Raises:
        ConfigError: see :func:`check`.
    """
    check(cfg)
    doublings = upsamplings(cfg)
    reach = 7 if cfg.semantic_preserving else 4
    # Cells of 1, 2, 4 ... pixels: the blocks up_3, up_2 and so on, the rest at the coarsest level.
    blocks = [1] * doublings + [7 - doublings]
    widest = reach
    fused = {1: -(-reach // 2) + 1, 2: -(-reach // 4) + 1} if cfg.fuse_features else {}
    for level, count in enumerate(blocks):
        if level:
            reach = -(-reach // 2)
        reach = max(reach, fused.get(level, 0))
        for _ in range(count):
            widest = max(widest, (reach + 4) << level)
            reach += 2
    cell = 1 << doublings
    widest = max(widest, (reach + 1) * cell)  # the first convolution, of the labels
    return -(-widest // cell) * cell


def check(cfg: ModelConfig) -> None:
    """Refuses models whose result at a pixel depends on the whole image.

    Raises:
        ConfigError: one sentence that says why.
    """
    if cfg.encoder != "spade" or cfg.norm == "instance":
        what = f"the {cfg.encoder} encoder" if cfg.encoder != "spade" else "model.norm instance"
        raise ConfigError(
            f"{what} normalises by the statistics of the whole image, so it cannot be computed in "
            "tiles: expected the spade encoder with model.norm batch or syncbatch"
        )
    if cfg.style == "encoder":
        raise ConfigError(
            f"a model with model.style encoder makes images of {cfg.size} only: leave out tile"
        )


@torch.inference_mode()
def synthesize_tiles(
    generator: Generator, layout: Layout, z: Tensor | None, tile: int
) -> tuple[Tensor, Tensor | None]:
    """Makes images and edges tile by tile.

    Args:
        generator: in evaluation mode; it and one tile are all that is on its device.
        layout: the whole, wherever there is room for it.
        z: style code [B, Z] or [B, Z, H, W], or None.
        tile: side of a tile in pixels, without its margin.

    Returns:
        The final images and I'_e (or None), float32 [B, 3, H, W] on the CPU.

    Raises:
        ConfigError: the model cannot be computed in tiles, or their side is no multiple of the
            encoder's.
    """
    around, multiple = margin(generator.cfg), generator.encoder.multiple
    if tile < 1 or tile % multiple:
        raise ConfigError(f"tile must be a positive multiple of {multiple} pixels, not {tile}")
    height, width = layout.size
    spans = list(itertools.product(_spans(height, tile, around), _spans(width, tile, around)))
    means = None
    if generator.semantic_preserving is not None:
        total = torch.zeros((), dtype=torch.float64)
        for rows, columns in spans:
            features = generator.class_features(*_part(generator, layout, z, rows, columns))
            total = total + _kept(features, rows, columns).sum((2, 3), dtype=torch.float64).cpu()
        weight = next(generator.parameters())
        means = (total / (height * width))[..., None, None].to(weight.device, weight.dtype)
    images = torch.empty(len(layout), 3, height, width)
    edges = torch.empty_like(images) if generator.edge_generator is not None else None
    for rows, columns in spans:
        out = generator(*_part(generator, layout, z, rows, columns), class_means=means)
        at = (..., slice(rows.start, rows.stop), slice(columns.start, columns.stop))
        images[at] = _kept(out.final, rows, columns).float().cpu()
        if edges is not None:
            edges[at] = _kept(out.edge, rows, columns).float().cpu()
    return images, edges


def _spans(length: int, tile: int, around: int) -> Iterator[Span]:
    for start in range(0, length, tile):
        stop = min(start + tile, length)
        yield Span(start, stop, max(0, start - around), min(length, stop + around))


def _part(
    generator: Generator, layout: Layout, z: Tensor | None, rows: Span, columns: Span
) -> tuple[Layout, Tensor | None]:
    """Layout and style code of a tile with its margin, on the generator's device."""
    weight = next(generator.parameters())
    at = (..., slice(rows.left, rows.right), slice(columns.left, columns.right))
    edges = layout.instance_edges
    part = Layout(
        layout.labels[at],
        layout.num_classes,
        void_channel=layout.void_channel,
        instance_edges=None if edges is None else edges[at],
    )
    if z is not None:
        z = (z[at] if z.dim() == 4 else z).to(weight.device, weight.dtype)
    return part.to(weight.device), z


def _kept(values: Tensor, rows: Span, columns: Span) -> Tensor:
    return values[
        ...,
        rows.start - rows.left : rows.stop - rows.left,
        columns.start - columns.left : columns.stop - columns.left,
    ]
