"""edge_transfer against eager PyTorch and torch.compile: `pytest benchmarks/edge_transfer.py`.

Sizes from 2^16 to 2^24 elements, the largest being a feature map [4, 64, 256, 256]. The floor is
the bytes of two tensors read and one written forward, three and two backward.
"""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch
from ecgan_kernels import edge_transfer, reference

from benchmarks import common
from benchmarks.common import DEVICE, DIRECTIONS, Recorder, close, compare, implementations

SIDES = [16, 32, 64, 128, 256]
TENSORS_MOVED = {"forward": 3, "backward": 5, "both": 8}
# Every size and direction in float32; the half types and the content level at the largest.
CASES = [(side, torch.float32, None, d) for side in SIDES for d in DIRECTIONS] + [
    (256, torch.bfloat16, None, "both"),
    (256, torch.float16, None, "both"),
    (256, torch.float32, "tanh", "both"),
]
COMPILED = common.compiled(reference.edge_transfer)


@pytest.fixture(scope="module")
def recorder() -> Iterator[Recorder]:
    recorder = Recorder("edge_transfer")
    yield recorder
    recorder.write()


@pytest.mark.parametrize(("side", "dtype", "activation", "direction"), common.sweep(CASES))
def test_edge_transfer(side, dtype, activation, direction, benchmark, recorder):
    torch.manual_seed(0)
    image, edge, grad = (torch.randn(4, 64, side, side, device=DEVICE).to(dtype) for _ in range(3))
    inputs = image.requires_grad_(), edge.requires_grad_()
    known = implementations(lambda impl: edge_transfer(image[:1], edge[:1], impl=impl))
    functions = {"eager": lambda: reference.edge_transfer(*inputs, activation=activation)}
    if COMPILED:
        functions["torch.compile"] = lambda: COMPILED(*inputs, activation=activation)
    for impl in known:
        functions[impl] = lambda i=impl: edge_transfer(*inputs, activation=activation, impl=i)
    loose = max(1e-5, 4 * torch.finfo(dtype).eps)  # eager rounds after every step
    compare(
        benchmark,
        recorder,
        functions,
        inputs,
        (grad,),
        ours=known[0],
        elements=image.numel(),
        floor=TENSORS_MOVED[direction] * image.nbytes / recorder.bandwidth,
        direction=direction,
        case={"dtype": str(dtype).removeprefix("torch."), "activation": activation},
        notes={"shape": list(image.shape)},
        check=close(loose, loose),
    )
