"""What the operators' benchmarks share: interleaved timing, peak memory, forward and backward.

The rules of measuring: all candidates take turns in one process on the same inputs, so that a
ratio holds whatever else the machine does; a time is a median with its quartiles; what was timed is
compared with eager's result.

ECGAN_BENCHMARK_QUICK=1 measures the smallest size a few times, to see that everything runs.
"""

from __future__ import annotations

import json
import os
import statistics
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar

import pytest
import torch
import torch._functorch.config
from torch import Tensor
from torch.profiler import ProfilerActivity, profile

from benchmarks.record import DEVICE, Recorder, seconds, synchronize

QUICK = os.environ.get("ECGAN_BENCHMARK_QUICK", "") not in ("", "0")
IMPLEMENTATIONS = ["cpu"] if DEVICE.type == "cpu" else ["cuda", "triton"]
DIRECTIONS = ("both", "forward", "backward")

torch._functorch.config.donated_buffer = False  # or no backward pass could be timed by itself

T = TypeVar("T")
Tensors = tuple[Tensor, ...]
Candidates = dict[str, Callable[[], Any]]
Functions = dict[str, Callable[[], "Tensor | Tensors"]]
Times = dict[str, list[float]]


def sweep(values: Sequence[T]) -> list[T]:
    """The values to measure: all, or the first in a quick run."""
    return list(values[:1] if QUICK else values)


def compiled(function: Callable[..., Any]) -> Callable[..., Any] | None:
    """The function under torch.compile; none in a quick run, since that takes its time."""
    return None if QUICK else torch.compile(function, dynamic=True)


def implementations(probe: Callable[[str], Any]) -> list[str]:
    """Compiled implementations that run here, by a small call; skips the benchmark without any."""
    found = []
    for impl in IMPLEMENTATIONS:
        try:
            probe(impl)
        except RuntimeError:  # not built here: the rows say what was measured
            continue
        found.append(impl)
    return found or pytest.skip("no compiled implementation is built here")


def one_pass(
    function: Callable[[], Tensor | Tensors],
    inputs: Sequence[Tensor],
    grads: Sequence[Tensor] | None,
    direction: str,
) -> Callable[[], Tensors]:
    """What one direction of a function computes, to be timed.

    Args:
        function: gives the outputs.
        inputs: tensors whose gradients are wanted.
        grads: gradients of the outputs; None for a scalar.
        direction: ``forward`` (without a graph), ``backward`` or ``both``.
    """

    def outputs() -> Tensors:
        found = function()
        return found if isinstance(found, tuple) else (found,)

    def forward() -> Tensors:
        with torch.no_grad():
            return outputs()

    def both() -> Tensors:
        outs = outputs()
        return *(out.detach() for out in outs), *torch.autograd.grad(outs, inputs, grads)

    if direction == "forward":
        return forward
    if direction == "both":
        return both
    outs = outputs()
    return lambda: torch.autograd.grad(outs, inputs, grads, retain_graph=True)


def interleaved(
    benchmark: Any, candidates: Candidates, ours: str, budget: float = 1.0, least: int = 5
) -> Times:
    """Times the candidates in turns: each round runs every one once.

    pytest-benchmark times ``ours``; the others run in the set-up of each of its rounds.

    Args:
        benchmark: pytest-benchmark's fixture.
        candidates: Functions by name, which return their result.
        ours: The name that pytest-benchmark's own table shows.
        budget: Seconds to spend, roughly.
        least: Rounds whatever they take; three where a round takes over three seconds.

    Returns:
        Seconds of each round, by name.
    """
    # Warm-up: compilation, caches, allocator.
    once = sum([seconds(function) for function in candidates.values()])
    if once < 3:
        once = sum([seconds(function) for function in candidates.values()])
    rounds = 2 if QUICK else max(least if once < 3 else 3, min(100, int(budget / once)))
    times: Times = {name: [] for name in candidates}

    def others() -> None:
        for name, function in candidates.items():
            if name != ours:
                times[name].append(seconds(function))

    def mine() -> None:
        times[ours].append(seconds(candidates[ours]))

    benchmark.pedantic(mine, setup=others, rounds=rounds, iterations=1)
    return times


def compare(
    benchmark: Any,
    recorder: Recorder,
    functions: Functions,
    inputs: Sequence[Tensor],
    grads: Sequence[Tensor] | None,
    *,
    ours: str,
    elements: int,
    floor: float | str | None,
    direction: str = "both",
    case: dict[str, Any],
    notes: dict[str, Any] | None = None,
    check: Callable[[str, Tensors, Tensors], None] | None = None,
    oracle: str = "eager",
    beside: Candidates | None = None,
    budget: float = 1.0,
) -> None:
    """Measures functions of the same inputs against each other and writes their rows.

    Args:
        benchmark: pytest-benchmark's fixture.
        recorder: takes the rows.
        functions: by name; each gives the same outputs.
        inputs: tensors whose gradients are wanted.
        grads: gradients of the outputs; None for a scalar.
        ours: The name that pytest-benchmark's own table shows.
        elements: size of the case, for the growth.
        floor: seconds that no implementation can beat, or the name of what stands for that.
        direction: what is timed.
        case: what tells this series of sizes from others.
        notes: what else is worth knowing of this size.
        check: compares a name's results with the oracle's; raises where they differ.
        oracle: name of the function that the others are compared with.
        beside: further things to time, without gradients, unchecked.
        budget: Seconds to spend, roughly.
    """
    candidates: Candidates = {
        name: one_pass(function, inputs, grads, direction) for name, function in functions.items()
    }
    candidates |= beside or {}
    times = interleaved(benchmark, candidates, ours, budget)
    peaks = {name: peak_bytes(function) for name, function in candidates.items()}
    with exact_convolutions():
        results = {name: candidates[name]() for name in functions}
    for name, found in results.items():
        (check or close())(name, found, results[oracle])
    if isinstance(floor, str):
        floor = statistics.median(times[floor])
    recorder.add(times, peaks, floor, elements, case=case, direction=direction, notes=notes)
    recorder.write()  # what is measured stays, should time run out for the rest


@contextmanager
def exact_convolutions() -> Iterator[None]:
    """Within, convolutions of float32 are that, to compare with.

    They are timed as torch ships them, which on a GPU is in TF32.
    """
    before = torch.backends.cudnn.allow_tf32
    torch.backends.cudnn.allow_tf32 = False
    try:
        yield
    finally:
        torch.backends.cudnn.allow_tf32 = before


def close(rtol: float = 1e-4, atol: float = 1e-5) -> Callable[[str, Tensors, Tensors], None]:
    """A check with tolerances."""

    def check(name: str, found: Tensors, want: Tensors) -> None:
        for got, expected in zip(found, want, strict=True):
            torch.testing.assert_close(
                got, expected, rtol=rtol, atol=atol, msg=lambda text: f"{name}: {text}"
            )

    return check


def peak_bytes(function: Callable[[], Any]) -> int:
    """Bytes that torch allocates at most, at once, while ``function`` runs, without its inputs."""
    if DEVICE.type == "cuda":
        synchronize()
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        function()
        synchronize()
        return torch.cuda.max_memory_allocated() - before
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as record:
        result = function()
    del result
    with tempfile.TemporaryDirectory() as folder:
        trace = Path(folder, "trace.json")
        record.export_chrome_trace(str(trace))
        events = json.loads(trace.read_text())["traceEvents"]
    changes = sorted((e for e in events if e.get("name") == "[memory]"), key=lambda e: e["ts"])
    now = peak = 0
    for event in changes:
        now += event["args"]["Bytes"]
        peak = max(peak, now)
    return peak
