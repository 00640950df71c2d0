"""pixel_contrast against eager, torch.compile, KeOps: `pytest benchmarks/pixel_contrast.py`.

Loss and gradient of P anchors of D = 64 numbers and 20 classes in float32, which are the contrast
set too. The floor is that of operations: the Gram product over half of the pairs twice and the
product for the gradient over all, at the rate of a 2048 x 2048 matrix product in the same run.
KeOps (`pip install pykeops`) joins at one size where it is installed. Ours computes the gradient
with the loss, so "backward" is a product with a number.
"""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch
import torch.nn.functional as F
from ecgan_kernels import pixel_contrast, reference
from torch import Tensor

from benchmarks import common
from benchmarks.common import DEVICE, Recorder, close, compare, implementations, sweep

try:
    from pykeops.torch import LazyTensor
except ImportError:
    LazyTensor = None

DIM, CLASSES = 64, 20
EAGER_SIZES = [512, 1024, 2048, 4096, 8192]
KEOPS_SIZE = 2048
FUSED_SIZES = [16384, 32768]
CASES = [
    *[(anchors, 0.07, "both") for anchors in EAGER_SIZES + FUSED_SIZES],
    (EAGER_SIZES[-1], 0.07, "forward"),
    (EAGER_SIZES[-1], 0.07, "backward"),
    (EAGER_SIZES[-1], 0.01, "both"),
]
# Operations over pairs x D.
PRODUCTS = {"forward": 2, "backward": 2, "both": 4}


@pytest.fixture(scope="module")
def recorder() -> Iterator[Recorder]:
    recorder = Recorder("pixel_contrast")
    yield recorder
    recorder.write()


def eager(z: Tensor, labels: Tensor, temperature: float) -> Tensor:
    """As one would write it: whole P x P matrices."""
    z = F.normalize(z, dim=1)
    s = z @ z.t() / temperature
    same = labels[:, None] == labels
    positive = same & ~torch.eye(len(z), dtype=torch.bool, device=z.device)
    negatives = s.masked_fill(same, -torch.inf).logsumexp(1, keepdim=True)
    terms = F.softplus(negatives - s) * positive
    return (terms.sum(1) / positive.sum(1)).mean()


COMPILED = common.compiled(eager)


def keops(z: Tensor, labels: Tensor, temperature: float) -> Tensor:
    z = F.normalize(z, dim=1)
    flat = labels.reshape(-1, 1).to(z.dtype)
    s = (LazyTensor(z[:, None]) * LazyTensor(z[None])).sum(-1) / temperature
    differ = (LazyTensor(flat[:, None]) - LazyTensor(flat[None])).abs().sign()
    negatives = (s - 1e4 * (1 - differ)).logsumexp(1)
    x = LazyTensor(negatives[:, None]) - s
    softplus = x.relu() + (1 + (-x.abs()).exp()).log()
    # Each anchor is its own class too, and no positive of itself.
    own = F.softplus(negatives[:, 0] - (z * z).sum(1) / temperature)
    count = torch.bincount(labels)[labels] - 1
    return (((softplus * (1 - differ)).sum(1)[:, 0] - own) / count).mean()


@pytest.mark.timeout(1800)
@pytest.mark.parametrize(("anchors", "temperature", "direction"), sweep(CASES))
def test_pixel_contrast(anchors, temperature, direction, benchmark, recorder):
    torch.manual_seed(0)
    embeddings = torch.randn(anchors, DIM, device=DEVICE, requires_grad=True)
    labels = torch.randint(0, CLASSES, (anchors,), device=DEVICE)
    options = {"temperature": temperature}
    known = implementations(lambda i: pixel_contrast(embeddings[:2], labels[:2], impl=i))
    functions = {}
    if anchors <= EAGER_SIZES[-1]:
        functions["eager"] = lambda: eager(embeddings, labels, temperature)
        # By blocks of rows, which stay in cache.
        functions["reference"] = lambda: reference.pixel_contrast(embeddings, labels, **options)
        # Inductor's backward gives another result when it runs over one graph again.
        if COMPILED and direction != "backward":
            functions["torch.compile"] = lambda: COMPILED(embeddings, labels, temperature)
        if LazyTensor is not None and anchors == KEOPS_SIZE:
            functions["keops"] = lambda: keops(embeddings, labels, temperature)
    for impl in known:
        functions[impl] = lambda i=impl: pixel_contrast(embeddings, labels, impl=i, **options)
    compare(
        benchmark,
        recorder,
        functions,
        (embeddings,),
        None,
        ours=known[0],
        elements=anchors,
        floor=PRODUCTS[direction] * anchors**2 * DIM / recorder.matmul_rate,
        direction=direction,
        case={"dim": DIM, "temperature": temperature},
        notes={"input_bytes": embeddings.nbytes},
        check=close(1e-4, 1e-6),
        oracle="reference" if "reference" in functions else known[0],
    )
