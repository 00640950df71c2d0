"""similarity_bce against eager, torch.compile, KeOps: `pytest benchmarks/similarity_bce.py`.

Loss and gradient of one image of M pixels and N = 35 classes, float32. The floor is that of
operations: the Gram product over half of the pairs and the product for the gradient over all, at
the rate of a 2048 x 2048 matrix product in the same run. Eager needs M x M matrices, so the largest
sizes run fused alone; KeOps (`pip install pykeops`) joins where it is installed.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Iterator

import pytest
import torch
from ecgan_kernels import reference, similarity_bce
from torch import Tensor

from benchmarks.common import DEVICE, Candidates, Recorder, interleaved, peak_bytes, seconds

try:
    from pykeops.torch import LazyTensor
except ImportError:
    LazyTensor = None

CLASSES = 35
EAGER_SIZES = [1024, 2048, 4096, 8192]
KEOPS_SIZE = EAGER_SIZES[-1]
FUSED_SIZES = [16384, 32768, 131072]  # the last is 256 x 512 at full resolution
IMPLEMENTATIONS = ["cpu"] if DEVICE.type == "cpu" else ["cuda", "triton"]


def matmul_rate() -> float:
    """Floating-point operations a second of a float32 matrix product."""
    a, b = (torch.randn(2048, 2048, device=DEVICE) for _ in range(2))
    times = [seconds(lambda: a @ b) for _ in range(9)]
    return 2 * 2048**3 / statistics.median(times[2:])


@pytest.fixture(scope="module")
def recorder() -> Iterator[Recorder]:
    recorder = Recorder("similarity_bce")
    recorder.matmul_rate = matmul_rate()
    yield recorder
    recorder.write("implementation")


def floor_seconds(recorder: Recorder, pixels: int) -> float:
    return 3 * pixels**2 * CLASSES / recorder.matmul_rate


def eager(probs: Tensor, labels: Tensor, eps: float = 1e-6) -> Tensor:
    """As one would write it: whole M x M matrices, a gradient cut below eps."""
    s, flat = probs[0], labels[0]
    p = s.t() @ s
    return -torch.where(flat[:, None] == flat, p, 1 - p).clamp(min=eps).log().mean()


compiled = torch.compile(eager, dynamic=True)


def keops(probs: Tensor, labels: Tensor, eps: float = 1e-6) -> Tensor:
    s = probs[0].t().contiguous()
    flat = labels.reshape(-1, 1).to(s.dtype)
    p = (LazyTensor(s[:, None]) * LazyTensor(s[None])).sum(-1)
    differ = (LazyTensor(flat[:, None]) - LazyTensor(flat[None])).abs().sign()
    x = p + differ * (1 - 2 * p)
    return -(x.clamp(eps, 2.0)).log().sum(1).sum() / len(s) ** 2


def make_candidates(pixels: int, with_keops: bool = False) -> tuple[Candidates, Tensor]:
    torch.manual_seed(0)
    probs = (3 * torch.randn(1, CLASSES, pixels, device=DEVICE)).softmax(1).requires_grad_()
    labels = torch.randint(0, CLASSES, (1, pixels), device=DEVICE)
    functions = {}
    if pixels <= EAGER_SIZES[-1]:
        functions = {
            "eager": eager,
            "reference": reference.similarity_bce,  # by blocks of rows, which stay in cache
            "torch.compile": compiled,
        }
    if LazyTensor is not None and with_keops:
        functions["keops"] = keops
    for impl in IMPLEMENTATIONS:
        try:
            similarity_bce(probs[..., :1], labels[..., :1], impl=impl)
        except RuntimeError:  # not built here: the rows say what was measured
            continue
        functions[impl] = lambda *args, impl=impl: similarity_bce(*args, impl=impl)

    def step(function):
        loss = function(probs, labels)
        return loss.detach(), *torch.autograd.grad(loss, probs)

    return {name: lambda f=function: step(f) for name, function in functions.items()}, probs


def first_fused(candidates: Candidates) -> str:
    ours = next((impl for impl in IMPLEMENTATIONS if impl in candidates), None)
    if ours is None:
        pytest.skip("no compiled implementation is built here")
    return ours


def time_keops(step: Callable[[], tuple], loss: Tensor) -> tuple[list[float], int]:
    """Seconds of two steps, after the others since they take minutes, and the peak memory.

    Its gradient is cut below eps, so the loss alone is compared.
    """
    make_candidates(1024, with_keops=True)[0]["keops"]()  # compiles the formula
    times = []

    def timed() -> None:
        start = time.perf_counter()
        torch.testing.assert_close(step()[0], loss, rtol=1e-4, atol=1e-5)
        times.append(time.perf_counter() - start)

    timed()
    return times, peak_bytes(timed)


@pytest.mark.timeout(1800)
@pytest.mark.parametrize("pixels", EAGER_SIZES)
def test_against_eager(pixels, benchmark, recorder):
    candidates, probs = make_candidates(pixels, with_keops=pixels == KEOPS_SIZE)
    ours = first_fused(candidates)
    slow = candidates.pop("keops", None)
    times = interleaved(benchmark, candidates, ours)
    peaks = {name: peak_bytes(function) for name, function in candidates.items()}
    want = candidates["reference"]()
    for name, function in candidates.items():
        checked = 1 if name in ("eager", "torch.compile") else 2  # theirs is cut below eps
        for got, expected in zip(function()[:checked], want, strict=False):
            torch.testing.assert_close(
                got, expected, rtol=1e-4, atol=1e-5, msg=lambda m, n=name: f"{n}: {m}"
            )
    if slow is not None:
        times["keops"], peaks["keops"] = time_keops(slow, want[0])
    recorder.add(
        times,
        peaks,
        # The recorder's floor is of bytes; this many take as long as the operations.
        moved=int(floor_seconds(recorder, pixels) * recorder.bandwidth),
        elements=pixels,
        classes=CLASSES,
        input_bytes=probs.nbytes,
    )


@pytest.mark.timeout(1800)
@pytest.mark.parametrize("pixels", FUSED_SIZES)
def test_beyond_eager(pixels, benchmark, recorder):
    candidates, probs = make_candidates(pixels)
    ours = first_fused(candidates)
    times: list[float] = []
    rounds = 2 if pixels > 50_000 else 5
    benchmark.pedantic(lambda: times.append(seconds(candidates[ours])), rounds=rounds)
    low, median, high = statistics.quantiles(times, n=4)
    floor = floor_seconds(recorder, pixels)
    recorder.rows.append(
        {
            "classes": CLASSES,
            "input_bytes": probs.nbytes,
            "implementation": ours,
            "elements": pixels,
            "rounds": rounds,
            "seconds": {"median": median, "quartiles": [low, high]},
            "times_faster_than_eager": None,  # which would need some ten M x M matrices
            "times_the_floor": median / floor,
            "floor_seconds": floor,
            "peak_bytes": peak_bytes(candidates[ours]),
        }
    )
