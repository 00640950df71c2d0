"""label_conv2d against eager PyTorch: `pytest benchmarks/label_conv2d.py`.

Forward and backward of the first layer of a network that takes a label map of N = 183 classes:
3x3 with O = 128 as in SPADE's shared convolution, at five sizes, and 4x4 with stride 2 and O = 64
as in a PatchGAN discriminator. Maps are COCO-Stuff's where ECGAN_TEST_DATA names them, else random
areas; "noise" has a random label at each pixel, "neighbourhoods" a 3x3 map for each output, as
LabelSPADE asks for. "eager" is conv2d of a one-hot tensor that was made beforehand, "one-hot
inside" makes it. The floor is the bytes of y written and of its gradient read.
"""

from __future__ import annotations

import math
import os
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from ecgan_kernels import label_conv2d
from torch import Tensor

from benchmarks.common import DEVICE, Candidates, Recorder, interleaved, peak_bytes

CLASSES = 183
IGNORE = 255
IMPLEMENTATIONS = ["cpu"] if DEVICE.type == "cpu" else ["cuda", "triton"]
DATA = os.environ.get("ECGAN_TEST_DATA", "")
# Name, side of the map, batch, kernel, stride, padding, output channels.
LARGEST = ("layouts", 256, 4, 3, 1, 1, 128)
CASES = [
    *[("layouts", side, 4, 3, 1, 1, 128) for side in (32, 64, 96, 128)],
    LARGEST,
    ("layouts", 256, 4, 4, 2, 2, 64),
    ("noise", 256, 4, 3, 1, 1, 128),
    ("neighbourhoods", 3, 20_000, 3, 1, 0, 128),
]


@pytest.fixture(scope="module")
def recorder() -> Iterator[Recorder]:
    recorder = Recorder("label_conv2d")
    yield recorder
    recorder.write("maps", "kernel", "implementation")


def layouts(side: int, batch: int) -> tuple[Tensor, str]:
    """Label maps [batch, side, side] and where they are from."""
    files = sorted(Path(DATA, "coco_stuff", "train_label").glob("*.png"))[:batch] if DATA else []
    if len(files) < batch:
        small = torch.randint(0, CLASSES - 1, (batch, 1, 6, 6)).float()
        return F.interpolate(small, size=(side, side))[:, 0].long(), "random areas"
    import numpy as np
    from PIL import Image

    maps = []
    for file in files:
        with Image.open(file) as opened:
            maps.append(np.array(opened.resize((side, side), Image.Resampling.NEAREST)))
    return torch.from_numpy(np.stack(maps)).long(), "coco_stuff"


def make_labels(name: str, side: int, batch: int) -> tuple[Tensor, str]:
    if name == "layouts":
        return layouts(side, batch)
    if name == "noise":
        return torch.randint(0, CLASSES, (batch, side, side)), name
    windows = layouts(256, 4)[0].unfold(1, 3, 1).unfold(2, 3, 1).reshape(-1, 9).unique(dim=0)
    rows = windows[torch.arange(batch) % len(windows)]
    return rows.reshape(batch, 3, 3), name


def one_hot(labels: Tensor) -> Tensor:
    values = torch.where(labels == IGNORE, CLASSES, labels)
    columns = torch.zeros(len(labels), CLASSES + 1, *labels.shape[1:], device=labels.device)
    return columns.scatter_(1, values[:, None], 1.0)[:, :CLASSES]


@pytest.mark.timeout(1800)
@pytest.mark.parametrize("case", CASES, ids=lambda case: "-".join(map(str, case)))
def test_label_conv2d(case, benchmark, recorder):
    torch.manual_seed(0)
    name, side, batch, kernel, stride, padding, outputs = case
    labels, maps = make_labels(name, side, batch)
    labels = labels.to(DEVICE)
    weight = torch.randn(outputs, CLASSES, kernel, kernel, device=DEVICE, requires_grad=True)
    bias = torch.randn(outputs, device=DEVICE, requires_grad=True)
    beforehand = one_hot(labels).contiguous()
    options = {"stride": stride, "padding": padding}
    functions = {
        "eager": lambda: F.conv2d(beforehand, weight, bias, **options),
        "one-hot inside": lambda: F.conv2d(one_hot(labels), weight, bias, **options),
    }
    for impl in IMPLEMENTATIONS:
        try:
            label_conv2d(labels[:1], weight, bias, **options, impl=impl)
        except RuntimeError:  # not built here: the rows say what was measured
            continue
        functions[impl] = lambda impl=impl: label_conv2d(labels, weight, bias, **options, impl=impl)
    ours = next((impl for impl in IMPLEMENTATIONS if impl in functions), None)
    if ours is None:
        pytest.skip("no compiled implementation is built here")
    grad = torch.randn_like(functions[ours]())

    def step(function):
        out = function()
        return out.detach(), *torch.autograd.grad(out, (weight, bias), grad)

    candidates: Candidates = {key: lambda f=f: step(f) for key, f in functions.items()}
    times = interleaved(benchmark, candidates, ours)
    peaks = {key: peak_bytes(function) for key, function in candidates.items()}
    want = candidates["eager"]()
    loose = 1e-4 * math.sqrt(grad.numel() / outputs)  # eager's error in sums over all pixels
    for key, function in candidates.items():
        for got, expected in zip(function(), want, strict=True):
            torch.testing.assert_close(
                got, expected, rtol=1e-4, atol=loose, msg=lambda m, n=key: f"{n}: {m}"
            )
    recorder.add(
        times,
        peaks,
        moved=2 * grad.nbytes,
        elements=grad.numel(),
        maps=maps,
        shape=list(grad.shape),
        kernel=kernel,
        stride=stride,
        classes=CLASSES,
    )
