"""LabelIndex: one-hot form, nearest resizing and distinct neighbourhoods, against plain loops."""

from __future__ import annotations

import dataclasses
import pickle

import pytest
import torch
import torch.nn.functional as F
from ecgan_kernels import _library, _windows
from ecgan_kernels.label_index import LabelIndex
from ecgan_kernels.reference.label_index import neighbourhoods as reference_neighbourhoods
from torch import Tensor


def example(height: int = 6, width: int = 8, classes: int = 4) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(height * width)
    labels = torch.randint(0, classes, (2, height, width), generator=generator)
    labels[torch.rand(labels.shape, generator=generator) < 0.2] = 255
    edges = torch.rand(2, 1, height, width, generator=generator) < 0.3
    return labels, edges


def one_hot(labels: Tensor, classes: int, edges: Tensor | None = None) -> Tensor:
    out = torch.zeros(len(labels), classes, *labels.shape[1:])
    for b, row, column in torch.cartesian_prod(*map(torch.arange, labels.shape)).tolist():
        label = int(labels[b, row, column])
        if 0 <= label < classes:
            out[b, label, row, column] = 1
    return out if edges is None else torch.cat([out, edges.float()], dim=1)


@pytest.mark.parametrize("void", [255, -1, 4])
@pytest.mark.parametrize("with_edges", [False, True])
def test_one_hot(with_edges, void):
    labels, edges = example()
    labels[labels == 255] = void
    index = LabelIndex(labels, 4, edges=edges if with_edges else None)
    expected = one_hot(labels, 4, edges if with_edges else None)
    assert torch.equal(index.one_hot(), expected)
    assert index.channels == expected.shape[1]
    half = index.one_hot(torch.float16)
    assert half.dtype == torch.float16
    assert torch.equal(half.float(), expected)
    assert index.one_hot() is index.one_hot()


@pytest.mark.parametrize("dtype", [torch.uint8, torch.int16, torch.int32, torch.int64])
def test_labels_become_int64_with_one_void(dtype):
    labels, _ = example()
    index = LabelIndex(labels.to(dtype), 4)
    assert index.labels.dtype == torch.int64
    assert torch.equal(index.labels, torch.where(labels == 255, 4, labels))
    assert index.edges is None
    assert len(index) == 2
    assert index.size == (6, 8)
    assert repr(index) == "LabelIndex(2 x 6 x 8, 4 classes)"


@pytest.mark.parametrize("edge_dtype", [torch.bool, torch.uint8, torch.float32])
def test_edges_become_bool(edge_dtype):
    labels, edges = example()
    index = LabelIndex(labels, 4, edges=edges.to(edge_dtype))
    assert index.edges is not None
    assert index.edges.dtype == torch.bool
    assert torch.equal(index.edges, edges)
    assert "edges" in repr(index)


@pytest.mark.parametrize("size", [(3, 4), (12, 16), (1, 1), (5, 3), (6, 8), (94, 82)])
def test_resize_is_that_of_the_one_hot_form(size):
    labels, edges = example()
    index = LabelIndex(labels, 4, edges=edges)
    expected = F.interpolate(one_hot(labels, 4, edges), size=size, mode="nearest")
    resized = index.resize(size)
    assert resized.size == size
    assert torch.equal(resized.one_hot(), expected)
    assert index.resize(size) is resized
    assert (resized is index) == (size == index.size)


def neighbourhood(index: LabelIndex, b: int, row: int, column: int, k: int) -> list[int]:
    codes = []
    _, height, width = index.labels.shape
    for r in range(row - k // 2, row + k // 2 + 1):
        for c in range(column - k // 2, column + k // 2 + 1):
            if not (0 <= r < height and 0 <= c < width):
                codes.append(index.num_classes + 1)
                continue
            edge = index.edges is not None and bool(index.edges[b, 0, r, c])
            codes.append(int(index.labels[b, r, c]) + edge * (index.num_classes + 2))
    return codes


@pytest.mark.parametrize("k", [1, 3, 5])
@pytest.mark.parametrize("with_edges", [False, True])
@pytest.mark.parametrize("size", [(1, 1), (2, 7), (6, 8)])
def test_neighbourhoods(size, with_edges, k):
    labels, edges = example(*size, classes=2)
    index = LabelIndex(labels, 2, edges=edges if with_edges else None)
    patches, inverse = index.neighbourhoods(k)
    assert patches.shape[1:] == (k * k,)
    assert inverse.shape == labels.shape
    seen = set()
    for b, row, column in torch.cartesian_prod(*map(torch.arange, labels.shape)).tolist():
        expected = neighbourhood(index, b, row, column, k)
        assert patches[inverse[b, row, column]].tolist() == expected
        seen.add(tuple(expected))
    assert len(patches) == len(seen)  # distinct, and each one occurs
    assert index.neighbourhoods(k)[0] is patches


def test_void_differs_from_outside():
    # A void pixel and the margin both have a zero one-hot column but not the same hidden feature.
    patches, inverse = LabelIndex(torch.tensor([[[0, 255, 0]]]), 1).neighbourhoods(3)
    middle = patches[inverse[0, 0]][:, 3:6].tolist()
    assert middle == [[2, 0, 1], [0, 1, 0], [1, 0, 2]]


def test_uniform_map_has_nine_neighbourhoods():
    patches, _ = LabelIndex(torch.zeros(3, 10, 10).long(), 5).neighbourhoods(3)
    assert len(patches) == 9  # the interior, four sides, four corners


@pytest.mark.parametrize("shape", [(0, 4, 4), (2, 0, 4)])
def test_empty(shape):
    index = LabelIndex(torch.zeros(shape).long(), 3)
    assert index.one_hot().shape == (shape[0], 3, *shape[1:])
    patches, inverse = index.neighbourhoods(5)
    assert patches.shape == (0, 25)
    assert inverse.shape == shape


def test_empty_batch_resizes():
    assert LabelIndex(torch.zeros(0, 4, 4).long(), 3).resize((2, 2)).labels.shape == (0, 2, 2)


def test_non_contiguous():
    labels, edges = example()
    index = LabelIndex(labels.mT.contiguous().mT, 4, edges=edges.mT.contiguous().mT)
    assert torch.equal(index.one_hot(), one_hot(labels, 4, edges))


def test_compiles_to_one_graph():
    labels, edges = example()

    @torch.compile(fullgraph=True, backend="aot_eager")
    def conditioning(labels: Tensor, edges: Tensor) -> Tensor:
        return LabelIndex(labels, 4, edges=edges).resize((3, 4)).one_hot()

    expected = LabelIndex(labels, 4, edges=edges).resize((3, 4)).one_hot()
    assert torch.equal(conditioning(labels, edges), expected)


LABELS = torch.zeros(2, 4, 4).long()


@pytest.mark.parametrize(
    ("error", "words", "call"),
    [
        (TypeError, "labels must be uint8", lambda: LabelIndex(LABELS.float(), 3)),
        (ValueError, "labels must have 3 dimensions", lambda: LabelIndex(LABELS[None], 3)),
        (TypeError, "num_classes must be an int", lambda: LabelIndex(LABELS, 3.0)),
        (ValueError, "num_classes must be at least 1", lambda: LabelIndex(LABELS, 0)),
        (TypeError, "edges must be a torch.Tensor", lambda: LabelIndex(LABELS, 3, edges=[0])),
        (
            ValueError,
            r"edges must have shape \(2, 1, 4, 4\)",
            lambda: LabelIndex(LABELS, 3, edges=LABELS),
        ),
        (
            ValueError,
            "edges must be on the device",
            lambda: LabelIndex(LABELS, 3, edges=LABELS[:, None].to("meta")),
        ),
        (ValueError, r"size\[1\] must be", lambda: LabelIndex(LABELS, 3).resize((2, 0))),
        (TypeError, r"size\[0\] must be", lambda: LabelIndex(LABELS, 3).resize((2.0, 2))),
        (ValueError, "size must be two ints", lambda: LabelIndex(LABELS, 3).resize((2, 2, 2))),
        (TypeError, "size must be two ints", lambda: LabelIndex(LABELS, 3).resize(2)),
        (ValueError, "kernel_size must be odd", lambda: LabelIndex(LABELS, 3).neighbourhoods(2)),
        (ValueError, "at least 1", lambda: LabelIndex(LABELS, 3).neighbourhoods(-1)),
        (TypeError, "kernel_size", lambda: LabelIndex(LABELS, 3).neighbourhoods("3x3")),
        (ValueError, "kernel_size must be odd", lambda: LabelIndex(LABELS, 3).nested(4)),
        (ValueError, "size must be two", lambda: LabelIndex(LABELS, 3).prepare([(1, 2, 3)])),
    ],
)
def test_errors(error, words, call):
    with pytest.raises(error, match=words):
        call()


def nested_windows(patches: Tensor, members: Tensor) -> Tensor:
    """Each neighbourhood as the contents of its patches; -7 for those outside the map."""
    contents = torch.cat([patches, torch.full_like(patches[:1], -7)])
    return contents[members.long()].flatten(1)


@pytest.mark.parametrize("k", [1, 3, 5])
@pytest.mark.parametrize("with_edges", [False, True])
@pytest.mark.parametrize("size", [(1, 1), (2, 7), (6, 8), (9, 40)])
def test_nested_patches(size, with_edges, k):
    labels, edges = example(*size, classes=2)
    labels = labels.repeat_interleave(3, 2)
    edges = edges.repeat_interleave(3, 3)
    index = LabelIndex(labels, 2, edges=edges if with_edges else None)
    places = index.nested(k)
    assert index.nested(k) is places
    assert (places.patches.dtype, places.members.dtype, places.inverse.dtype) == (torch.int32,) * 3
    # What the neighbourhoods of the whole reach tell apart, and nothing else.
    reach, inverse = index.neighbourhoods(2 * k - 1)
    assert len(places.members) == len(reach)
    pairs = torch.stack([places.inverse.flatten(), inverse.flatten()], 1).unique(dim=0)
    assert len(pairs) == len(reach)
    # Each pixel's patches, from the outer neighbourhood and from the inner one.
    patches, inner = index.neighbourhoods(k)
    padded = F.pad(patches[inner.long()], (0, 0, *[k // 2] * 4), value=-7)
    expected = padded.unfold(1, k, 1).unfold(2, k, 1).permute(0, 1, 2, 4, 5, 3).flatten(3)
    found = nested_windows(places.patches, places.members)[places.inverse.long()]
    assert torch.equal(found, expected)


@pytest.mark.parametrize("k", [1, 3, 5])
@pytest.mark.parametrize("classes", [1, 3, 60000])
def test_sorting_and_interning_agree_up_to_the_order(k, classes):
    labels = torch.randint(0, classes, (2, 9, 11), dtype=torch.int32).repeat_interleave(2, 2)
    found = _windows.find(labels, classes + 1, k), _windows.find_nested(labels, classes + 1, k)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(_windows, "_native", lambda codes: False)
        other = _windows.find(labels, classes + 1, k), _windows.find_nested(labels, classes + 1, k)
    for windows, inverse in (found[0], other[0]):
        expected, places = reference_neighbourhoods(labels.long(), classes, None, k)
        assert len(windows) == len(expected)
        assert torch.equal(windows[inverse.long()].long(), expected[places])
    for patches, members, inverse in (found[1], other[1]):
        contents = nested_windows(patches, members)
        assert len(contents.unique(dim=0)) == len(contents) == len(found[1][1])
        assert torch.equal(
            contents[inverse.long()], nested_windows(*found[1][:2])[found[1][2].long()]
        )


def test_many_distinct_neighbourhoods():  # the table grows, and hashes meet
    labels = torch.randint(0, 50, (3, 120, 130))
    patches, inverse = LabelIndex(labels, 50).neighbourhoods(3)
    expected, places = reference_neighbourhoods(labels, 50, None, 3)
    assert len(patches) == len(expected)
    assert torch.equal(patches[inverse.long()].long(), expected[places])


@pytest.mark.skipif(not _library.CPU.loaded, reason="_C is not built")
def test_walk_on_the_cpu():
    row = [0] * 20 + [1, 2, 3] + [4] * 16 + [5] * 15
    inverse = torch.tensor([row, [7] * 54]).int().view(2, 6, 9)
    walk, bounds = _windows.walk(inverse, 8)
    assert walk.tolist() == [[0, 20], [20, -3], [23, 16], [39, -15], [0, 54]]
    assert bounds.tolist() == [0, 4, 5]
    walk, bounds = _windows.walk(inverse[:0], 0)
    assert walk.shape == (0, 2)
    assert bounds.tolist() == [0]
    for wrong, words in ((inverse.long(), "int32"), (inverse[0], r"\[B, H, W\]")):
        with pytest.raises(RuntimeError, match=words):
            torch.ops.ecgan.label_segments(wrong, 16)
    with pytest.raises(RuntimeError, match="odd number up to 255, got 2"):
        torch.ops.ecgan.label_windows(inverse, 0, 2)


def test_walk_by_sorting():
    inverse = torch.tensor([[[1, 0, 1], [2, 0, 1]]]).int()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(_windows, "_on_cpu", lambda tensor: False)
        order, starts = _windows.walk(inverse, 4)
    assert order.tolist() == [1, 4, 0, 2, 5, 3]
    assert starts.tolist() == [0, 2, 5, 6, 6]


def test_prepared_index_travels():
    labels, edges = example(8, 12)
    index = LabelIndex(labels, 4, edges=edges)
    assert index.prepare([(8, 12), (4, 6)], (1, 3)) is index
    index.one_hot()
    there = pickle.loads(pickle.dumps(index))
    assert not there._one_hot
    for copy in (there, index.map(Tensor.clone)):
        for size in ((8, 12), (4, 6)):
            for k in (1, 3):
                ours, theirs = copy.resize(size)._nested[k], index.resize(size).nested(k)
                for field in dataclasses.fields(ours):
                    a, b = (getattr(places, field.name) for places in (ours, theirs))
                    assert (a is b is None) or torch.equal(a, b)
        assert torch.equal(copy.labels, index.labels)
        assert torch.equal(copy.one_hot(), index.one_hot())
    assert index.to("cpu") is index
    meta = LabelIndex(labels, 4).to("meta")
    assert meta.labels.device.type == "meta"


def collate(items: list[Tensor]) -> LabelIndex:
    return LabelIndex(torch.stack(items), 4).prepare([(8, 12), (4, 6)])


def test_a_worker_prepares_it():
    maps = [torch.randint(0, 4, (8, 12)) for _ in range(4)]
    loader = torch.utils.data.DataLoader(maps, batch_size=2, num_workers=1, collate_fn=collate)
    for i, index in enumerate(loader):
        expected = collate(maps[2 * i : 2 * i + 2])
        assert 3 in index.resize((4, 6))._nested
        assert torch.equal(index.nested(3).inverse, expected.nested(3).inverse)
