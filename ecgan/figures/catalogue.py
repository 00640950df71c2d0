"""The figures, by name: each takes the material and lays out a sheet, or says what it lacks."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray

from ecgan.data import canny, colorize
from ecgan.errors import ConfigError
from ecgan.figures.canvas import Panel, Scale, Sheet, draw, save
from ecgan.figures.material import Made, Material

_REFINED, _COARSE = r"$I^{\prime\prime}$", r"$I^{\prime}$"


class MissingError(Exception):
    """A figure lacks an ingredient; the message says which, as the end of a sentence."""


@dataclass(frozen=True)
class Entry:
    """A figure of the catalogue."""

    title: str
    """What it shows."""
    lay_out: Callable[[Material], Sheet]
    """Its drawing."""


def draw_figures(
    material: Material, out: Path, names: Sequence[str] = ()
) -> tuple[list[Path], list[str]]:
    """Draws figures as PDF and PNG.

    Args:
        material: see `gather`.
        out: folder of the files.
        names: figures of :data:`FIGURES`; empty draws all that the material suffices for.

    Returns:
        The written files, and a sentence for each figure that was left out.

    Raises:
        ConfigError: an unknown name, a figure asked for by name that lacks an ingredient, or a
            folder that cannot be written to.
    """
    unknown = [name for name in names if name not in FIGURES]
    if unknown:
        raise ConfigError(f"there is no figure {unknown[0]!r}; figures are {', '.join(FIGURES)}")
    sheets: dict[str, Sheet] = {}
    left_out = []
    for name in names or FIGURES:
        try:
            sheets[name] = FIGURES[name].lay_out(material)
        except MissingError as missing:
            if names:
                raise ConfigError(f"figure {name} cannot be drawn: {missing}") from None
            left_out.append(f"figure {name} is left out: {missing}")
    written = []
    for name, sheet in sheets.items():
        written += save(draw(sheet), out, name)
    return written, left_out


def _label(made: Made, material: Material) -> Panel:
    return Panel(colorize(made.labels, material.classes.palette))


def _legend(
    material: Material, maps: Sequence[NDArray[np.int64]]
) -> list[tuple[str, NDArray[np.uint8]]]:
    """The classes in some label maps, the largest first."""
    count = len(material.classes)
    areas = sum(np.bincount(labels.ravel(), minlength=count + 1) for labels in maps)
    names = [*material.classes.names, "void"]
    order = [int(i) for i in np.argsort(-np.asarray(areas), kind="stable")]
    return [(names[i], material.classes.palette[i]) for i in order if np.asarray(areas)[i] > 0]


def _truth(material: Material) -> list[NDArray[np.int64]]:
    return [made.labels for made in material.pairs]


def side_by_side(material: Material) -> Sheet:
    """Figure 5: label map, other systems, ours, real photo."""
    systems = list(material.pairs[0].others)
    if not systems:
        raise MissingError("there are no other results to compare with: give --other NAME=DIR")
    rows = [
        [
            _label(made, material),
            *(Panel(made.others[system]) for system in systems),
            Panel(made.final),
            Panel(made.photo),
        ]
        for made in material.pairs
    ]
    titles = ["Label map", *map(_plain, systems), "Ours", "Real photo"]
    return Sheet(titles, rows, legend=_legend(material, _truth(material)))


def features(material: Material) -> Sheet:
    """Figure 3, right: for three classes the channel of F' that stands out on them most."""
    stacks = [made.preserved for made in material.pairs]
    if stacks[0] is None:
        raise MissingError("the model has no semantic preserving module (preset B4 on)")
    truth = _truth(material)
    chosen = material.chosen[:4] or _largest(material, 3)
    values = np.stack([stack for stack in stacks if stack is not None])
    columns: list[tuple[str, int]] = []
    scales: dict[str, Scale] = {}
    for index in chosen:
        mask = np.stack([labels == index for labels in truth])
        name = material.classes.names[index]
        if not mask.any() or mask.all():
            raise MissingError(f"the images do not show {name} beside something else")
        channel = _channel(values, mask, [taken for _, taken in columns])
        columns.append((name, channel))
        scales[name] = Scale.of("", [values[:, channel]])
        scales[name].column = len(columns)
    rows = [
        [
            _label(made, material),
            *(Panel(values[row, channel], scale=name) for name, channel in columns),
            Panel(made.final),
        ]
        for row, made in enumerate(material.pairs)
    ]
    titles = ["Label map", *(_plain(name) for name, _ in columns), _final_title(material)]
    return Sheet(titles, rows, scales, _legend(material, truth))


def _channel(
    values: NDArray[np.float32], mask: NDArray[np.bool_], taken: Sequence[int] = ()
) -> int:
    """The channel of values [B, K, H, W] that correlates most with a mask [B, H, W]."""
    flat = values.transpose(1, 0, 2, 3).reshape(values.shape[1], -1).astype(np.float64)
    flat = flat - flat.mean(1, keepdims=True)
    target = mask.ravel() - mask.mean()
    norm = np.sqrt((flat**2).sum(1) * (target**2).sum())
    correlation = flat @ target / np.where(norm > 0, norm, np.inf)
    correlation[list(taken)] = -2.0
    return int(correlation.argmax())


def attention(material: Material) -> Sheet:
    """Figure 6: the generated edge and the attention maps of G_t."""
    if material.pairs[0].edge is None:
        raise MissingError("the model has no edge branch (preset B2 on)")
    maps = [one for made in material.pairs for one in made.attention]
    titles = ["Label map", r"$I^{\prime}_e$", r"$I^{\prime}_a$"]
    titles += [rf"$F_a^{j}$" for j in (1, 2, 3)] + [_final_title(material)]
    rows = []
    for made in material.pairs:
        assert made.edge is not None
        panels = [Panel(one, scale="attention") for one in made.attention]
        rows.append([_label(made, material), Panel(made.edge), *panels, Panel(made.final)])
    scales = {"attention": Scale.of("attention", maps)}
    return Sheet(titles, rows, scales, _legend(material, _truth(material)))


def segmentations(material: Material) -> Sheet:
    """Figure 7: what the label generator sees in I' and I'', beside the truth."""
    first = material.pairs[0]
    if not first.segmented:
        raise MissingError("there is no segmenter: give --segmenter, a folder or hub id")
    named = {"image": _COARSE, "refined": _REFINED}
    keys = list(first.segmented)
    titles = ["Label map"]
    for key in keys:
        name = named.get(key) or _plain(key.removeprefix("other "))
        titles += [name, f"Label of {name}"]
    rows = []
    for made in material.pairs:
        pictures = {"image": made.image, "refined": made.refined}
        pictures |= {f"other {name}": image for name, image in made.others.items()}
        row = [_label(made, material)]
        for key in keys:
            picture, seen = pictures[key], made.segmented[key]
            assert picture is not None
            known = made.labels < len(material.classes)
            right = float((seen == made.labels)[known].mean()) if known.any() else 0.0
            painted = Panel(colorize(seen, material.classes.palette), note=f"{right:.0%} right")
            row += [Panel(picture), painted]
        rows.append(row)
    maps = _truth(material) + [seen for made in material.pairs for seen in made.segmented.values()]
    return Sheet(titles, rows, legend=_legend(material, maps))


def multimodal(material: Material) -> Sheet:
    """Figure 8: images and edges for several style codes."""
    samples = material.pairs[0].samples
    if not samples:
        raise MissingError("the model has no style (model.style encoder or noise)")
    rows = []
    for made in material.pairs:
        label = _label(made, material)
        rows.append([label, *(Panel(image) for image, _ in made.samples)])
        edges = [Panel(edge) for _, edge in made.samples if edge is not None]
        if edges:
            rows.append([Panel(made.photo, note=""), *edges])
    numbers = [rf"$z_{index}$" for index in range(1, len(samples) + 1)]
    titles = ["Label map, photo" if samples[0][1] is not None else "Label map", *numbers]
    return Sheet(titles, rows, legend=_legend(material, _truth(material)))


def small_objects(material: Material) -> Sheet:
    """Figure 9: crops of the rarest classes' largest objects."""
    crops = _crops(material, 5)
    if not crops:
        raise MissingError("the images show no object of the classes that could be cropped")
    systems = list(material.pairs[0].others)
    two = material.pairs[0].refined is not None
    titles = ["Photo", "Label map", *map(_plain, systems), _COARSE]
    titles += [_REFINED] * two + ["Real photo"]
    rows = []
    for made, index, box in crops:
        top, left, tall, wide = box
        pictures = [colorize(made.labels, material.classes.palette)]
        pictures += [made.others[system] for system in systems] + [made.image]
        pictures += [made.refined] if made.refined is not None else []
        pictures.append(made.photo)
        panels = [Panel(p[top : top + tall, left : left + wide]) for p in pictures]
        panels[0].note = material.classes.names[index]
        rows.append([Panel(made.photo, box=box), *panels])
    maps = [made.labels[b[0] : b[0] + b[2], b[1] : b[1] + b[3]] for made, _, b in crops]
    return Sheet(titles, rows, legend=_legend(material, maps))


def _crops(material: Material, count: int) -> list[tuple[Made, int, tuple[int, int, int, int]]]:
    """Pair, class and box of the largest connected object of each class, rarest class first.

    Boxes have the images' shape, so that crops and images line up.
    """
    names = len(material.classes)
    areas = sum(np.bincount(labels.ravel(), minlength=names) for labels in _truth(material))
    order = [int(i) for i in np.argsort(areas, kind="stable") if np.asarray(areas)[i] > 0]
    crops = []
    for index in [i for i in material.chosen if i in order] or order:
        if index >= names:  # void
            continue
        best: tuple[int, Made, NDArray[np.integer]] | None = None
        for made in material.pairs:
            mask = (made.labels == index).astype(np.uint8)
            _, _, stats, _ = cv2.connectedComponentsWithStats(mask, connectivity=8)
            for box in stats[1:]:
                if best is None or box[cv2.CC_STAT_AREA] > best[0]:
                    best = int(box[cv2.CC_STAT_AREA]), made, box
        # A speck of a few pixels shows nothing.
        if best is not None and best[0] >= 12:
            crops.append((best[1], index, _around(best[2], best[1].labels.shape)))
        if len(crops) == count:
            break
    return crops


def _around(stats: NDArray[np.integer], shape: tuple[int, ...]) -> tuple[int, int, int, int]:
    """Top, left, height, width of a box of the image's shape that shows an object with margin.

    At most 0.6 of the image's height and width: of a larger object its middle.
    """
    left, top, wide, tall = (int(value) for value in stats[:4])
    height, width = shape[:2]
    share = min(0.6, max(0.25, 1.6 * tall / height, 1.6 * wide / width))
    box_h, box_w = round(share * height), round(share * width)
    y = min(max(0, top + tall // 2 - box_h // 2), height - box_h)
    x = min(max(0, left + wide // 2 - box_w // 2), width - box_w)
    return y, x, box_h, box_w


def transfer(material: Material) -> Sheet:
    """Figure 10: what the content level of G_t (Equation 1) changed."""
    if not any(made.change.any() for made in material.pairs):
        raise MissingError("the model has no edge transfer (preset B3 on)")
    title = r"$|I^{\prime} - I^{\prime}_i|$"
    rows = []
    for made in material.pairs:
        edge = [] if made.edge is None else [Panel(made.edge)]
        change = Panel(made.change, scale="change")
        rows.append([_label(made, material), *edge, Panel(made.raw), Panel(made.image), change])
    titles = ["Label map", r"$I^{\prime}_e$", r"$I^{\prime}_i$", _COARSE, title]
    scales = {"change": Scale.of(title, [made.change for made in material.pairs], "magma")}
    scales["change"].low = 0.0
    return Sheet(titles, rows, scales, _legend(material, _truth(material)))


def edges(material: Material) -> Sheet:
    """Figure 11: Canny against HED on the real photos, beside the generated edges."""
    if material.hed is None:
        raise MissingError("there are no weights of HED: give --hed-weights FILE")
    rows = []
    for made in material.pairs:
        hed = np.rint(material.hed(made.photo).clip(0, 1) * 255).astype(np.uint8)
        maps = [np.repeat(one[..., None], 3, 2) for one in (canny(made.photo), hed)]
        generated = [] if made.edge is None else [Panel(made.edge)]
        rows.append([Panel(made.photo), *map(Panel, maps), *generated])
    titles = ["Real photo", "Canny", "HED"]
    return Sheet(titles + [r"$I^{\prime}_e$"] * (material.pairs[0].edge is not None), rows)


def _largest(material: Material, count: int) -> list[int]:
    names = len(material.classes)
    areas = sum(np.bincount(m.ravel(), minlength=names + 1)[:names] for m in _truth(material))
    order = np.argsort(-np.asarray(areas), kind="stable")
    return [int(i) for i in order[:count] if np.asarray(areas)[i] > 0]


def _final_title(material: Material) -> str:
    return _COARSE if material.pairs[0].refined is None else _REFINED


def _plain(text: str) -> str:
    """Text that holds no mathematics."""
    return text.replace("$", r"\$")


FIGURES: dict[str, Entry] = {
    "features": Entry("Fig. 3: channels of F' that stand out on a class", features),
    "side-by-side": Entry("Fig. 5: ours beside other systems' results", side_by_side),
    "attention": Entry("Fig. 6: generated edges and attention maps", attention),
    "segmentations": Entry("Fig. 7: segmentations of I' and I''", segmentations),
    "multimodal": Entry("Fig. 8: images and edges for several styles", multimodal),
    "small-objects": Entry("Fig. 9: crops of small objects", small_objects),
    "transfer": Entry("Fig. 10: what the edge transfer changed", transfer),
    "edges": Entry("Fig. 11: Canny against HED", edges),
}
"""Figures by name, in the paper's order."""
