"""Pairs, other systems' images and made images, all brought to one size by one rule."""

from __future__ import annotations

import os
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor
from torch.utils.data import Dataset

from ecgan.data import PairDataset, instance_edges
from ecgan.data.dataset import FileSource
from ecgan.data.files import IMAGE_SUFFIXES, read_image
from ecgan.data.transforms import Size, resize_nearest
from ecgan.errors import DataError

Filter = Literal["bicubic", "bilinear", "lanczos", "nearest"]

# Subfolders that hold the images where a results folder has several kinds of picture: ours,
# SPADE's, OASIS'.
_IMAGE_FOLDERS = ("images", "synthesized_image", "image")


def resize(image: NDArray[np.uint8], size: Size, name: Filter) -> NDArray[np.uint8]:
    """Resizes a photo [H, W, 3] with Pillow's filter, which widens where the image shrinks."""
    if image.shape[:2] == size:
        return image
    return np.array(Image.fromarray(image).resize(size[::-1], Image.Resampling[name.upper()]))


def to_signed(images: Tensor) -> Tensor:
    """uint8 0..255 to float32 [-1, 1]."""
    return images.float().div_(127.5).sub_(1.0)


def to_bytes(images: Tensor) -> Tensor:
    """Float [-1, 1] to uint8, as image files hold it; what lies outside is clamped."""
    return ((images.float().clamp(-1, 1) + 1) * 127.5).round().to(torch.uint8)


class EvaluationPairs(Dataset[dict[str, Any]]):
    """Pairs of a data set as an evaluation wants them: not augmented, without edge maps.

    An item is a dict: ``labels`` int64 [H, W] and ``image`` uint8 [3, H, W] at ``size``,
    ``layout`` int64 [h, w] and perhaps ``instances`` float32 [1, h, w] at ``layout_size`` for the
    generator, ``name``, and ``index`` in the data set.

    Args:
        pairs: the data set.
        size: height and width at which images are compared.
        layout_size: those at which the generator works; None: the same.
        resampling: filter of the photos.
        limit: take that many pairs, evenly spread; 0 takes all.
        instances: whether the generator wants instance edges.
    """

    def __init__(
        self,
        pairs: PairDataset,
        size: Size,
        *,
        layout_size: Size | None = None,
        resampling: Filter = "bicubic",
        limit: int = 0,
        instances: bool = False,
    ) -> None:
        self.pairs = pairs
        self.size = size
        self.layout_size = layout_size or size
        self.resampling: Filter = resampling
        self.instances = instances
        total = len(pairs)
        count = min(limit, total) if limit else total
        self.indices = [position * total // count for position in range(count)]

    def __len__(self) -> int:
        return len(self.indices)

    def __getitem__(self, position: int) -> dict[str, Any]:
        """The pair at ``position``."""
        index = self.indices[position]
        source = self.pairs.source
        pair = source.load(index, self.layout_size)
        image = resize(pair.image, self.size, self.resampling)
        labels, layout = (resize_nearest(pair.labels, s) for s in (self.size, self.layout_size))
        item = {
            "labels": torch.from_numpy(np.ascontiguousarray(labels)),
            "image": torch.from_numpy(np.ascontiguousarray(image.transpose(2, 0, 1))),
            "layout": torch.from_numpy(np.ascontiguousarray(layout)),
            "name": source.name(index),
            "index": index,
        }
        if self.instances:
            if pair.instances is None:
                raise DataError(f"{source.name(index)} has no instance map, which this model needs")
            ids = instance_edges(resize_nearest(pair.instances, self.layout_size))
            item["instances"] = torch.from_numpy(ids.astype(np.float32))[None]
        return item

    def names(self) -> list[list[str]]:
        """For each pair the names under which a results folder may hold its image."""
        source = self.pairs.source
        result = []
        for index in self.indices:
            names = [Path(source.name(index)).name]
            if isinstance(source, FileSource):
                files = source.pairs[index]
                names += [files.labels.stem, files.image.stem]
            result.append(list(dict.fromkeys(names)))
        return result


class ResultsImages(Dataset[Tensor]):
    """Another system's images, found by the names of the label maps: uint8 [3, H, W] at ``size``.

    Args:
        name: the system's, for messages.
        folder: holds the images, itself or in its subfolder ``images``, ``synthesized_image`` or
            ``image``, else in any folder below.
        names: for each pair the names that its image may have, without suffix.
        size: height and width to bring them to.
        resampling: filter for that.

    Attributes:
        files: the images, in the order of the pairs.
        left_out: images there that no pair asks for.

    Raises:
        DataError: no folder, no image, an image is missing, or two have one name.
    """

    def __init__(
        self,
        name: str,
        folder: Path,
        names: Sequence[Sequence[str]],
        size: Size,
        resampling: Filter = "bicubic",
    ) -> None:
        found = _list_images(name, folder)
        files = [next((found[n] for n in options if n in found), None) for options in names]
        missing = [options[0] for options, file in zip(names, files, strict=True) if file is None]
        if missing:
            raise DataError(
                f"results {name} lack {len(missing)} of {len(names)} images, the first is that of "
                f"{missing[0]}: expected {missing[0]}.png or .jpg in {folder}, which holds "
                f"{len(found)} images such as {min(found)}"
            )
        self.files = [file for file in files if file is not None]
        self.left_out = len(found) - len(set(self.files))
        self.size = size
        self.resampling: Filter = resampling

    def __len__(self) -> int:
        return len(self.files)

    def __getitem__(self, position: int) -> Tensor:
        """The image of the pair at ``position``."""
        image = resize(read_image(self.files[position]), self.size, self.resampling)
        return torch.from_numpy(np.ascontiguousarray(image.transpose(2, 0, 1)))

    def check(self) -> None:
        """Decodes every image once, in threads, so that none stops a long evaluation midway.

        Raises:
            DataError: one cannot be read; the message names it.
        """
        with ThreadPoolExecutor(min(16, os.cpu_count() or 1)) as pool:
            try:
                for _ in pool.map(lambda path: read_image(path).shape, self.files):
                    pass
            except BaseException:
                pool.shutdown(cancel_futures=True)
                raise

    def original_size(self) -> Size:
        """Height and width of the first image's file."""
        height, width = read_image(self.files[0]).shape[:2]
        return height, width


def _list_images(name: str, folder: Path) -> dict[str, Path]:
    if not folder.is_dir():
        raise DataError(f"results {name}: {folder} is no folder")
    root = next((folder / sub for sub in _IMAGE_FOLDERS if (folder / sub).is_dir()), folder)
    found: dict[str, Path] = {}
    for parent, _, files in sorted(os.walk(root)):
        for file in sorted(files):
            path = Path(parent, file)
            if path.suffix.lower() not in IMAGE_SUFFIXES or file.startswith("."):
                continue
            if path.stem in found:
                raise DataError(
                    f"results {name} have two images named {path.stem}: {found[path.stem]} and "
                    f"{path}; expected one a label map"
                )
            found[path.stem] = path
    if not found:
        raise DataError(f"results {name}: {root} holds no image ({' '.join(IMAGE_SUFFIXES)})")
    return found
