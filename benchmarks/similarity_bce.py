"""similarity_bce against eager, torch.compile, KeOps: `pytest benchmarks/similarity_bce.py`.

Loss and gradient of one image of M pixels and N = 35 classes, float32. The floor is that of
operations: the Gram product over half of the pairs and the product for the gradient over all, at
the rate of a 2048 x 2048 matrix product in the same run. Eager needs M x M matrices, so the largest
sizes run fused alone; KeOps (`pip install pykeops`) joins at one size where it is installed. Ours
computes the gradient with the loss, so "backward" is a product with a number.
"""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch
from ecgan_kernels import reference, similarity_bce
from torch import Tensor

from benchmarks import common
from benchmarks.common import DEVICE, Recorder, compare, implementations, sweep

try:
    from pykeops.torch import LazyTensor
except ImportError:
    LazyTensor = None

CLASSES = 35
EAGER_SIZES = [512, 1024, 2048, 4096, 8192]
KEOPS_SIZE = 4096  # a minute a step on two cores at twice that
FUSED_SIZES = [16384, 32768, 131072]  # the last is 256 x 512 at full resolution
# Operations over pairs x classes: loss alone uses symmetry, and the gradient needs all pairs.
PRODUCTS = {"forward": 1, "backward": 2, "both": 3}


@pytest.fixture(scope="module")
def recorder() -> Iterator[Recorder]:
    recorder = Recorder("similarity_bce")
    yield recorder
    recorder.write()


def eager(probs: Tensor, labels: Tensor, eps: float = 1e-6) -> Tensor:
    """As one would write it: whole M x M matrices, a gradient cut below eps."""
    s, flat = probs[0], labels[0]
    p = s.t() @ s
    return -torch.where(flat[:, None] == flat, p, 1 - p).clamp(min=eps).log().mean()


COMPILED = common.compiled(eager)


def keops(probs: Tensor, labels: Tensor, eps: float = 1e-6) -> Tensor:
    s = probs[0].t().contiguous()
    flat = labels.reshape(-1, 1).to(s.dtype)
    p = (LazyTensor(s[:, None]) * LazyTensor(s[None])).sum(-1)
    differ = (LazyTensor(flat[:, None]) - LazyTensor(flat[None])).abs().sign()
    x = p + differ * (1 - 2 * p)
    return -(x.clamp(eps, 2.0)).log().sum(1).sum() / len(s) ** 2


def check(direction):
    def compare_results(name, found, want):
        # Eager's and KeOps' gradients are cut below eps: the losses alone are compared.
        theirs = name in ("eager", "torch.compile", "keops")
        count = 0 if direction == "backward" and theirs else 1 if theirs else len(want)
        for got, expected in zip(found[:count], want[:count], strict=True):
            torch.testing.assert_close(
                got, expected, rtol=1e-4, atol=1e-5, msg=lambda m: f"{name}: {m}"
            )

    return compare_results


CASES = [
    *[(pixels, "both") for pixels in EAGER_SIZES + FUSED_SIZES],
    (EAGER_SIZES[-1], "forward"),
    (EAGER_SIZES[-1], "backward"),
]


@pytest.mark.timeout(1800)
@pytest.mark.parametrize(("pixels", "direction"), sweep(CASES))
def test_similarity_bce(pixels, direction, benchmark, recorder):
    torch.manual_seed(0)
    probs = (3 * torch.randn(1, CLASSES, pixels, device=DEVICE)).softmax(1).requires_grad_()
    labels = torch.randint(0, CLASSES, (1, pixels), device=DEVICE)
    known = implementations(lambda i: similarity_bce(probs[..., :1], labels[..., :1], impl=i))
    functions = {}
    if pixels <= EAGER_SIZES[-1]:
        functions["eager"] = lambda: eager(probs, labels)
        # By blocks of rows, which stay in cache.
        functions["reference"] = lambda: reference.similarity_bce(probs, labels)
        if COMPILED:
            functions["torch.compile"] = lambda: COMPILED(probs, labels)
        if LazyTensor is not None and pixels == KEOPS_SIZE:
            functions["keops"] = lambda: keops(probs, labels)
    for impl in known:
        functions[impl] = lambda impl=impl: similarity_bce(probs, labels, impl=impl)
    compare(
        benchmark,
        recorder,
        functions,
        (probs,),
        None,
        ours=known[0],
        elements=pixels,
        floor=PRODUCTS[direction] * pixels**2 * CLASSES / recorder.matmul_rate,
        direction=direction,
        case={"classes": CLASSES},
        notes={"input_bytes": probs.nbytes},
        check=check(direction),
        oracle="reference" if "reference" in functions else known[0],
    )
