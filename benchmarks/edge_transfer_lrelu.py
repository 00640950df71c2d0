"""edge_transfer_lrelu against eager PyTorch, torch.compile and our own edge_transfer.

`pytest benchmarks/edge_transfer_lrelu.py`. Sizes from 2^17 to 2^23 elements, the largest being a
feature map [4, 32, 256, 256]. The floor is the bytes of two tensors read and two written forward,
four and two backward. A row also has the bytes kept for the backward pass, and those of them that
the two next convolutions do not keep anyway, which is all but the results.
"""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch
from ecgan_kernels import edge_transfer, edge_transfer_lrelu, reference
from torch import Tensor
from torch.nn import functional as F

from benchmarks.common import DEVICE, Candidates, Recorder, interleaved, peak_bytes

SHAPES = [(4, 32, 32, 32), (4, 32, 64, 64), (4, 32, 128, 128), (4, 32, 256, 256)]
TENSORS_MOVED = {"forward": 4, "backward": 6, "both": 10}
IMPLEMENTATIONS = ["cpu"] if DEVICE.type == "cpu" else ["cuda", "triton"]
LARGEST = SHAPES[-1]
# Every size and direction in float32; the half types at the largest.
CASES = [(shape, torch.float32, d) for shape in SHAPES for d in TENSORS_MOVED] + [
    (LARGEST, torch.bfloat16, "both"),
    (LARGEST, torch.float16, "both"),
]

torch._functorch.config.donated_buffer = False  # or no backward pass could be timed by itself
compiled = torch.compile(reference.edge_transfer_lrelu, dynamic=True)


def separate(image: Tensor, edge: Tensor) -> tuple[Tensor, Tensor]:
    """What this operator replaces: edge_transfer and two LeakyReLUs."""
    return F.leaky_relu(edge_transfer(image, edge), 0.2), F.leaky_relu(edge, 0.2)


@pytest.fixture(scope="module")
def recorder() -> Iterator[Recorder]:
    recorder = Recorder("edge_transfer_lrelu")
    yield recorder
    recorder.write("implementation", "direction", "dtype")


def make_functions(image: Tensor, edge: Tensor) -> Candidates:
    functions = {
        "eager": reference.edge_transfer_lrelu,
        "torch.compile": compiled,
        "edge_transfer": separate,
    }
    for impl in IMPLEMENTATIONS:
        try:
            edge_transfer_lrelu(image[:1], edge[:1], impl=impl)
        except RuntimeError:  # not built here: the rows say what was measured
            continue
        functions[impl] = lambda *args, impl=impl: edge_transfer_lrelu(*args, impl=impl)
    return {name: lambda f=function: f(image, edge) for name, function in functions.items()}


def make_candidate(function, inputs, grads, direction):
    if direction == "forward":

        def forward():
            with torch.no_grad():
                return function()

        return forward
    if direction == "both":
        return lambda: torch.autograd.grad(function(), inputs, grads)
    outs = function()
    return lambda: torch.autograd.grad(outs, inputs, grads, retain_graph=True)


def kept_bytes(function) -> tuple[int, int]:
    """Bytes kept for the backward pass: all, and those that are not a result's."""
    kept: dict[int, int] = {}

    def pack(x: Tensor) -> Tensor:
        kept[x.data_ptr()] = x.nbytes
        return x

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda x: x):
        outs = function()
    results = {x.data_ptr() for x in outs}
    return sum(kept.values()), sum(n for at, n in kept.items() if at not in results)


@pytest.mark.parametrize(
    ("shape", "dtype", "direction"),
    CASES,
    ids=lambda v: "x".join(map(str, v)) if isinstance(v, tuple) else str(v).removeprefix("torch."),
)
def test_edge_transfer_lrelu(shape, dtype, direction, benchmark, recorder):
    torch.manual_seed(0)
    operands = [torch.randn(shape, device=DEVICE).to(dtype) for _ in range(4)]
    inputs, grads = [x.requires_grad_() for x in operands[:2]], operands[2:]
    functions = make_functions(*inputs)
    ours = next((impl for impl in IMPLEMENTATIONS if impl in functions), None)
    if ours is None:
        pytest.skip("no compiled implementation is built here")
    candidates = {
        name: make_candidate(function, inputs, grads, direction)
        for name, function in functions.items()
    }
    times = interleaved(benchmark, candidates, ours)
    peaks = {name: peak_bytes(function) for name, function in candidates.items()}
    want = candidates["eager"]()
    loose = max(1e-5, 8 * torch.finfo(dtype).eps)  # eager rounds after every step
    for name, function in candidates.items():
        for got, expected in zip(function(), want, strict=True):
            torch.testing.assert_close(
                got, expected, rtol=loose, atol=loose, msg=lambda m, n=name: f"{n}: {m}"
            )
    recorder.add(
        times,
        peaks,
        moved=TENSORS_MOVED[direction] * inputs[0].nbytes,
        elements=inputs[0].numel(),
        shape=list(shape),
        dtype=str(dtype).removeprefix("torch."),
        direction=direction,
    )
    kept = {name: kept_bytes(function) for name, function in functions.items()}
    for row in recorder.rows[-len(times) :]:
        row["kept_bytes"], row["kept_bytes_beside_results"] = kept[row["implementation"]]
