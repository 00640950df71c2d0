"""class_conv2d and the class decoder made of it: `pytest benchmarks/class_conv2d.py`.

One layer is measured against the reference ("eager") and against the plain convolution without
classes ("dense"), which is the floor: the same products, no gate. The decoder of ECGAN's
class-specific branch, C = 64, 32, 16, 8, 3 channels, is measured against what it replaces: one pass
of the shared decoder for each of N = 35 classes, masks put on again at every layer ("eager"), and
the same over the classes that the label map holds ("present classes"). Its passes are not measured
under torch.compile, which would unroll 35 decoders.

Label maps are CamVid's where ECGAN_TEST_DATA names the data, else drawn areas.
"""

from __future__ import annotations

import statistics
from collections.abc import Iterator
from functools import partial

import pytest
import torch
import torch.nn.functional as F
from ecgan_kernels import class_conv2d, reference
from torch import Tensor, nn

from benchmarks import common
from benchmarks.common import (
    DEVICE,
    QUICK,
    Recorder,
    compare,
    exact_convolutions,
    implementations,
    one_pass,
    peak_bytes,
    seconds,
    sweep,
)
from benchmarks.layouts import camvid
from ecgan.models.branches import SLOPE, stack

CLASSES = 35
CHANNELS = 64
SIDES = [32, 64, 96, 128, 256]  # of a square image
LAYERS = [
    *[(side, torch.float32, "both") for side in SIDES],
    (256, torch.float32, "forward"),
    (256, torch.float32, "backward"),
    (256, torch.bfloat16, "both"),
]
DECODERS = [*[(side, "both") for side in SIDES], (256, "forward"), (256, "backward")]
COMPILED = common.compiled(reference.class_conv2d)


@pytest.fixture(scope="module")
def recorder() -> Iterator[Recorder]:
    recorder = Recorder("class_conv2d")
    yield recorder
    recorder.write()


def label_map(side: int) -> tuple[Tensor, str]:
    labels, maps = camvid(side, 1, CLASSES)
    return (labels % CLASSES).to(DEVICE), maps


def available() -> list[str]:
    x, labels = torch.ones(1, 1, 1, 1, device=DEVICE), torch.zeros(1, 1, 1, device=DEVICE).long()
    weight = torch.ones(1, 1, 3, 3, device=DEVICE)
    return implementations(lambda impl: class_conv2d(x, labels, weight, impl=impl))


@pytest.mark.parametrize(("side", "dtype", "direction"), sweep(LAYERS))
def test_layer(side, dtype, direction, benchmark, recorder):
    torch.manual_seed(0)
    outputs = CHANNELS // 2
    labels, maps = label_map(side)
    x = torch.randn(1, CHANNELS, side, side, device=DEVICE).to(dtype).requires_grad_()
    weight = torch.randn(outputs, CHANNELS, 3, 3, device=DEVICE).div(24).to(dtype).requires_grad_()
    bias = torch.randn(outputs, device=DEVICE).to(dtype).requires_grad_()
    grad = torch.randn(1, outputs, side, side, device=DEVICE).to(dtype)
    inputs = (x, weight, bias)

    # In float32 on a CPU, few of which have units for half types: there eager takes seconds.
    floor_dtype = torch.float32 if DEVICE.type == "cpu" else dtype
    dense_inputs = [t.detach().to(floor_dtype).requires_grad_() for t in inputs]
    dense = partial(F.conv2d, *dense_inputs, padding=1)
    dense_pass = one_pass(dense, dense_inputs, (grad.to(floor_dtype),), direction)

    known = available()
    functions = {"eager": lambda: class_conv2d(x, labels, weight, bias, impl="reference")}
    if COMPILED and dtype == torch.float32:
        functions["torch.compile"] = lambda: COMPILED(x, labels, weight, bias)
    for impl in known:
        functions[impl] = lambda impl=impl: class_conv2d(x, labels, weight, bias, impl=impl)
    loose = 1e-4 if dtype == torch.float32 else 5e-2

    def check(name, found, want):
        for got, expected in zip(found, want, strict=True):
            limit = loose * expected.abs().max().item()
            torch.testing.assert_close(
                got, expected, rtol=0, atol=limit, msg=lambda m: f"{name}: {m}"
            )

    compare(
        benchmark,
        recorder,
        functions,
        inputs,
        (grad,),
        ours=known[0],
        elements=side * side,
        floor="dense",
        direction=direction,
        case={"what": "layer", "dtype": str(dtype).removeprefix("torch."), "maps": maps},
        check=check,
        beside={"dense": dense_pass},
        budget=4.0,
    )


def in_one_pass(x: Tensor, labels: Tensor, convs: nn.ModuleList, impl: str) -> Tensor:
    for level, conv in enumerate(convs):
        slope = SLOPE if level > 0 else None
        x = class_conv2d(x, labels, conv.weight, conv.bias, negative_slope=slope, impl=impl)
    return x


def without_classes(x: Tensor, convs: nn.ModuleList) -> Tensor:
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
@pytest.mark.parametrize(("side", "direction"), sweep(DECODERS))
def test_decoder(side, direction, benchmark, recorder):
    torch.manual_seed(0)
    labels, maps = label_map(side)
    convs = stack(CHANNELS).to(DEVICE)
    x = torch.randn(1, CHANNELS, side, side, device=DEVICE, requires_grad=True)
    grad = torch.randn(1, 3, side, side, device=DEVICE)
    known = available()
    functions = {
        "eager": lambda: n_passes(x, labels, convs, present=False),
        "present classes": lambda: n_passes(x, labels, convs, present=True),
        "dense": lambda: without_classes(x, convs),
    }
    for impl in known:
        functions[impl] = lambda impl=impl: in_one_pass(x, labels, convs, impl)
    inputs = [x, *convs.parameters()]
    passes = {name: one_pass(f, inputs, (grad,), direction) for name, f in functions.items()}
    # A round of all is dominated by N passes; the fast ones take ten turns in each.
    times: dict[str, list[float]] = {name: [] for name in passes}
    for function in passes.values():
        function()
    for _ in range(1 if QUICK else 3 if side == SIDES[-1] else 5):
        for name in ("eager", "present classes"):
            times[name].append(seconds(passes[name]))
        for _ in range(10):
            for name in ("dense", *known):
                times[name].append(seconds(passes[name]))
    benchmark.pedantic(passes[known[0]], rounds=2)
    with exact_convolutions():
        results = {name: function() for name, function in passes.items()}
    for name in ("present classes", *known):
        for got, expected in zip(results[name], results["eager"], strict=True):
            # As a whole: where LeakyReLU's kink is a rounding away, single gradients part.
            assert (got - expected).norm() <= 1e-2 * expected.norm(), name
    recorder.add(
        times,
        {name: peak_bytes(function) for name, function in passes.items()},
        statistics.median(times["dense"]),
        side * side,
        case={"what": "decoder", "dtype": "float32", "maps": maps, "classes": CLASSES},
        direction=direction,
        notes={"present": int(labels.unique().numel())},
    )
