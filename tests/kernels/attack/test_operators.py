"""Every public operator under attack: a clear exception, or the right answer."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import ecgan_kernels as kernels
import pytest
import torch
from ecgan_kernels import _library
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from tests.kernels.attack.weapons import (
    FLOATS,
    INT64,
    LAYOUTS,
    SEEDS,
    SIZES,
    assert_clear,
    floating,
    generator,
    hostile,
    labels,
    plain,
    relayout,
)

pytestmark = [
    pytest.mark.skipif(not _library.CPU.loaded, reason=str(_library.CPU.problem)),
    pytest.mark.filterwarnings("ignore"),  # of sparse, quantized and nested tensors
]
SPECIAL = st.sampled_from([(), (float("nan"),)])
WILD = st.lists(
    st.sampled_from([float("nan"), float("inf"), -float("inf"), 1e38, -6e4, 1e-42, 0.0, -0.0])
)
VOID = (255, -1, INT64.max, INT64.min)
Arguments = dict[str, object]


@dataclass(frozen=True)
class Attacked:
    """An operator, and a strategy of arguments that it takes, some values of which are special."""

    function: Callable[..., object]
    arguments: Callable[..., st.SearchStrategy[Arguments]]
    tolerance: float = 64
    """Of a result, in units of its epsilon."""
    skips: bool = False
    """Whether it skips what the reference multiplies by 0, and so is a number where that is NaN."""


@st.composite
def edge_transfer(draw: st.DrawFn, special: tuple[float, ...]) -> Arguments:
    shape, dtype = draw(st.lists(SIZES, max_size=4)), draw(st.sampled_from(FLOATS))
    return {
        "image": draw(floating(shape, dtype, special)),
        "edge": draw(floating(shape, dtype, special)),
        "activation": draw(st.sampled_from([None, "tanh"])),
    }


@st.composite
def edge_transfer_lrelu(draw: st.DrawFn, special: tuple[float, ...]) -> Arguments:
    found = draw(edge_transfer(special))
    del found["activation"]
    return {**found, "negative_slope": draw(st.sampled_from([0.2, 1e-3, 1]))}


@st.composite
def similarity_bce(draw: st.DrawFn, special: tuple[float, ...]) -> Arguments:
    batch, classes = draw(SIZES) % 4, draw(SIZES) + 1
    shape = draw(st.lists(SIZES, max_size=2))
    dtype, void = draw(st.sampled_from(FLOATS)), draw(st.sampled_from(VOID))
    share = lambda x: x.sigmoid() / classes  # noqa: E731  sums of products stay below 1
    return {
        "probs": draw(floating((batch, classes, *shape), dtype, special, share)),
        "labels": draw(labels((batch, *shape), (0, void, *range(classes)))),
        "ignore_index": void,
        "eps": draw(st.sampled_from([1e-6, 1e-2])),
        "precision": draw(st.sampled_from(["exact", "fast"])),
        "reduction": draw(st.sampled_from(["mean", "sum", "none"])),
    }


@st.composite
def pixel_contrast(draw: st.DrawFn, special: tuple[float, ...]) -> Arguments:
    anchors, depth, others = draw(SIZES), draw(SIZES), draw(SIZES)
    dtype, void = draw(st.sampled_from(FLOATS)), draw(st.sampled_from(VOID))
    values = (0, 1, 2, 200, 2**40, *VOID)
    found = {
        "embeddings": draw(floating((anchors, depth), dtype, special)),
        "labels": draw(labels((anchors,), values)),
        "temperature": draw(st.sampled_from([0.1, 1, 7.5])),
        "ignore_index": void,
        "normalize": draw(st.booleans()),
        "reduction": draw(st.sampled_from(["mean", "sum", "none"])),
    }
    if draw(st.booleans()):
        found["contrast"] = draw(floating((others, depth), dtype, special))
        found["contrast_labels"] = draw(labels((others,), values))
    return found


@st.composite
def label_conv2d(draw: st.DrawFn, special: tuple[float, ...]) -> Arguments:
    batch, classes, outputs = draw(SIZES) % 4, draw(SIZES) + 1, draw(SIZES) + 1
    height, width = draw(SIZES) + 1, draw(SIZES) + 1
    padding = draw(st.sampled_from([1, 2, (1, 0), (0, 3)]))
    margins = (padding, padding) if isinstance(padding, int) else padding
    sides = (height + 2 * margins[0], width + 2 * margins[1])
    kernel = [draw(st.integers(1, max(1, min(3, side)))) for side in sides]
    dtype, void = draw(st.sampled_from(FLOATS)), draw(st.sampled_from(VOID))
    found: Arguments = {
        "labels": draw(labels((batch, height, width), (void, *range(classes)))),
        "weight": None,
        "stride": draw(st.sampled_from([1, 2, (1, 7)])),
        "padding": padding,
        "ignore_index": void,
    }
    edged = draw(st.booleans())
    found["weight"] = draw(floating((outputs, classes + edged, *kernel), dtype, special))
    if edged:
        there = torch.rand(batch, 1, height, width, generator=generator(draw(SEEDS))) < 0.3
        found["edges"] = relayout(there, draw(st.sampled_from(LAYOUTS)))
    if draw(st.booleans()):
        found["bias"] = draw(floating((outputs,), dtype, special))
    if draw(st.booleans()):
        sizes = [draw(st.sampled_from([1, size])) for size in (batch, height, width)]
        found["scale"] = draw(floating(sizes, draw(st.sampled_from(FLOATS))))
    return found


@st.composite
def class_conv2d(draw: st.DrawFn, special: tuple[float, ...]) -> Arguments:
    batch, channels, outputs = draw(SIZES) % 4, draw(SIZES), draw(SIZES)
    height, width = draw(SIZES), draw(st.sampled_from([0, 1, 3, 50]))
    dtype = draw(st.sampled_from(FLOATS))
    found: Arguments = {
        "x": draw(floating((batch, channels, height, width), dtype, special)),
        "labels": draw(labels((batch, height, width), (0, 1, 200, 2**32, *VOID))),
        "weight": draw(floating((outputs, channels, 3, 3), dtype)),
        "negative_slope": draw(st.sampled_from([None, 0.2, 0, -1.5])),
    }
    if draw(st.booleans()):
        found["bias"] = draw(floating((outputs,), dtype))
    return found


OPERATORS = [
    Attacked(kernels.edge_transfer, edge_transfer),
    Attacked(kernels.edge_transfer_lrelu, edge_transfer_lrelu),
    Attacked(kernels.similarity_bce, similarity_bce, 1000),
    Attacked(kernels.pixel_contrast, pixel_contrast, 1000, skips=True),
    Attacked(kernels.label_conv2d, label_conv2d, skips=True),
    Attacked(kernels.class_conv2d, class_conv2d, 200, skips=True),
]
every_operator = pytest.mark.parametrize("op", OPERATORS, ids=lambda op: op.function.__name__)


def run(
    op: Attacked, arguments: Arguments, needed: list[str], layout: str | None, **options: object
) -> list[Tensor]:
    """Results, and gradients of the arguments ``needed`` for incoming ones in ``layout``."""
    leaves = [name for name in needed if isinstance(arguments.get(name), Tensor)]
    arguments = {
        **arguments,
        **{name: arguments[name].detach().requires_grad_() for name in leaves},
    }
    out = op.function(**arguments, **options)
    results = [out] if isinstance(out, Tensor) else list(out)
    found = [result.detach() for result in results]
    if not leaves or layout is None:
        return found
    grads = [
        relayout(
            torch.randn(y.shape, generator=generator(7), dtype=torch.float64).to(y.dtype), layout
        )
        for y in results
    ]
    used = [i for i, y in enumerate(results) if y.requires_grad]
    inputs = [arguments[name] for name in leaves]
    if used:
        found += torch.autograd.grad(
            [results[i] for i in used],
            inputs,
            [plain(grads[i]) if options.get("impl") == "reference" else grads[i] for i in used],
            allow_unused=True,
            materialize_grads=True,
        )
    return found


def widened(value: object) -> object:
    value = plain(value)
    return value.double() if isinstance(value, Tensor) and value.dtype in FLOATS else value


@every_operator
@given(data=st.data())
def test_any_layout_and_label(op: Attacked, data: st.DataObject) -> None:
    arguments = data.draw(op.arguments(data.draw(SPECIAL)))
    tensors = [n for n, x in arguments.items() if isinstance(x, Tensor) and x.dtype in FLOATS]
    tensors = [n for n in tensors if n != "scale"]
    needed = data.draw(st.lists(st.sampled_from(tensors), unique=True))
    layout = data.draw(st.sampled_from([None, *LAYOUTS]))
    ours = run(op, arguments, needed, layout, impl="cpu")
    wide = {name: widened(value) for name, value in arguments.items()}
    truth = run(op, wide, needed, layout, impl="reference")
    assert len(ours) == len(truth)
    dtype = arguments[tensors[0]].dtype
    for y, expected in zip(ours, truth, strict=True):
        assert y.shape == expected.shape
        y = y.double()
        assert not (y.isnan() & ~expected.isnan()).any()
        if op.skips:
            expected = expected.where(expected.isfinite() | y.isnan(), y)
        if y.numel() > 0:
            scale = 1 + expected.nan_to_num().abs().max()
            atol = op.tolerance * torch.finfo(dtype).eps * scale
            torch.testing.assert_close(y, expected, rtol=0, atol=float(atol), equal_nan=True)


@every_operator
@given(data=st.data())
def test_any_value(op: Attacked, data: st.DataObject) -> None:
    arguments = data.draw(op.arguments(tuple(data.draw(WILD))))
    tensors = [n for n, x in arguments.items() if isinstance(x, Tensor) and x.dtype in FLOATS]
    needed = [name for name in tensors if name != "scale"]
    ours = run(op, arguments, needed, "permuted", impl="cpu")
    plainly = {name: plain(value) for name, value in arguments.items()}
    theirs = run(op, plainly, needed, "permuted", impl="reference")
    for y, expected in zip(ours, theirs, strict=True):
        assert (y.shape, y.dtype) == (expected.shape, expected.dtype)


@every_operator
@given(data=st.data())
def test_any_argument(op: Attacked, data: st.DataObject) -> None:
    arguments = data.draw(op.arguments(()))
    names = list(arguments)
    for name in data.draw(st.lists(st.sampled_from([*names, "impl"]), min_size=1, max_size=2)):
        arguments[name] = data.draw(hostile(arguments.get(name)))
    try:
        ours = op.function(**arguments)
    except Exception as error:
        assert_clear(error, (*names, "impl", "contrast", "bias", "edges", "scale"))
        return
    arguments.pop("impl", None)
    theirs = op.function(**{n: plain(x) for n, x in arguments.items()}, impl="reference")
    for y, expected in zip(
        *([x] if isinstance(x, Tensor) else x for x in (ours, theirs)), strict=True
    ):
        assert (y.shape, y.dtype, y.device) == (expected.shape, expected.dtype, expected.device)
        if not y.is_meta:
            torch.testing.assert_close(
                y.detach(), expected.detach(), rtol=0.02, atol=0.02, equal_nan=True
            )
