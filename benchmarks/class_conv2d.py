"""class_conv2d and the class decoder made of it: `pytest benchmarks/class_conv2d.py`.

One layer is measured against the reference ("eager") and against the plain convolution without
classes ("dense"), which is the floor: the same products, no gate. The decoder of ECGAN's
class-specific branch, C = 64, 32, 16, 8, 3 channels, is measured against what it replaces: one pass
of the shared decoder for each of N = 35 classes, masks put on again at every layer ("eager"), and
the same over the classes that the label map holds ("present classes"). Forward and backward.

Label maps are real ones where ECGAN_TEST_DATA names the data, else random blobs.
"""

from __future__ import annotations

import os
import statistics
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from ecgan_kernels import class_conv2d
from torch import Tensor, nn

from benchmarks.common import DEVICE, Recorder, interleaved, peak_bytes, seconds
from ecgan.models.branches import SLOPE, stack

CLASSES = 35
CHANNELS = 64
SIZES = [64, 128, 256]  # of a square image
IMPLEMENTATIONS = ["cpu"] if DEVICE.type == "cpu" else ["cuda", "triton"]


@pytest.fixture(scope="module")
def recorder() -> Iterator[Recorder]:
    recorder = Recorder("class_conv2d")
    yield recorder
    recorder.write("case", "implementation", "dtype")


def label_map(size: int) -> tuple[Tensor, str]:
    """Labels [1, size, size] in [0, CLASSES), and where they come from."""
    folder = os.environ.get("ECGAN_TEST_DATA")
    files = sorted(Path(folder, "camvid", "train", "labels").glob("*.png")) if folder else []
    if files:
        from PIL import Image

        image = Image.open(files[0]).resize((size, size), Image.Resampling.NEAREST)
        labels = torch.from_numpy(np.array(image)).long() % CLASSES
        return labels[None].to(DEVICE), "camvid"
    coarse = torch.randn(1, CLASSES, 8, 8)
    blobs = F.interpolate(coarse, (size, size), mode="bicubic").argmax(1)
    return blobs.to(DEVICE), "blobs"


def available() -> list[str]:
    found = []
    x, labels = torch.ones(1, 1, 1, 1, device=DEVICE), torch.zeros(1, 1, 1).long().to(DEVICE)
    for impl in IMPLEMENTATIONS:
        try:
            class_conv2d(x, labels, torch.ones(1, 1, 3, 3, device=DEVICE), impl=impl)
        except RuntimeError:  # not built here: the rows say what was measured
            continue
        found.append(impl)
    return found or pytest.skip("no compiled implementation is built here")


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize("size", SIZES)
def test_layer(size, dtype, benchmark, recorder):
    torch.manual_seed(0)
    if dtype != torch.float32 and size != SIZES[-1]:
        pytest.skip("half types at the largest size only")
    outputs = CHANNELS // 2
    labels, source = label_map(size)
    x = torch.randn(1, CHANNELS, size, size, device=DEVICE).to(dtype).requires_grad_()
    weight = torch.randn(outputs, CHANNELS, 3, 3, device=DEVICE).div(24).to(dtype).requires_grad_()
    bias = torch.randn(outputs, device=DEVICE).to(dtype).requires_grad_()
    grad = torch.randn(1, outputs, size, size, device=DEVICE).to(dtype)

    # In float32 on a CPU, few of which have units for half types: there eager takes seconds.
    floor_dtype = torch.float32 if DEVICE.type == "cpu" else dtype
    dense_inputs = [t.detach().to(floor_dtype).requires_grad_() for t in (x, weight, bias)]

    def step(impl: str) -> tuple[Tensor, ...]:
        if impl == "dense":
            y = F.conv2d(*dense_inputs, padding=1)
            gradients = torch.autograd.grad(y, dense_inputs, grad.to(y.dtype))
            return y.detach(), *gradients
        y = class_conv2d(x, labels, weight, bias, impl=impl)
        return y.detach(), *torch.autograd.grad(y, (x, weight, bias), grad)

    names = available()
    candidates = {"eager": partial(step, "reference"), "dense": partial(step, "dense")}
    candidates |= {name: partial(step, name) for name in names}
    times = interleaved(benchmark, candidates, names[0], budget=4)
    want = step("reference")
    loose = 1e-4 if dtype == torch.float32 else 5e-2
    for name in names:
        for got, expected in zip(step(name), want, strict=True):
            limit = loose * expected.abs().max().item()
            torch.testing.assert_close(got, expected, rtol=0, atol=limit)
    recorder.add(
        times,
        {name: peak_bytes(function) for name, function in candidates.items()},
        # The recorder's floor is of bytes; this many take as long as the plain convolution.
        moved=int(statistics.median(times["dense"]) * recorder.bandwidth),
        elements=size * size,
        case="layer",
        labels=source,
        dtype=str(dtype).removeprefix("torch."),
    )


def one_pass(x: Tensor, labels: Tensor, convs: nn.ModuleList, impl: str) -> Tensor:
    for level, conv in enumerate(convs):
        slope = SLOPE if level > 0 else None
        x = class_conv2d(x, labels, conv.weight, conv.bias, negative_slope=slope, impl=impl)
    return x


def dense(x: Tensor, labels: Tensor, convs: nn.ModuleList) -> Tensor:
    """The decoder without classes: the floor."""
    for level, conv in enumerate(convs):
        x = conv(F.leaky_relu(x, SLOPE) if level > 0 else x)
    return x


def n_passes(x: Tensor, labels: Tensor, convs: nn.ModuleList, present: bool) -> Tensor:
    """One pass a class, of features multiplied by the class's mask before every layer."""
    out = torch.zeros_like(x[:, :3])
    for label in labels.unique().tolist() if present else range(CLASSES):
        mask = (labels == label).unsqueeze(1).to(x.dtype)
        h = x
        for level, conv in enumerate(convs):
            h = conv((F.leaky_relu(h, SLOPE) if level > 0 else h) * mask)
        out = out + h * mask
    return out


@pytest.mark.timeout(1800)
@pytest.mark.parametrize("size", SIZES)
def test_decoder(size, benchmark, recorder):
    torch.manual_seed(0)
    labels, source = label_map(size)
    convs = stack(CHANNELS).to(DEVICE)
    x = torch.randn(1, CHANNELS, size, size, device=DEVICE, requires_grad=True)
    grad = torch.randn(1, 3, size, size, device=DEVICE)
    parameters = list(convs.parameters())

    def step(decode) -> tuple[Tensor, ...]:
        y = decode(x, labels, convs)
        return y.detach(), *torch.autograd.grad(y, (x, *parameters), grad)

    names = available()
    slow = {
        "eager": lambda: step(partial(n_passes, present=False)),
        "present classes": lambda: step(partial(n_passes, present=True)),
    }
    fast = {name: lambda impl=name: step(partial(one_pass, impl=impl)) for name in names}
    fast["dense"] = lambda: step(dense)
    # A round of all is dominated by N passes; the fast ones take ten turns in each.
    times: dict[str, list[float]] = {name: [] for name in (*slow, *fast)}
    for function in (*slow.values(), *fast.values()):
        function()
    rounds = 3 if size == SIZES[-1] else 5
    for _ in range(rounds):
        for name, function in slow.items():
            times[name].append(seconds(function))
        for _ in range(10):
            for name, function in fast.items():
                times[name].append(seconds(function))
    benchmark.pedantic(fast[names[0]], rounds=2)
    want = slow["eager"]()
    for name in ("present classes", *names):
        for got, expected in zip((slow | fast)[name](), want, strict=True):
            # As a whole: where LeakyReLU's kink is a rounding away, single gradients part.
            assert (got - expected).norm() <= 1e-2 * expected.norm()
    recorder.add(
        times,
        {name: peak_bytes(function) for name, function in (slow | fast).items()},
        moved=int(statistics.median(times["dense"]) * recorder.bandwidth),
        elements=size * size,
        case="decoder",
        labels=source,
        classes=CLASSES,
        present=int(labels.unique().numel()),
        dtype="float32",
    )
