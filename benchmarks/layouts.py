"""Label maps to measure on: real ones where ECGAN_TEST_DATA names the data, else drawn areas."""

from __future__ import annotations

import os
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor


def coco_stuff(side: int, batch: int, classes: int) -> tuple[Tensor, str]:
    """Maps int64 [batch, side, side] of ``classes`` and void 255, and where they are from."""
    return _read("coco_stuff", "train_label", side, batch) or _areas(side, batch, classes)


def camvid(side: int, batch: int, classes: int) -> tuple[Tensor, str]:
    """The same from street scenes."""
    return _read("camvid", "train/labels", side, batch) or _areas(side, batch, classes)


def _read(name: str, folder: str, side: int, batch: int) -> tuple[Tensor, str] | None:
    root = os.environ.get("ECGAN_TEST_DATA", "")
    files = sorted(Path(root, name, folder).glob("*.png"))[:batch] if root else []
    if len(files) < batch:
        return None
    import numpy as np
    from PIL import Image

    maps = []
    for file in files:
        with Image.open(file) as opened:
            maps.append(np.array(opened.resize((side, side), Image.Resampling.NEAREST)))
    return torch.from_numpy(np.stack(maps)).long(), name


def _areas(side: int, batch: int, classes: int) -> tuple[Tensor, str]:
    coarse = torch.randn(batch, classes, 8, 8)
    return F.interpolate(coarse, (side, side), mode="bicubic").argmax(1), "drawn areas"
