"""docs/drop-in.md: every recipe runs as it stands, and `after` computes what `before` does."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch
from ecgan_kernels import LabelIndex, _library
from torch import Tensor, nn
from torch.profiler import ProfilerActivity, profile

PAGE = Path(__file__).parents[2] / "docs" / "drop-in.md"
SECTIONS = re.split(r"^## ", PAGE.read_text(), flags=re.MULTILINE)[1:] if PAGE.is_file() else []
RECIPES = {
    section.splitlines()[0]: re.findall(r"^```python\n(.*?)^```", section, re.DOTALL | re.MULTILINE)
    for section in SECTIONS
}
FUSED = {
    "SPADE layers": ("label_spade", "label_conv2d"),
    "Two branches": ("edge_transfer", "edge_transfer_lrelu"),
    "Segmentation consistency": ("similarity_bce",),
    "Pixel embeddings": ("pixel_contrast",),
    "Class-specific decoder": ("class_conv2d",),
    "First layer of a discriminator": ("label_conv2d",),
}

pytestmark = pytest.mark.skipif(not PAGE.is_file(), reason="needs the source tree")


def run_recipe(name: str) -> dict:
    """The namespace that the blocks of one recipe leave behind, run in their order."""
    torch.manual_seed(0)
    namespace: dict = {"__name__": "drop_in"}
    for block in RECIPES[name]:
        exec(compile(block, f"{PAGE.name}, {name}", "exec"), namespace)
    return namespace


@pytest.fixture(params=FUSED)
def recipe(request: pytest.FixtureRequest) -> tuple[str, dict]:
    return request.param, run_recipe(request.param)


def leaves(namespace: dict, side: str) -> Iterator[tuple[str, Tensor]]:
    """What `before` ("eager") or `after` ("ours") differentiates: parameters and inputs."""
    for name, value in namespace.items():
        if isinstance(value, nn.Module) and name in (side, "conv"):
            yield from value.named_parameters()
        elif isinstance(value, Tensor) and value.is_leaf and value.requires_grad:
            yield name, value


def evaluate(namespace: dict, side: str, function: Callable[[], Tensor]) -> dict[str, Tensor]:
    """The result, and the gradient of every leaf."""
    found = dict(leaves(namespace, side))
    assert found
    out = function()
    generator = torch.Generator().manual_seed(1)
    weight = torch.randn(out.shape, generator=generator).to(out.dtype)
    grads = torch.autograd.grad(out, list(found.values()), weight)
    return {"the result": out.detach(), **dict(zip(found, grads, strict=True))}


def errors(actual: dict[str, Tensor], expected: dict[str, Tensor]) -> dict[str, float]:
    """Of each tensor the largest error, as a part of its largest value, or of 1 if that is less."""
    assert actual.keys() == expected.keys()
    return {
        name: ((actual[name].float() - wanted).abs().max() / wanted.abs().max().clamp(min=1)).item()
        for name, wanted in expected.items()
    }


def assert_alike(actual: dict[str, Tensor], expected: dict[str, Tensor]) -> None:
    for name, error in errors(actual, expected).items():
        assert error <= 1e-4, name


def test_every_recipe_of_the_page_is_tested():
    assert set(RECIPES) == set(FUSED)
    assert all(RECIPES.values())


def test_after_equals_before(recipe):
    name, namespace = recipe
    expected = evaluate(namespace, "eager", namespace["before"])
    with profile(activities=[ProfilerActivity.CPU]) as record:
        actual = evaluate(namespace, "ours", namespace["after"])
    assert_alike(actual, expected)
    if _library.CPU.loaded:
        ran = {event.key for event in record.key_averages()}
        assert {f"ecgan::{op}" for op in FUSED[name]} <= ran


def test_in_one_graph(recipe):
    """With the backend that only traces: the kernels are not inductor's, its compiler is slow."""
    _, namespace = recipe
    torch.compiler.reset()
    compiled = torch.compile(namespace["after"], fullgraph=True, backend="aot_eager")
    assert_alike(
        evaluate(namespace, "ours", compiled), evaluate(namespace, "eager", namespace["before"])
    )


def test_under_autocast(recipe):
    _, namespace = recipe
    expected = evaluate(namespace, "eager", namespace["before"])
    with torch.autocast("cpu", dtype=torch.bfloat16):
        eager = evaluate(namespace, "eager", namespace["before"])
        ours = evaluate(namespace, "ours", namespace["after"])
    eager_errors = errors(eager, expected)
    for name, error in errors(ours, expected).items():
        assert error <= max(0.05, 2 * eager_errors[name]), name


def train_half(rank: int, folder: str) -> None:
    """One of two processes: the gradients that its DistributedDataParallel leaves."""
    torch.set_num_threads(1)
    store = torch.distributed.FileStore(f"{folder}/store", 2)
    torch.distributed.init_process_group("gloo", store=store, rank=rank, world_size=2)
    namespace = run_recipe("SPADE layers")
    network = nn.parallel.DistributedDataParallel(namespace["ours"])
    index = LabelIndex(namespace["labels"][rank : rank + 1], namespace["classes"])
    network(index).square().sum().backward()
    grads = {name: p.grad for name, p in namespace["ours"].named_parameters()}
    torch.save(grads, f"{folder}/{rank}.pt")
    torch.distributed.destroy_process_group()


def test_two_processes(tmp_path):
    torch.multiprocessing.spawn(train_half, (str(tmp_path),), nprocs=2)
    namespace = run_recipe("SPADE layers")
    eager: nn.Module = namespace["eager"]
    for half in namespace["segmap"].split(1):
        (eager(half).square().sum() / 2).backward()  # the mean over processes
    expected = {name: p.grad for name, p in eager.named_parameters()}
    for rank in range(2):
        assert_alike(torch.load(tmp_path / f"{rank}.pt"), expected)
