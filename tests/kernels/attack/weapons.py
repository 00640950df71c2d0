"""What the attacks are made of: hostile arguments, odd layouts, and what may come of them."""

from __future__ import annotations

from collections.abc import Callable, Iterable

import numpy as np
import torch
from hypothesis import strategies as st
from torch import Tensor

FLOATS = (torch.float32, torch.float16, torch.bfloat16, torch.float64)
LABELS = (torch.uint8, torch.int16, torch.int32, torch.int64)
OTHERS = (
    torch.bool,
    torch.int8,
    torch.uint16,
    torch.uint64,
    torch.complex64,
    torch.complex128,
    torch.float8_e4m3fn,
    torch.float8_e5m2,
)
INT64 = torch.iinfo(torch.int64)
SIZES = st.sampled_from([0, 1, 2, 3, 5, 17])
SEEDS = st.integers(0, 2**32 - 1)
LAYOUTS = (
    "contiguous",
    "permuted",
    "stepped",
    "offset",
    "expanded",
    "overlapping",
    "negated",
    "channels_last",
    "odd strides",
)
# Of tensors that are no plain memory, or no plain numbers.
KINDS = (
    *("huge", "meta", "sparse", "csr", "mkldnn", "quantized", "nested"),
    *("conjugated", "zero", "misaligned", "gradient", "extreme"),
)
# Numbers that stand for no size, step or label.
INTS = (0, 1, -1, 2, 255, 2**20, 2**31, 2**32 + 1, 2**62 + 1, INT64.max, INT64.min)
NUMBERS = (0.0, -1.0, 0.5, 1.0, 1e300, 5e-324, float("nan"), float("inf"), -float("inf"))


def relayout(x: Tensor, layout: str, seed: int = 0) -> Tensor:
    """``x`` in another layout; "expanded" and "overlapping" repeat some of its values."""
    if x.numel() == 0 and layout == "odd strides":
        return x.as_strided(x.shape, [INT64.max // 2] * x.dim())
    if x.dim() == 0 or x.numel() == 0 or layout == "contiguous":
        return x.contiguous()
    if layout == "permuted":
        order = torch.randperm(x.dim(), generator=generator(seed)).tolist()
        return x.permute(order).contiguous().permute(np.argsort(order).tolist())
    if layout == "stepped":
        wide = x.new_zeros((*x.shape[:-1], 2 * x.shape[-1] + 1))
        wide[..., 1::2] = x
        return wide[..., 1::2]
    if layout == "offset":
        flat = x.new_zeros(x.numel() + 1)
        flat[1:] = x.reshape(-1)
        return flat[1:].view(x.shape)
    if layout == "expanded":
        dim = seed % x.dim()
        return x.narrow(dim, 0, 1).expand(x.shape)
    if layout == "overlapping":  # every step is one element
        need = sum(size - 1 for size in x.shape) + 1
        return x.reshape(-1)[:need].contiguous().as_strided(x.shape, [1] * x.dim())
    if layout == "negated" and x.dtype in FLOATS:
        return torch._neg_view(-x)
    if layout == "channels_last" and x.dim() > 2:
        return x.movedim(1, -1).contiguous().movedim(-1, 1)
    if layout == "odd strides":  # of dimensions that are never stepped through
        strides = [
            INT64.max // 2 if size == 1 else stride
            for size, stride in zip(x.shape, x.stride(), strict=True)
        ]
        return x.contiguous().as_strided(x.shape, strides) if 1 in x.shape else x
    return x


def generator(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


@st.composite
def floating(
    draw: st.DrawFn,
    shape: Iterable[int],
    dtype: torch.dtype,
    special: Iterable[float] = (),
    function: Callable[[Tensor], Tensor] | None = None,
) -> Tensor:
    """Normal numbers, or ``function`` of them, some replaced by ``special``, in any layout."""
    seed = draw(SEEDS)
    x = torch.randn(tuple(shape), generator=generator(seed), dtype=torch.float64)
    x = x if function is None else function(x)
    for value in special:
        if x.numel() > 0:
            x.view(-1)[draw(st.integers(0, x.numel() - 1))] = value
    return relayout(x.to(dtype), draw(st.sampled_from(LAYOUTS)), seed)


@st.composite
def labels(draw: st.DrawFn, shape: Iterable[int], values: Iterable[int]) -> Tensor:
    """Labels out of ``values``, as far as the dtype that is drawn holds them, in any layout."""
    dtype, seed, values = draw(st.sampled_from(LABELS)), draw(SEEDS), tuple(values)
    limits = torch.iinfo(dtype)
    fitting = [v for v in values if limits.min <= v <= limits.max]
    if not fitting:
        fitting, dtype = list(values), torch.int64
    known = torch.tensor(fitting)
    x = known[torch.randint(len(fitting), tuple(shape), generator=generator(seed))].to(dtype)
    return relayout(x, draw(st.sampled_from(LAYOUTS)), seed)


@st.composite
def any_tensor(draw: st.DrawFn, like: Tensor | None = None) -> Tensor:
    """A tensor of any kind, near ``like`` (its shape, its dtype) or far from it."""
    seed = draw(SEEDS)
    shape = draw(st.lists(st.integers(0, 3), max_size=6).map(tuple))
    dtype = draw(st.sampled_from(FLOATS + LABELS + OTHERS))
    if like is not None:
        shape, dtype = draw(
            st.sampled_from([(shape, dtype), (tuple(like.shape), dtype), (shape, like.dtype)])
        )
    x = (100 * torch.randn(shape, generator=generator(seed))).to(dtype)
    kind = draw(st.sampled_from((*LAYOUTS, *KINDS)))
    if kind in LAYOUTS:
        return relayout(x, kind, seed)
    if kind == "huge":  # 2^40 times 2^20 of nothing
        return torch.zeros(0, 1, 1, dtype=dtype).expand(0, 2**40, 2**20)
    if kind == "meta":
        return x.to("meta")
    if kind == "sparse":
        return x.to_sparse() if x.dim() and dtype not in OTHERS else x
    if kind == "csr" and x.dim() == 2 and dtype in FLOATS:
        return x.to_sparse_csr()
    if kind == "mkldnn" and dtype == torch.float32 and x.numel() and 0 < x.dim() < 6:
        return x.to_mkldnn()
    if kind == "quantized":
        return (
            torch.quantize_per_tensor(x.float(), 0.1, 0, torch.quint8) if not x.is_complex() else x
        )
    if kind == "nested" and x.dim() and dtype in FLOATS:
        return torch.nested.nested_tensor([x, x[:1]])
    if kind == "conjugated" and x.is_complex():
        return x.conj()
    if kind == "zero" and dtype in FLOATS:
        return torch._efficientzerotensor(shape, dtype=dtype)
    if kind == "misaligned" and dtype.itemsize > 1:
        memory = bytearray((x.numel() + 2) * dtype.itemsize)
        return torch.frombuffer(memory, dtype=dtype, offset=1, count=max(1, x.numel()))
    if kind == "gradient" and (dtype in FLOATS or x.is_complex()):
        return x.requires_grad_() * 1
    if kind == "extreme" and dtype in LABELS:
        limits = torch.iinfo(dtype)
        return torch.where(
            torch.rand(shape, generator=generator(seed)) < 0.5, limits.min, limits.max
        ).to(dtype)
    return x


def hostile(value: object) -> st.SearchStrategy[object]:
    """What may stand in place of the argument ``value``."""
    tensors = any_tensor(value if isinstance(value, Tensor) else None)
    others: list[object] = [
        None,
        True,
        "no such",
        b"",
        [],
        (1, 2),
        {},
        2**70,
        -(2**70),
        10**400,
        1j,
    ]
    others += [torch.float32, np.zeros((1, 2, 2)), [torch.zeros(2)], object(), *INTS, *NUMBERS]
    return tensors | st.sampled_from(others)


def plain(value: object) -> object:
    """The same argument without its layout and its history."""
    if not isinstance(value, Tensor) or value.layout != torch.strided or value.is_nested:
        return value
    if value.is_meta or value.is_quantized:
        return value
    copy = value.detach().clone(memory_format=torch.contiguous_format).resolve_neg()
    return copy.requires_grad_() if value.requires_grad else copy


def assert_clear(error: Exception, names: Iterable[str]) -> None:
    """The exception is of a documented kind, and its sentence names one of the arguments."""
    assert isinstance(error, (TypeError, ValueError, RuntimeError)), repr(error)
    text = str(error)
    assert "\n" not in text.strip(), text
    assert any(name in text for name in names), text
