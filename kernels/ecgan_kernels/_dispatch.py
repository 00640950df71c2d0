"""Which implementation of an operator runs: one table, and the reasons against each entry."""

from __future__ import annotations

import importlib.util
import os
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass

import torch

from ecgan_kernels import _library
from ecgan_kernels._checks import check_choice

_Orders = dict[str, tuple[str, ...]]

IMPLEMENTATIONS = ("cpu", "cuda", "triton", "reference")

# Best first. sm_70 stands for every GPU before Ampere, where Triton has no tensor-core path; sm_80
# for Ampere and later; other for any device without kernels of its own.
# Before Ampere Triton has no tensor-core products.
_MATRIX: _Orders = {
    "cpu": ("cpu", "reference"),
    "sm_70": ("cuda", "reference"),
    "sm_80": ("cuda", "triton", "reference"),
    "other": ("reference",),
}
# No products: any Triton will do.
_MEMORY_BOUND: _Orders = {
    "cpu": ("cpu", "reference"),
    "sm_70": ("cuda", "triton", "reference"),
    "sm_80": ("cuda", "triton", "reference"),
    "other": ("reference",),
}
_ORDERS: dict[str, _Orders] = {
    "edge_transfer": _MEMORY_BOUND,
    "edge_transfer_lrelu": _MEMORY_BOUND,
    "similarity_bce": _MATRIX,
    "pixel_contrast": _MATRIX,
    "label_conv2d": _MEMORY_BOUND,
    "label_spade": {
        "cpu": ("cpu", "reference"),
        "sm_70": ("cuda", "reference"),
        "sm_80": ("cuda", "reference"),
        "other": ("reference",),
    },
    "class_conv2d": _MATRIX,
}
_GPU_DTYPES = (torch.float32, torch.float16, torch.bfloat16)
_DTYPES = {"cpu": (*_GPU_DTYPES, torch.float64), "cuda": _GPU_DTYPES, "triton": _GPU_DTYPES}

_warned: set[str] = set()
_auto: ContextVar[str] = ContextVar("ecgan_kernels implementation", default="auto")


@contextmanager
def implementation(impl: str) -> Iterator[None]:
    """Within this context ``impl="auto"`` stands for ``impl``, which then never falls back.

    To run a whole model on the references, say, to compare it with the fused operators:

        with ecgan_kernels.implementation("reference"):
            loss = model(x)

    Holds for the current thread or task. What torch.compile traced inside keeps its choice.

    Args:
        impl: "cpu", "cuda", "triton" or "reference"; or "auto" to end an outer context's choice.

    Raises:
        ValueError: any other name.
    """
    check_choice("impl", impl, ("auto", *IMPLEMENTATIONS))
    token = _auto.set(impl)
    try:
        yield
    finally:
        _auto.reset(token)


def choose(op: str, impl: str, tensor: torch.Tensor) -> str:
    """Returns the implementation of ``op`` that is to run on ``tensor``.

    Args:
        op: Operator name, as in DESIGN's list.
        impl: "auto" for the best there is, or an implementation's name, which never falls back.
        tensor: The operand whose device and dtype decide.

    Returns:
        "cpu", "cuda", "triton" or "reference".

    Raises:
        ValueError: If ``impl`` is none of the known names.
        RuntimeError: If the implementation asked for cannot run on ``tensor``; says why.
    """
    check_choice("impl", impl, ("auto", *IMPLEMENTATIONS))
    if impl == "auto":
        impl = _current()
    return _choose(op, impl, tensor.device.type, tensor.device.index, tensor.dtype)


@torch.compiler.assume_constant_result
def _current() -> str:
    return _auto.get()


# torch.compile runs this as plain Python while it traces: probes and warnings stay out of graphs.
@torch.compiler.assume_constant_result
def _choose(op: str, impl: str, device: str, index: int | None, dtype: torch.dtype) -> str:
    if impl == "auto":
        return _best(op, _device_class(device, index), device, dtype)
    problem = _unsupported(op, impl, device, dtype) or _missing(impl)
    if problem:
        raise RuntimeError(f"{op}: impl={impl!r} cannot run here: {problem}")
    return impl


def _best(op: str, device_class: str, device: str, dtype: torch.dtype) -> str:
    for impl in _ORDERS[op][device_class]:
        if _unsupported(op, impl, device, dtype):
            continue
        problem = _missing(impl)
        if problem is None:
            return impl
        if impl not in _warned:
            _warned.add(impl)
            warnings.warn(
                f"ecgan_kernels runs {op} without its {impl} implementation, slower: {problem}",
                stacklevel=5,  # the caller of the operator
            )
    raise AssertionError("every order ends with the reference, which always runs")


def _device_class(device: str, index: int | None) -> str:
    if device == "cpu":
        return "cpu"
    if device == "cuda" and torch.version.cuda:
        return "sm_80" if torch.cuda.get_device_capability(index) >= (8, 0) else "sm_70"
    return "other"


def _unsupported(op: str, impl: str, device: str, dtype: torch.dtype) -> str | None:
    """Why ``impl`` does not cover such a tensor, on any machine; None if it does."""
    if impl == "reference":
        return None
    if not any(impl in order for order in _ORDERS[op].values()):
        return f"{op} has no such implementation"
    devices = ["cpu" if impl == "cpu" else "cuda"]
    if impl == "triton" and os.environ.get("TRITON_INTERPRET") == "1":
        devices.append("cpu")
    if device not in devices:
        return f"it needs a tensor on {' or '.join(devices)}, got one on {device}"
    if dtype not in _DTYPES[impl]:
        names = ", ".join(str(known).removeprefix("torch.") for known in _DTYPES[impl])
        return f"it takes {names}, got {str(dtype).removeprefix('torch.')}"
    return None


def _missing(impl: str) -> str | None:
    """Why ``impl`` is not on this machine; None if it is."""
    if impl == "cpu":
        return _library.CPU.problem
    if impl == "cuda":
        return _library.CUDA.problem
    if impl == "triton" and importlib.util.find_spec("triton") is None:
        return "triton is not installed"
    return None


@dataclass(frozen=True)
class OperatorInfo:
    """What one operator takes on one class of devices, on this machine."""

    op: str
    device: str
    """"cpu", "sm_70" (GPUs before Ampere), "sm_80" (Ampere and later) or "other"."""
    order: tuple[str, ...]
    """Implementations, best first."""
    problems: dict[str, str]
    """Why an implementation of the order is not available here."""
    chosen: str
    """The first that is; what ``impl="auto"`` takes for float32."""


def info() -> list[OperatorInfo]:
    """Lists, per operator and device class, the implementations and what stands in their way.

    Looks at the installed files and packages only, not at the GPUs of this machine.
    """
    rows = []
    for op, orders in _ORDERS.items():
        for device, order in orders.items():
            found = {impl: _missing(impl) for impl in order}
            problems = {impl: problem for impl, problem in found.items() if problem}
            chosen = next(impl for impl in order if impl not in problems)
            rows.append(OperatorInfo(op, device, order, problems, chosen))
    return rows
