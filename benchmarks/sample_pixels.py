"""sample_pixels against a loop over classes: `pytest benchmarks/sample_pixels.py`.

4096 pixels of a batch of label maps, balanced over N = 183 classes. Eager is the loop of published
pixel-contrast losses: for each class that is there, its pixels, shuffled, and an equal share of
them, which draws less than the budget where classes are small. The floor is reading the labels.
"""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch
from ecgan_kernels import sample_pixels
from torch import Tensor

from benchmarks.common import DEVICE, Recorder, compare, sweep
from benchmarks.layouts import coco_stuff

CLASSES, BATCH, BUDGET, IGNORE = 183, 4, 4096, 255


@pytest.fixture(scope="module")
def recorder() -> Iterator[Recorder]:
    recorder = Recorder("sample_pixels")
    yield recorder
    recorder.write()


def loop(labels: Tensor) -> Tensor:
    flat = labels.flatten()
    classes = [c for c in flat.unique().tolist() if c != IGNORE]
    share = BUDGET // len(classes)
    drawn = []
    for c in classes:
        pixels = (flat == c).nonzero().squeeze(1)
        drawn.append(pixels[torch.randperm(len(pixels), device=pixels.device)[:share]])
    return torch.cat(drawn).sort()[0]


@pytest.mark.parametrize("side", sweep([32, 64, 96, 128, 256]))
def test_sample_pixels(side, benchmark, recorder):
    torch.manual_seed(0)
    labels, maps = coco_stuff(side, BATCH, CLASSES)
    labels = labels.to(DEVICE)

    def check(name, found, want):
        (pixels,) = found
        assert pixels.unique().numel() == pixels.numel(), name
        assert not (labels.flatten()[pixels] == IGNORE).any(), name
        assert len(pixels) >= min(len(want[0]), BUDGET) or name == "eager", name

    compare(
        benchmark,
        recorder,
        {"eager": lambda: loop(labels), "torch": lambda: sample_pixels(labels, BUDGET)},
        (),
        None,
        ours="torch",
        elements=labels.numel(),
        floor=labels.nbytes / recorder.bandwidth,
        direction="forward",
        case={"classes": CLASSES, "budget": BUDGET, "maps": maps},
        notes={"present": int(labels.unique().numel())},
        check=check,
    )
