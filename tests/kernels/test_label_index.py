"""LabelIndex: one-hot form, nearest resizing and distinct neighbourhoods, against plain loops."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from ecgan_kernels.label_index import LabelIndex
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
    ],
)
def test_errors(error, words, call):
    with pytest.raises(error, match=words):
        call()
