"""edge_transfer against eager PyTorch and torch.compile: `pytest benchmarks/edge_transfer.py`.

Sizes from 2^18 to 2^24 elements, the largest being a feature map [4, 64, 256, 256]. The floor is
the bytes of two tensors read and one written forward, three and two backward.
"""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch
from ecgan_kernels import edge_transfer, reference
from torch import Tensor

from benchmarks.common import DEVICE, Candidates, Recorder, interleaved, peak_bytes

SHAPES = [(4, 64, 32, 32), (4, 64, 64, 64), (4, 64, 128, 128), (4, 64, 256, 256)]
TENSORS_MOVED = {"forward": 3, "backward": 5, "both": 8}
IMPLEMENTATIONS = ["cpu"] if DEVICE.type == "cpu" else ["cuda", "triton"]
LARGEST = SHAPES[-1]
# Every size and direction in float32; the half types and the content level at the largest.
CASES = [(shape, torch.float32, None, d) for shape in SHAPES for d in TENSORS_MOVED] + [
    (LARGEST, torch.bfloat16, None, "both"),
    (LARGEST, torch.float16, None, "both"),
    (LARGEST, torch.float32, "tanh", "both"),
]

compiled = torch.compile(reference.edge_transfer, dynamic=True)


@pytest.fixture(scope="module")
def recorder() -> Iterator[Recorder]:
    recorder = Recorder("edge_transfer")
    yield recorder
    recorder.write("implementation", "direction", "dtype", "activation")


def make_candidates(
    image: Tensor, edge: Tensor, grad: Tensor, direction: str, activation: str | None
) -> Candidates:
    functions = {"eager": reference.edge_transfer, "torch.compile": compiled}
    for impl in IMPLEMENTATIONS:
        try:
            edge_transfer(image[:1], edge[:1], activation=activation, impl=impl)
        except RuntimeError:  # not built here: the rows say what was measured
            continue
        functions[impl] = lambda *args, impl=impl, **kw: edge_transfer(*args, impl=impl, **kw)

    def candidate(function):
        if direction == "forward":
            with torch.no_grad():
                return (function(image, edge, activation=activation),)
        out = function(image, edge, activation=activation)
        return torch.autograd.grad(out, (image, edge), grad)

    def backward_only(function):
        out = function(image, edge, activation=activation)
        return lambda: torch.autograd.grad(out, (image, edge), grad, retain_graph=True)

    if direction == "backward":
        return {name: backward_only(function) for name, function in functions.items()}
    return {name: lambda f=function: candidate(f) for name, function in functions.items()}


@pytest.mark.parametrize(
    ("shape", "dtype", "activation", "direction"),
    CASES,
    ids=lambda v: "x".join(map(str, v)) if isinstance(v, tuple) else str(v).removeprefix("torch."),
)
def test_edge_transfer(shape, dtype, activation, direction, benchmark, recorder):
    torch.manual_seed(0)
    image, edge, grad = (torch.randn(shape, device=DEVICE).to(dtype) for _ in range(3))
    image.requires_grad_()
    edge.requires_grad_()
    candidates = make_candidates(image, edge, grad, direction, activation)
    ours = next((impl for impl in IMPLEMENTATIONS if impl in candidates), None)
    if ours is None:
        pytest.skip("no compiled implementation is built here")
    times = interleaved(benchmark, candidates, ours)
    peaks = {name: peak_bytes(function) for name, function in candidates.items()}
    want = candidates["eager"]()
    loose = max(1e-5, 4 * torch.finfo(dtype).eps)  # eager rounds after every step
    for name, function in candidates.items():
        for got, expected in zip(function(), want, strict=True):
            torch.testing.assert_close(
                got, expected, rtol=loose, atol=loose, msg=lambda m, n=name: f"{n}: {m}"
            )
    recorder.add(
        times,
        peaks,
        moved=TENSORS_MOVED[direction] * image.nbytes,
        elements=image.numel(),
        shape=list(shape),
        dtype=str(dtype).removeprefix("torch."),
        activation=activation,
        direction=direction,
    )
