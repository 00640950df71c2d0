"""label_conv2d against eager PyTorch: `pytest benchmarks/label_conv2d.py`.

Forward and backward of the first layer of a network that takes a label map of N = 183 classes:
3x3 with O = 128 as in SPADE's shared convolution, at five sizes, and 4x4 with stride 2 and O = 64
as in a PatchGAN discriminator. Maps are COCO-Stuff's where ECGAN_TEST_DATA names them, else drawn
areas; "noise" has a random label at each pixel, "neighbourhoods" a 3x3 map for each output, as
LabelSPADE asks for. "eager" is conv2d of a one-hot tensor that was made beforehand, "one-hot
inside" makes it. The floor is the bytes of y written and of its gradient read.
"""

from __future__ import annotations

import math
from collections.abc import Iterator

import pytest
import torch
import torch.nn.functional as F
from ecgan_kernels import label_conv2d
from torch import Tensor

from benchmarks import common
from benchmarks.common import DEVICE, Recorder, close, compare, implementations, sweep
from benchmarks.layouts import coco_stuff

CLASSES = 183
IGNORE = 255
# Name, side of the map, batch, kernel, stride, padding, output channels, direction.
CASES = [
    *[("layouts", side, 4, 3, 1, 1, 128, "both") for side in (32, 64, 96, 128, 256)],
    ("layouts", 256, 4, 3, 1, 1, 128, "forward"),
    ("layouts", 256, 4, 3, 1, 1, 128, "backward"),
    ("layouts", 256, 4, 4, 2, 2, 64, "both"),
    ("noise", 256, 4, 3, 1, 1, 128, "both"),
    ("neighbourhoods", 3, 20_000, 3, 1, 0, 128, "both"),
]
TENSORS_MOVED = {"forward": 1, "backward": 1, "both": 2}


@pytest.fixture(scope="module")
def recorder() -> Iterator[Recorder]:
    recorder = Recorder("label_conv2d")
    yield recorder
    recorder.write()


def make_labels(name: str, side: int, batch: int) -> tuple[Tensor, str]:
    if name == "layouts":
        return coco_stuff(side, batch, CLASSES)
    if name == "noise":
        return torch.randint(0, CLASSES, (batch, side, side)), name
    windows = coco_stuff(256, 4, CLASSES)[0].unfold(1, 3, 1).unfold(2, 3, 1).reshape(-1, 9)
    windows = windows.unique(dim=0)
    return windows[torch.arange(batch) % len(windows)].reshape(batch, 3, 3), name


def one_hot(labels: Tensor) -> Tensor:
    values = torch.where(labels == IGNORE, CLASSES, labels)
    columns = torch.zeros(len(labels), CLASSES + 1, *labels.shape[1:], device=labels.device)
    return columns.scatter_(1, values[:, None], 1.0)[:, :CLASSES]


def convolve_one_hot(labels: Tensor, weight: Tensor, bias: Tensor, **options: int) -> Tensor:
    return F.conv2d(one_hot(labels), weight, bias, **options)


COMPILED = common.compiled(convolve_one_hot)


@pytest.mark.timeout(1800)
@pytest.mark.parametrize("case", sweep(CASES), ids=lambda case: "-".join(map(str, case)))
def test_label_conv2d(case, benchmark, recorder):
    torch.manual_seed(0)
    name, side, batch, kernel, stride, padding, outputs, direction = case
    labels, maps = make_labels(name, side, batch)
    labels = labels.to(DEVICE)
    weight = torch.randn(outputs, CLASSES, kernel, kernel, device=DEVICE, requires_grad=True)
    bias = torch.randn(outputs, device=DEVICE, requires_grad=True)
    beforehand = one_hot(labels).contiguous()
    options = {"stride": stride, "padding": padding}
    known = implementations(lambda i: label_conv2d(labels[:1], weight, bias, **options, impl=i))
    functions = {
        "eager": lambda: F.conv2d(beforehand, weight, bias, **options),
        "one-hot inside": lambda: convolve_one_hot(labels, weight, bias, **options),
    }
    if COMPILED and name == "layouts":
        functions["torch.compile"] = lambda: COMPILED(labels, weight, bias, **options)
    for impl in known:
        functions[impl] = lambda i=impl: label_conv2d(labels, weight, bias, **options, impl=i)
    with torch.no_grad():
        grad = torch.randn_like(functions[known[0]]())
    compare(
        benchmark,
        recorder,
        functions,
        (weight, bias),
        (grad,),
        ours=known[0],
        elements=grad.numel(),
        floor=TENSORS_MOVED[direction] * grad.nbytes / recorder.bandwidth,
        direction=direction,
        case={"maps": maps, "kernel": kernel, "stride": stride, "classes": CLASSES},
        notes={"shape": list(grad.shape)},
        # Eager's error in sums over all pixels.
        check=close(1e-4, 1e-4 * math.sqrt(grad.numel() / outputs)),
    )
