"""What the operators' tests share, as fixtures that give functions."""

from __future__ import annotations

import json
from collections.abc import Callable

import pytest
import torch
from torch import Tensor
from torch.profiler import ProfilerActivity, profile

# On a GPU cuDNN takes TF32 for float32 otherwise, and references are to be what their dtype says.
torch.backends.cudnn.allow_tf32 = False


@pytest.fixture(autouse=True)
def _seed() -> None:
    torch.manual_seed(0)


@pytest.fixture(scope="session")
def assert_accurate() -> Callable[..., None]:
    """The accuracy rule: error against float64 no larger than eager's, plus a small tolerance."""

    def check(
        ours: Tensor, eager: Tensor, truth: Tensor, *, ulps: float = 4, elementwise: bool = False
    ) -> None:
        """Compares maxima over the tensors or, for elementwise operators, element by element.

        Args:
            ours: The operator's result.
            eager: The reference's in the same dtype.
            truth: The reference's in float64.
            ulps: Tolerance in units of the dtype's epsilon, relative to the truth.
            elementwise: Whether every element has to obey the rule by itself.
        """
        assert ours.dtype == eager.dtype
        assert ours.shape == eager.shape == truth.shape
        if ours.numel() == 0:
            return
        error, allowed = (ours.double() - truth).abs(), (eager.double() - truth).abs()
        scale = truth.abs()
        largest = scale.max()
        if not elementwise:
            error, allowed, scale = error.max(), allowed.max(), largest
        info = torch.finfo(ours.dtype)
        tolerance = ulps * (info.eps * scale + info.smallest_normal)
        tolerance += 8 * torch.finfo(torch.float64).eps * largest  # the truth is rounded too
        excess = error - allowed - tolerance
        assert not excess.isnan().any(), "NaN"
        assert excess.max() <= 0, f"error exceeds eager's and the tolerance by {excess.max():.3g}"

    return check


@pytest.fixture(scope="session")
def with_layout() -> Callable[[Tensor, str], Tensor]:
    """Gives a tensor of the same values in another memory layout; see LAYOUTS for the names."""

    def convert(x: Tensor, layout: str) -> Tensor:
        if layout == "contiguous":
            return x.contiguous()
        if layout == "channels_last":  # of whatever rank: the second dimension becomes the fastest
            return x.movedim(1, -1).contiguous().movedim(-1, 1)
        if layout == "transposed":
            return x.transpose(-1, -2).contiguous().transpose(-1, -2)
        if layout == "sliced":
            wide = x.new_full((*x.shape[:-1], 2 * x.shape[-1] + 1), float("nan"))
            wide[..., 1::2] = x
            return wide[..., 1::2]
        assert layout == "offset"  # dense, but not aligned to a vector
        flat = x.new_empty(x.numel() + 1)
        flat[1:] = x.reshape(-1)
        return flat[1:].view(x.shape)

    return convert


LAYOUTS = ("contiguous", "channels_last", "transposed", "sliced", "offset")


@pytest.fixture(params=LAYOUTS)
def layout(request: pytest.FixtureRequest) -> str:
    """Each name that `with_layout` knows."""
    return request.param


@pytest.fixture
def peak_memory(tmp_path) -> Callable[[Callable[[], object]], int]:
    """Measures the CPU bytes that torch allocates at most, at once, while a function runs."""

    def measure(function: Callable[[], object]) -> int:
        with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as record:
            result = function()
        del result
        trace = tmp_path / "trace.json"
        record.export_chrome_trace(str(trace))
        events = json.loads(trace.read_text())["traceEvents"]
        changes = [e for e in events if e.get("name") == "[memory]"]
        changes.sort(key=lambda event: event["ts"])
        now = peak = 0
        for event in changes:
            now += event["args"]["Bytes"]
            peak = max(peak, now)
        return peak

    return measure


@pytest.fixture(scope="session")
def saved_tensors() -> Callable[[Callable[[], object]], list[Tensor]]:
    """Lists the tensors that autograd keeps for the backward pass of what a function computes."""

    def record(function: Callable[[], object]) -> list[Tensor]:
        saved: list[Tensor] = []

        def pack(x: Tensor) -> Tensor:
            saved.append(x)
            return x

        with torch.autograd.graph.saved_tensors_hooks(pack, lambda x: x):
            function()
        return saved

    return record
