"""edge_transfer_lrelu against eager PyTorch, torch.compile and our own edge_transfer.

`pytest benchmarks/edge_transfer_lrelu.py`. Sizes from 2^15 to 2^23 elements, the largest being a
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

from benchmarks import common
from benchmarks.common import DEVICE, DIRECTIONS, Recorder, close, compare, implementations

SIDES = [16, 32, 64, 128, 256]
TENSORS_MOVED = {"forward": 4, "backward": 6, "both": 10}
# Every size and direction in float32; the half types at the largest.
CASES = [(side, torch.float32, d) for side in SIDES for d in DIRECTIONS] + [
    (256, torch.bfloat16, "both"),
    (256, torch.float16, "both"),
]

COMPILED = common.compiled(reference.edge_transfer_lrelu)


def separate(image: Tensor, edge: Tensor) -> tuple[Tensor, Tensor]:
    """What this operator replaces: edge_transfer and two LeakyReLUs."""
    return F.leaky_relu(edge_transfer(image, edge), 0.2), F.leaky_relu(edge, 0.2)


@pytest.fixture(scope="module")
def recorder() -> Iterator[Recorder]:
    recorder = Recorder("edge_transfer_lrelu")
    yield recorder
    recorder.write()


def kept_bytes(function) -> list[int]:
    """Bytes kept for the backward pass: all, and those that are not a result's."""
    kept: dict[int, int] = {}

    def pack(x: Tensor) -> Tensor:
        kept[x.data_ptr()] = x.nbytes
        return x

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda x: x):
        outs = function()
    results = {x.data_ptr() for x in outs}
    return [sum(kept.values()), sum(n for at, n in kept.items() if at not in results)]


@pytest.mark.parametrize(("side", "dtype", "direction"), common.sweep(CASES))
def test_edge_transfer_lrelu(side, dtype, direction, benchmark, recorder):
    torch.manual_seed(0)
    operands = [torch.randn(4, 32, side, side, device=DEVICE).to(dtype) for _ in range(4)]
    inputs, grads = [x.requires_grad_() for x in operands[:2]], operands[2:]
    known = implementations(lambda impl: edge_transfer_lrelu(*(x[:1] for x in inputs), impl=impl))
    functions = {
        "eager": lambda: reference.edge_transfer_lrelu(*inputs),
        "edge_transfer": lambda: separate(*inputs),
    }
    if COMPILED:
        functions["torch.compile"] = lambda: COMPILED(*inputs)
    for impl in known:
        functions[impl] = lambda impl=impl: edge_transfer_lrelu(*inputs, impl=impl)
    loose = max(1e-5, 8 * torch.finfo(dtype).eps)  # eager rounds after every step
    compare(
        benchmark,
        recorder,
        functions,
        inputs,
        grads,
        ours=known[0],
        elements=inputs[0].numel(),
        floor=TENSORS_MOVED[direction] * inputs[0].nbytes / recorder.bandwidth,
        direction=direction,
        case={"dtype": str(dtype).removeprefix("torch.")},
        notes={
            "shape": list(inputs[0].shape),
            "bytes kept, and beside results": {n: kept_bytes(f) for n, f in functions.items()},
        },
        check=close(loose, loose),
    )
