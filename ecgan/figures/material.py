"""What the figures show: pairs, everything that a generator makes of them, and other results."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional as F

from ecgan.data import PairDataset
from ecgan.data.classes import ClassTable
from ecgan.data.edges import EdgeExtractor
from ecgan.data.files import IMAGE_SUFFIXES, read_image
from ecgan.data.transforms import resize_bicubic
from ecgan.errors import ConfigError, DataError
from ecgan.models import Generator, Layout
from ecgan.models.segmenter import LabelGenerator

Picture = NDArray[np.uint8]
"""uint8 [H, W, 3], RGB."""
Map = NDArray[np.float32]
"""float32 [H, W]."""


@dataclass
class Made:
    """A pair and what the networks made of its label map; None where a branch is off."""

    name: str
    """The pair's name."""
    labels: NDArray[np.int64]
    """Classes 0..N-1 and void N, [H, W]."""
    photo: Picture
    """The real photo."""
    image: Picture
    """I'."""
    refined: Picture | None
    """I''."""
    raw: Picture
    """I'_i, before G_t."""
    change: Map
    """|I' - I'_i|, mean of the channels, not clamped; all 0 without G_t."""
    edge: Picture | None
    """I'_e."""
    attention: list[Map]
    """I'_a = sigmoid(I'_e) and F_a^j = sigmoid(F_e^j), j = 1..3, mean of the channels, in 0..1."""
    preserved: NDArray[np.float32] | None
    """F', [channels, H, W]."""
    segmented: dict[str, NDArray[np.int64]]
    """What G_l sees in ``image``, ``refined`` and every other system's image."""
    samples: list[tuple[Picture, Picture | None]]
    """Final image and edge for each of several style codes; empty without style."""
    others: dict[str, Picture]
    """Other systems' images by the system's name."""

    @property
    def final(self) -> Picture:
        """The image to show: I'' where there is one, else I'."""
        return self.image if self.refined is None else self.refined


@dataclass
class Material:
    """All that the figures draw on."""

    classes: ClassTable
    """Names and colours."""
    pairs: list[Made]
    """One a row."""
    chosen: list[int] = field(default_factory=list)
    """Classes to look at, where the user names some."""
    hed: EdgeExtractor | None = None
    """HED, where its weights are at hand."""


@torch.inference_mode()
def gather(
    generator: Generator,
    classes: ClassTable,
    data: PairDataset,
    *,
    names: Sequence[str] = (),
    count: int = 4,
    chosen: Sequence[str] = (),
    segmenter: LabelGenerator | None = None,
    hed: EdgeExtractor | None = None,
    others: Mapping[str, Path] | None = None,
    samples: int = 5,
    seed: int = 1,
) -> Material:
    """Runs the networks on a few pairs, one at a time.

    Args:
        generator: G in evaluation mode.
        classes: its classes.
        data: pairs with the same classes.
        names: pairs to take, by name or by its last part; otherwise ``count`` evenly spread ones.
        count: how many without ``names``.
        chosen: names of classes that class-wise figures show.
        segmenter: G_l.
        hed: HED's extractor.
        others: folders of other systems' images of the same names (or their ``images/``).
        samples: style codes of the multi-modal figure.
        seed: of the style codes.

    Raises:
        DataError: a pair or another system's image is missing or cannot be read.
        ConfigError: a class name that does not exist, or data with other classes.
    """
    if data.num_classes != len(classes):
        raise ConfigError(
            f"{data.name} has {data.num_classes} classes: expected the {len(classes)} of the model"
        )
    indices = _find(data, names) if names else _spread(len(data), count)
    device = next(generator.parameters()).device
    random = torch.Generator().manual_seed(seed)
    styles = [generator.sample_style(1, generator=random) for _ in range(samples)]
    folders = {name: _results(folder) for name, folder in (others or {}).items()}
    material = Material(classes, [], _class_ids(classes, chosen), hed)
    for index in indices:
        item = data[index]
        layout = Layout(
            item["labels"][None].to(device),
            len(classes),
            void_channel=generator.cfg.void_channel,
            instance_edges=_batched(item.get("instance_edges"), generator, device),
        )
        material.pairs.append(_make(generator, layout, item, styles, segmenter, folders))
    return material


def _make(
    generator: Generator,
    layout: Layout,
    item: dict[str, Tensor],
    styles: Sequence[Tensor | None],
    segmenter: LabelGenerator | None,
    folders: Mapping[str, dict[str, Path]],
) -> Made:
    device, name = layout.labels.device, str(item["name"])

    out = generator(layout, _on(styles[0], device), inspect=True)
    height, width = layout.size
    shown: dict[str, Tensor] = {"image": out.image}
    if out.refined is not None:
        shown["refined"] = out.refined
    others = {}
    for system, files in folders.items():
        stem = name.rsplit("/", 1)[-1]
        if stem not in files:
            raise DataError(f"the results of {system} hold no image of {stem}")
        others[system] = resize_bicubic(read_image(files[stem]), (height, width))
        pixels = torch.from_numpy(others[system]).to(device).permute(2, 0, 1)[None]
        shown[f"other {system}"] = pixels.float() / 127.5 - 1
    segmented = {}
    if segmenter is not None:
        for key, image in shown.items():
            # As photos are: what a display clamps the segmenter does not see either.
            logits = segmenter(image.clamp(-1, 1))
            logits = F.interpolate(logits, (height, width), mode="bilinear", align_corners=False)
            segmented[key] = logits[0].argmax(0).cpu().numpy()
    attention = [] if out.edge is None else [out.edge, *out.edge_features]
    samples = []
    if styles[0] is not None:
        for z in styles:
            sample = generator(layout, _on(z, device))
            edge = None if sample.edge is None else _picture(sample.edge)
            samples.append((_picture(sample.final), edge))
    assert out.raw_image is not None
    return Made(
        name=name,
        labels=item["labels"].numpy(),
        photo=_picture(item["image"][None]),
        image=_picture(out.image),
        refined=None if out.refined is None else _picture(out.refined),
        raw=_picture(out.raw_image),
        change=(out.image - out.raw_image).abs().mean(1)[0].cpu().numpy(),
        edge=None if out.edge is None else _picture(out.edge),
        attention=[a.sigmoid().mean(1)[0].cpu().numpy() for a in attention],
        preserved=None if out.preserved is None else out.preserved[0].cpu().numpy(),
        segmented=segmented,
        samples=samples,
        others=others,
    )


def _on(z: Tensor | None, device: torch.device) -> Tensor | None:
    return None if z is None else z.to(device)


def _batched(edges: Tensor | None, generator: Generator, device: torch.device) -> Tensor | None:
    return edges[None].to(device) if edges is not None and generator.cfg.instance_edges else None


def _picture(image: Tensor) -> Picture:
    """[1, 1 or 3, H, W] in [-1, 1] as displays show it: clamped."""
    scaled = (image[0].float().clamp(-1, 1) + 1) * 127.5
    return scaled.expand(3, -1, -1).permute(1, 2, 0).round().to(torch.uint8).cpu().numpy()


def _find(data: PairDataset, names: Sequence[str]) -> list[int]:
    places: dict[str, int] = {}
    for index in range(len(data)):
        name = data.source.name(index)
        places.setdefault(name.rsplit("/", 1)[-1], index)
        places[name] = index
    missing = [name for name in names if name not in places]
    if missing:
        raise DataError(
            f"{data.name} has no validation pair {missing[0]}: names are those of the files "
            f"without suffix, such as {data.source.name(0)}"
        )
    return [places[name] for name in names]


def _spread(length: int, count: int) -> list[int]:
    count = min(count, length)
    return [index * length // count for index in range(count)]


def _results(folder: Path) -> dict[str, Path]:
    inner = folder / "images"
    place = inner if inner.is_dir() else folder
    if not place.is_dir():
        raise DataError(f"{folder} is no folder: expected another system's images")
    files = sorted(p for p in place.iterdir() if p.suffix.lower() in IMAGE_SUFFIXES)
    if not files:
        raise DataError(f"{folder} holds no image ({', '.join(IMAGE_SUFFIXES)})")
    return {path.stem: path for path in files}


def _class_ids(classes: ClassTable, names: Sequence[str]) -> list[int]:
    for name in names:
        if name not in classes.names:
            raise ConfigError(
                f"there is no class {name!r}; classes are {', '.join(classes.names[:40])}"
            )
    return [classes.names.index(name) for name in names]
