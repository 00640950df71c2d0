"""The pictures of what operators fuse say what PyTorch does: bytes written, bytes kept."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path

import ecgan_kernels
import pytest
import torch
import torch.nn.functional as F
from ecgan_kernels.nn import LabelSPADE
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_map_only

from benchmarks.layouts import coco_stuff

DOCS = Path(__file__).parents[2] / "docs"

pytestmark = pytest.mark.skipif(not DOCS.is_dir(), reason="needs the source tree")


@pytest.fixture(scope="module")
def fusion():
    sys.path.insert(0, str(DOCS / "_ext"))
    yield importlib.import_module("fusion")
    sys.path.remove(str(DOCS / "_ext"))


def edge_transfer(x: Tensor, e: Tensor) -> Tensor:
    return x * (1 + torch.sigmoid(e))


def edge_transfer_lrelu(x: Tensor, e: Tensor) -> tuple[Tensor, Tensor]:
    return F.leaky_relu(edge_transfer(x, e), 0.2), F.leaky_relu(e, 0.2)


def similarity_bce(s: Tensor, labels: Tensor) -> Tensor:
    p = s.t() @ s
    same = labels[:, None] == labels
    return torch.where(same, p, 1 - p).clamp(min=1e-6).log().mean()


def pixel_contrast(z: Tensor, labels: Tensor) -> Tensor:
    s = z @ z.t() / 0.07
    same = labels[:, None] == labels
    positive = same & ~torch.eye(len(z), dtype=torch.bool, device=z.device)
    negatives = s.masked_fill(same, -torch.inf).logsumexp(1, keepdim=True)
    return (F.softplus(negatives - s) * positive).sum(1)


def one_hot(labels: Tensor, classes: int) -> Tensor:
    batch, height, width = labels.shape
    return labels.new_zeros(batch, classes, height, width, dtype=torch.float32).scatter_(
        1, labels[:, None], 1.0
    )


def label_conv2d(labels: Tensor, weight: Tensor) -> Tensor:
    return F.conv2d(one_hot(labels, weight.shape[1]), weight, padding=1)


def label_spade(x: Tensor, labels: Tensor) -> Tensor:
    shared = torch.zeros(128, 183, 3, 3, requires_grad=True)
    gamma, beta = (torch.zeros(64, 128, 3, 3, requires_grad=True) for _ in range(2))
    hidden = F.conv2d(one_hot(labels, 183), shared, padding=1).relu()
    gamma, beta = (F.conv2d(hidden, weight, padding=1) for weight in (gamma, beta))
    return F.leaky_relu(F.instance_norm(x) * (1 + gamma) + beta, 0.2)


def class_conv2d(x: Tensor, labels: Tensor) -> Tensor:
    weight = torch.zeros(32, 64, 3, 3, requires_grad=True)
    total: Tensor | None = None
    for index in range(35):
        mask = (labels == index)[None]
        part = F.conv2d(x * mask, weight, padding=1) * mask
        total = part if total is None else total + part
    assert total is not None
    return total


EAGER: dict[str, Callable[..., Tensor | tuple[Tensor, ...]]] = {
    function.__name__: function
    for function in (
        edge_transfer,
        edge_transfer_lrelu,
        similarity_bce,
        pixel_contrast,
        label_conv2d,
        label_spade,
        class_conv2d,
    )
}


class Written(TorchDispatchMode):
    """The storages that operators bring into being, views of the inputs left out."""

    def __init__(self, inputs: list[Tensor]) -> None:
        super().__init__()
        self.inputs = {tensor.untyped_storage()._cdata for tensor in inputs}
        self.seen: dict[int, torch.UntypedStorage] = {}

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        result = func(*args, **(kwargs or {}))
        tree_map_only(Tensor, self.see, result)
        return result

    def see(self, tensor: Tensor) -> None:
        storage = tensor.untyped_storage()
        if storage._cdata not in self.inputs:
            self.seen[storage._cdata] = storage  # alive, so that no address comes twice

    def bytes(self) -> int:
        return sum(storage.nbytes() for storage in self.seen.values())


def tensors(lane) -> list[Tensor]:
    """The inputs of a lane."""
    return [
        torch.zeros(box.shape, dtype=torch.int64)
        if box.item == 8
        else torch.zeros(box.shape, requires_grad=True)
        for box in lane.inputs
    ]


@pytest.mark.parametrize("name", EAGER)
def test_eager_writes_and_keeps_what_the_picture_says(name, fusion):
    lane = fusion.PICTURES[name].eager
    kept: dict[int, torch.UntypedStorage] = {}

    def keep(tensor: Tensor) -> Tensor:
        kept[tensor.untyped_storage()._cdata] = tensor.untyped_storage()
        return tensor

    with FakeTensorMode():
        inputs = tensors(lane)
        hooks = torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor)
        with hooks, Written(inputs) as written:
            results = EAGER[name](*inputs)
        made = written.seen.keys() & kept.keys()
        results = results if isinstance(results, tuple) else (results,)
        # What a result keeps of itself is no cost; small vectors and weights are not drawn.
        made -= {result.untyped_storage()._cdata for result in results}
        assert [tuple(r.shape) for r in results] == [box.shape for box in lane.results]
        assert sum(kept[key].nbytes() for key in made) == pytest.approx(lane.kept, rel=0.01)
        assert written.bytes() == pytest.approx(lane.bytes, rel=0.01)


OURS: dict[str, Callable[..., Tensor | tuple[Tensor, ...]]] = {
    "edge_transfer": ecgan_kernels.edge_transfer,
    "edge_transfer_lrelu": ecgan_kernels.edge_transfer_lrelu,
    "similarity_bce": lambda s, labels: ecgan_kernels.similarity_bce(s[None], labels[None]),
    "pixel_contrast": partial(ecgan_kernels.pixel_contrast, normalize=False, reduction="none"),
    "label_conv2d": partial(ecgan_kernels.label_conv2d, padding=1),
    "class_conv2d": lambda x, labels: ecgan_kernels.class_conv2d(
        x[None], labels[None], torch.zeros(32, 64, 3, 3, requires_grad=True)
    ),
}


@pytest.mark.skipif(not ecgan_kernels.libraries()[0].loaded, reason="needs the CPU library")
@pytest.mark.parametrize("name", OURS)
def test_the_operator_writes_what_the_picture_says(name, fusion):
    lane = fusion.PICTURES[name].ours
    with FakeTensorMode():
        inputs = tensors(lane)
        with Written(inputs) as written:
            OURS[name](*inputs)
        # Weights, counts and sums of single rows are not drawn.
        assert written.bytes() == pytest.approx(lane.bytes, rel=0.1)


def test_label_spade_writes_what_the_picture_says(fusion):
    labels, origin = coco_stuff(256, 4, 183)
    if origin != "coco_stuff":
        pytest.skip("needs COCO-Stuff's layouts: set ECGAN_TEST_DATA")
    picture = fusion.PICTURES["label_spade"]
    x = torch.zeros(4, 64, 256, 256, requires_grad=True)
    index = ecgan_kernels.LabelIndex(labels, 183)
    places = index.nested(3)
    assert [len(places.members), len(places.patches)] == [
        picture.ours.results[1].shape[1],
        picture.ours.results[2].shape[0],
    ]
    layer = LabelSPADE(64, 183, 128, norm="instance", negative_slope=0.2)
    with Written([x, *layer.parameters()]) as written:
        layer(x, index)
    assert f"writes {written.bytes() / 2**20:.0f} MiB" in picture.ours.note
    assert f"keeps {fusion.binary(picture.ours.kept)}" in picture.ours.note


def test_pictures_are_those_of_the_script(fusion):
    for name, picture in fusion.PICTURES.items():
        committed = (DOCS / "operators" / f"{name}.svg").read_text(encoding="utf-8")
        assert committed == fusion.svg(picture), f"run python docs/_ext/fusion.py: {name}"


def test_every_operator_has_a_page_with_its_picture(fusion):
    pages = {path.stem: path.read_text(encoding="utf-8") for path in DOCS.glob("operators/*.md")}
    assert set(fusion.PICTURES) | {"index"} == set(pages)
    for name in fusion.PICTURES:
        assert f"({name}.svg)" in pages[name]
    documented = "\n".join(pages.values())
    helpers = {"Library", "OperatorInfo", "cpu_isa", "libraries", "nn", "reference"}
    for public in set(ecgan_kernels.__all__) - helpers:
        assert f":: ecgan_kernels.{public}\n" in documented, public
