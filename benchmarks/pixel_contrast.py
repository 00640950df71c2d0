"""pixel_contrast against eager and torch.compile: `pytest benchmarks/pixel_contrast.py`.

Loss and gradient of P anchors of D = 64 numbers and 20 classes in float32, which are the contrast
set too. The floor is that of operations: the Gram product over half of the pairs twice and the
product for the gradient over all, at the rate of a 2048 x 2048 matrix product in the same run.
"""

from __future__ import annotations

import statistics
from collections.abc import Iterator

import pytest
import torch
import torch.nn.functional as F
from ecgan_kernels import pixel_contrast, reference
from torch import Tensor

from benchmarks.common import DEVICE, Candidates, Recorder, interleaved, peak_bytes, seconds

DIM, CLASSES = 64, 20
EAGER_SIZES = [1024, 2048, 4096, 8192]
FUSED_SIZES = [16384, 32768]
IMPLEMENTATIONS = ["cpu"] if DEVICE.type == "cpu" else ["cuda", "triton"]


def matmul_rate() -> float:
    """Floating-point operations a second of a float32 matrix product."""
    a, b = (torch.randn(2048, 2048, device=DEVICE) for _ in range(2))
    times = [seconds(lambda: a @ b) for _ in range(9)]
    return 2 * 2048**3 / statistics.median(times[2:])


@pytest.fixture(scope="module")
def recorder() -> Iterator[Recorder]:
    recorder = Recorder("pixel_contrast")
    recorder.matmul_rate = matmul_rate()
    yield recorder
    recorder.write("implementation", "temperature")


def floor_seconds(recorder: Recorder, anchors: int) -> float:
    return 4 * anchors**2 * DIM / recorder.matmul_rate


def eager(z: Tensor, labels: Tensor, temperature: float) -> Tensor:
    """As one would write it: whole P x P matrices."""
    z = F.normalize(z, dim=1)
    s = z @ z.t() / temperature
    same = labels[:, None] == labels
    positive = same & ~torch.eye(len(z), dtype=torch.bool, device=z.device)
    negatives = s.masked_fill(same, -torch.inf).logsumexp(1, keepdim=True)
    terms = F.softplus(negatives - s) * positive
    return (terms.sum(1) / positive.sum(1)).mean()


compiled = torch.compile(eager, dynamic=True)


def make_candidates(anchors: int, temperature: float) -> tuple[Candidates, int]:
    torch.manual_seed(0)
    embeddings = torch.randn(anchors, DIM, device=DEVICE, requires_grad=True)
    labels = torch.randint(0, CLASSES, (anchors,), device=DEVICE)
    functions = {}
    if anchors <= EAGER_SIZES[-1]:
        functions = {
            "eager": eager,
            "reference": reference.pixel_contrast,  # by blocks of rows, which stay in cache
            "torch.compile": compiled,
        }
    for impl in IMPLEMENTATIONS:
        try:
            pixel_contrast(embeddings[:2], labels[:2], impl=impl)
        except RuntimeError:  # not built here: the rows say what was measured
            continue
        functions[impl] = lambda *args, impl=impl, **kw: pixel_contrast(*args, impl=impl, **kw)

    def step(function):
        loss = function(embeddings, labels, temperature=temperature)
        return loss.detach(), *torch.autograd.grad(loss, embeddings)

    candidates = {name: lambda f=function: step(f) for name, function in functions.items()}
    return candidates, embeddings.nbytes


def first_fused(candidates: Candidates) -> str:
    ours = next((impl for impl in IMPLEMENTATIONS if impl in candidates), None)
    if ours is None:
        pytest.skip("no compiled implementation is built here")
    return ours


@pytest.mark.timeout(1800)
@pytest.mark.parametrize(
    ("anchors", "temperature"), [*((n, 0.07) for n in EAGER_SIZES), (EAGER_SIZES[-1], 0.01)]
)
def test_against_eager(anchors, temperature, benchmark, recorder):
    candidates, input_bytes = make_candidates(anchors, temperature)
    ours = first_fused(candidates)
    times = interleaved(benchmark, candidates, ours)
    peaks = {name: peak_bytes(function) for name, function in candidates.items()}
    want = candidates["reference"]()
    for name, function in candidates.items():
        for got, expected in zip(function(), want, strict=True):
            torch.testing.assert_close(
                got, expected, rtol=1e-4, atol=1e-6, msg=lambda m, n=name: f"{n}: {m}"
            )
    recorder.add(
        times,
        peaks,
        # The recorder's floor is of bytes; this many take as long as the operations.
        moved=int(floor_seconds(recorder, anchors) * recorder.bandwidth),
        elements=anchors,
        dim=DIM,
        temperature=temperature,
        input_bytes=input_bytes,
    )


@pytest.mark.timeout(1800)
@pytest.mark.parametrize("anchors", FUSED_SIZES)
def test_beyond_eager(anchors, benchmark, recorder):
    candidates, input_bytes = make_candidates(anchors, 0.07)
    ours = first_fused(candidates)
    times: list[float] = []
    benchmark.pedantic(lambda: times.append(seconds(candidates[ours])), rounds=5)
    low, median, high = statistics.quantiles(times, n=4)
    floor = floor_seconds(recorder, anchors)
    recorder.rows.append(
        {
            "dim": DIM,
            "temperature": 0.07,
            "input_bytes": input_bytes,
            "implementation": ours,
            "elements": anchors,
            "rounds": len(times),
            "seconds": {"median": median, "quartiles": [low, high]},
            "times_faster_than_eager": None,  # which would need some twelve P x P matrices
            "times_the_floor": median / floor,
            "floor_seconds": floor,
            "peak_bytes": peak_bytes(candidates[ours]),
        }
    )
