"""LabelIndex, LabelSPADE, sampling, the queue and _host under attack."""

from __future__ import annotations

import contextlib
import pickle

import numpy as np
import pytest
import torch
from ecgan_kernels import LabelIndex, PixelQueue, _library, nn, sample_pixels
from ecgan_kernels.reference.label_index import neighbourhoods
from hypothesis import given
from hypothesis import strategies as st

from tests.kernels.attack.weapons import (
    FLOATS,
    INT64,
    INTS,
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

pytestmark = pytest.mark.filterwarnings("ignore")  # of sparse, quantized and nested tensors
needs_library = pytest.mark.skipif(not _library.CPU.loaded, reason=str(_library.CPU.problem))
VALUES = (0, 1, 2, 3, 200, -1, 2**31, 2**32 + 1, INT64.max, INT64.min)
SIDES = st.sampled_from([1, 2, 3, 5, 17])
KERNELS = st.sampled_from([1, 3, 5])


@st.composite
def indices(draw: st.DrawFn, classes: int, batch: int, edged: bool) -> LabelIndex:
    shape = (batch, draw(SIDES), draw(SIDES))
    edges = None
    if edged:
        there = torch.rand(shape, generator=generator(draw(SEEDS)))[:, None] < 0.3
        there = there.to(draw(st.sampled_from([torch.bool, torch.uint8, torch.float16])))
        edges = relayout(there, draw(st.sampled_from([x for x in LAYOUTS if x != "negated"])))
    return LabelIndex(draw(labels(shape, VALUES)), classes, edges=edges)


@given(data=st.data())
def test_any_labels(data: st.DataObject) -> None:
    classes, kernel = data.draw(st.sampled_from([1, 3, 2**30 - 2])), data.draw(KERNELS)
    index = data.draw(indices(classes, data.draw(SIZES) % 3, data.draw(st.booleans())))
    index = index.resize((data.draw(SIDES), data.draw(SIDES)))
    index = pickle.loads(pickle.dumps(index.prepare([index.size], [kernel])))
    found, places = index.neighbourhoods(kernel)
    expected, there = neighbourhoods(index.labels, classes, index.edges, kernel)
    assert torch.equal(found.long()[places.long()], expected[there].long())
    nested = index.nested(kernel)
    assert torch.equal(
        index.map(torch.clone).nested(kernel).members[nested.inverse.long()],
        nested.members[nested.inverse.long()],
    )


@given(data=st.data())
def test_any_index(data: st.DataObject) -> None:
    arguments = {"labels": torch.zeros(1, 3, 4, dtype=torch.int32), "num_classes": 3, "edges": None}
    sizes: dict[str, object] = {"size": (3, 4), "kernel_size": 3}
    name = data.draw(st.sampled_from([*arguments, *sizes]))
    group = arguments if name in arguments else sizes
    if name == "size":
        side = st.sampled_from([2, 5, None, 2.0, True, 2**70, *INTS[-2:]])
        group[name] = data.draw(hostile((1, 1)) | st.tuples(side, side))
    else:
        group[name] = data.draw(hostile(group[name]))
    try:
        index = LabelIndex(**arguments).resize(sizes["size"])
        places = index.nested(sizes["kernel_size"])
        index.one_hot()
    except Exception as error:
        assert_clear(error, (name, "sizes", "allocate memory", "meta"))
        return
    if index.labels.numel():
        assert int(places.inverse.max()) < len(places.members)


@needs_library
@given(data=st.data())
def test_any_spade(data: st.DataObject) -> None:
    batch, channels, classes = data.draw(SIDES) % 4, data.draw(SIDES), 3
    dtype, edged = data.draw(st.sampled_from(FLOATS[:1] + FLOATS[3:])), data.draw(st.booleans())
    sides = data.draw(SIDES), data.draw(SIDES) + 1
    norm = data.draw(st.sampled_from(["instance", "batch"]))
    slope = data.draw(st.sampled_from([None, 0.2, -1, 0]))
    kernel = data.draw(KERNELS)
    x = data.draw(floating((batch, channels, *sides), dtype))
    index = data.draw(indices(classes, batch, edged))
    torch.manual_seed(0)
    layer = nn.LabelSPADE(channels, classes, 5, kernel, norm, slope, edged, impl="cpu").to(dtype)
    layer.train(data.draw(st.booleans()))
    other = nn.LabelSPADE(channels, classes, 5, kernel, norm, slope, edged, impl="reference")
    other.to(dtype).load_state_dict(layer.state_dict())
    other.train(layer.training)
    layout, results = data.draw(st.sampled_from(LAYOUTS)), []
    for module, value in ((layer, x), (other, plain(x))):
        leaf = value.detach().requires_grad_()
        out = module(leaf, index)
        grad = torch.randn(out.shape, generator=generator(3), dtype=torch.float64).to(dtype)
        grad = relayout(grad, layout)
        grad = plain(grad) if module is other else grad
        inputs = (leaf, *module.parameters())
        results.append((out, *torch.autograd.grad(out, inputs, grad, materialize_grads=True)))
    for ours, theirs in zip(*results, strict=True):
        scale = 1 + float(theirs.detach().abs().max()) if theirs.numel() else 1
        torch.testing.assert_close(ours, theirs, rtol=0, atol=2e-3 * scale, equal_nan=True)


@needs_library
@given(data=st.data())
def test_any_argument_of_spade(data: st.DataObject) -> None:
    options: dict[str, object] = {
        "channels": 2,
        "num_classes": 3,
        "hidden": 4,
        "kernel_size": 3,
        "norm": "instance",
        "negative_slope": 0.2,
        "edge_channel": False,
        "noise_channels": 0,
        "impl": "auto",
    }
    given_: dict[str, object] = {
        "x": torch.randn(1, 2, 5, 6),
        "labels_or_index": torch.zeros(1, 5, 6, dtype=torch.int64),
        "noise": None,
    }
    name = data.draw(st.sampled_from([*options, *given_]))
    group = options if name in options else given_
    # Sizes of parameters are not attacked with numbers that are only too large for the memory.
    kind = st.sampled_from([None, "2", 2.0, True, 0, -1, 4]) if type(group[name]) is int else None
    group[name] = data.draw(hostile(group[name]) if kind is None else kind)
    try:
        y = nn.LabelSPADE(**options)(**given_)
    except Exception as error:
        assert_clear(error, (name, "labels", "x "))
        return
    assert y.shape == given_["x"].shape


@given(data=st.data())
def test_any_sample(data: st.DataObject) -> None:
    arguments: dict[str, object] = {
        "labels": data.draw(labels((2, data.draw(SIZES), 3), VALUES)),
        "budget": data.draw(st.sampled_from([0, 1, 7, 1000])),
        "per_class": data.draw(st.sampled_from([None, 1, 2])),
        "predictions": None,
        "generator": generator(0),
        "ignore_index": data.draw(st.sampled_from([0, 255, INT64.min])),
    }
    if data.draw(st.booleans()):
        name = data.draw(st.sampled_from(list(arguments)))
        arguments[name] = data.draw(hostile(arguments[name]))
    try:
        found = sample_pixels(**arguments)
    except Exception as error:
        assert_clear(error, (*arguments, "meta"))
        return
    flat = arguments["labels"].reshape(-1)
    if flat.is_meta:
        return
    assert found.dtype == torch.int64
    assert torch.equal(found, found.unique())
    assert not (flat[found].long() == arguments["ignore_index"]).any()
    assert len(found) <= arguments["budget"]


@given(data=st.data())
def test_any_queue(data: st.DataObject) -> None:
    queue = PixelQueue(3, 2, megabytes=3 * 2 * 4 * 5 / 2**20)
    rows = data.draw(SIZES)
    values: dict[str, object] = {
        "embeddings": data.draw(floating((rows, 2), torch.float32)),
        "labels": data.draw(labels((rows,), VALUES)),
    }
    name = data.draw(st.sampled_from(["", *values]))
    if name:
        values[name] = data.draw(hostile(values[name]))
    before = {key: value.clone() for key, value in queue.state_dict().items()}
    try:
        queue.enqueue(**values)
    except Exception as error:
        assert_clear(error, ("embeddings", "labels"))
        for key, value in queue.state_dict().items():
            assert torch.equal(value, before[key])
        return
    counts = torch.bincount(plain(values["labels"]).long().clamp(-1, 3) + 1, minlength=5)[1:4]
    assert torch.equal(queue.counts, counts.clamp(max=5))


@given(data=st.data())
def test_any_new_queue(data: st.DataObject) -> None:
    arguments: dict[str, object] = {"num_classes": 3, "dim": 2, "megabytes": 0.01}
    name = data.draw(st.sampled_from([*arguments, "dtype"]))
    arguments[name] = data.draw(hostile(arguments.get(name)))
    if name == "megabytes" and isinstance(arguments[name], int | float):
        arguments[name] = min(arguments[name], 1)  # else it is only too large for the memory
    try:
        assert PixelQueue(**arguments).capacity > 0
    except Exception as error:
        assert_clear(error, (name, "megabytes"))


@st.composite
def arrays(draw: st.DrawFn) -> tuple[np.ndarray, bool]:
    """An array of integers, and whether 32 bits hold them."""
    dtype = np.dtype(draw(st.sampled_from("bBhHiIqQ"))).newbyteorder(draw(st.sampled_from("<>")))
    shape = tuple(draw(SIZES) for _ in range(3))
    limits, random = np.iinfo(dtype), np.random.default_rng(draw(SEEDS))
    array = random.integers(0, 3, shape).astype(dtype)
    if array.size and draw(st.booleans()):
        array.flat[draw(st.integers(0, array.size - 1))] = draw(
            st.sampled_from([limits.min, limits.max])
        )
    layout = draw(st.sampled_from(["C", "F", "reversed", "stepped", "readonly", "misaligned"]))
    if layout == "F":
        array = np.asfortranarray(array)
    elif layout == "reversed":
        array = array[::-1, :, ::-1].copy()[::-1, :, ::-1]
    elif layout == "stepped":
        array = array.repeat(2, 1)[:, ::2]
    elif layout == "readonly":
        array.flags.writeable = False
    elif layout == "misaligned":
        memory = np.zeros(array.nbytes + 1, np.uint8)
        view = memory[1:].view(dtype).reshape(shape) if array.size else array
        view[...] = array
        array = view
    low, high = (int(array.min()), int(array.max())) if array.size else (0, 0)
    return array, low >= -(2**31) and high < 2**31


@given(data=st.data())
def test_any_array(data: st.DataObject) -> None:
    host = pytest.importorskip("ecgan_kernels._host")
    array, fits = data.draw(arrays())
    kernel = data.draw(KERNELS)
    if not fits:
        for run in (lambda: host.label_windows(array, 7, 3), lambda: host.label_segments(array, 2)):
            with pytest.raises(ValueError, match="must hold integers of 32 bits"):
                run()
        return
    windows, inverse = host.label_windows(array, 7, kernel)
    margin = kernel // 2
    padded = np.pad(array, ((0, 0), (margin,) * 2, (margin,) * 2), constant_values=7 % 2**7)
    if array.size:
        views = np.lib.stride_tricks.sliding_window_view(padded, (kernel, kernel), (1, 2))
        assert np.array_equal(windows[inverse], views.reshape(*array.shape, -1))
    segments, bounds = host.label_segments(array, 2)
    assert np.abs(segments[:, 1]).sum() == array.size
    assert bounds[-1] == len(segments)


@given(data=st.data())
def test_any_argument_of_host(data: st.DataObject) -> None:
    host = pytest.importorskip("ecgan_kernels._host")
    others = [np.zeros((1, 2, 2), kind) for kind in ("f4", "c8", "?", "O", "U3", "M8[s]", "i4,i4")]
    others += [np.zeros(shape, np.int32) for shape in ((), (3,), (1, 2, 2, 2))]
    others += [np.broadcast_to(np.zeros((0, 1, 1), np.int32), (0, 2**30, 2**30))]
    others += [np.ma.masked_array(np.zeros((1, 2, 2), np.int32)), torch.zeros(1, 2, 2).int()]
    arguments: list[object] = [np.zeros((1, 3, 3), np.int32), 3, 3]
    place = data.draw(st.integers(0, 2))
    arguments[place] = data.draw(hostile(arguments[place]) | st.sampled_from(others))
    for run in (
        lambda: host.label_windows(*arguments),
        lambda: host.label_segments(*arguments[:2]),
    ):
        with contextlib.suppress(TypeError, ValueError):
            run()
