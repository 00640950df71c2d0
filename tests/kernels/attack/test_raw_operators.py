"""torch.ops.ecgan, which people call directly: no call may crash, whatever the arguments are."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from ecgan_kernels import _library
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from tests.kernels.attack.weapons import INTS, LAYOUTS, any_tensor, hostile, relayout

pytestmark = [
    pytest.mark.skipif(not _library.CPU.loaded, reason=str(_library.CPU.problem)),
    pytest.mark.filterwarnings("ignore"),  # of sparse, quantized and nested tensors
]
I32 = torch.int32
HUGE = 2**40  # times itself, it is beyond 64 bits


def ints(*shape: int, high: int = 3, dtype: torch.dtype = I32) -> Tensor:
    return torch.randint(high, shape, dtype=dtype)


def spade_lookup() -> tuple[Tensor, Tensor, Tensor]:
    inverse = ints(2, 4, 9).sort().values.contiguous()
    return inverse, *torch.ops.ecgan.label_segments(inverse, 4)


def statistics(groups: int) -> Tensor:
    return torch.rand(groups, 2, dtype=torch.float64)


CONV = (1, 2, 1, 0, 255)  # strides, paddings, ignore_index
CALLS: dict[str, Callable[[], tuple]] = {
    "edge_transfer": lambda: (torch.randn(3, 5), torch.randn(3, 5), "tanh"),
    "edge_transfer_backward": lambda: (*torch.randn(3, 3, 5).unbind(), "none", True, True),
    "edge_transfer_lrelu": lambda: (torch.randn(3, 5), torch.randn(3, 5), 0.2),
    "edge_transfer_lrelu_backward": lambda: (*torch.randn(4, 3, 5).unbind(), 0.2, True, True),
    "similarity_bce": lambda: (torch.rand(2, 3, 7) / 3, ints(2, 7), 255, 1e-6, "exact", True),
    "pixel_contrast": lambda: (
        *(torch.randn(9, 4), ints(9), torch.randn(5, 4), ints(5)),
        *(False, 0.1, 255, True),
    ),
    "pixel_contrast_backward": lambda: (
        *(torch.randn(9), torch.randn(9, 4), ints(9), torch.randn(5, 4), ints(5)),
        *(False, 0.1, 255, ints(9, dtype=torch.int64), torch.randn(9), torch.rand(9), True, True),
    ),
    "label_conv2d": lambda: (
        *(ints(2, 5, 6), torch.randn(4, 4, 3, 2), torch.randn(4), ints(2, 1, 5, 6).bool()),
        *(torch.rand(2, 5, 6), *CONV, True),
    ),
    "label_conv2d_backward": lambda: (
        *(torch.randn(2, 4, 5, 3), ints(2, 5, 6), torch.randn(4, 4, 3, 2)),
        *(ints(2, 1, 5, 6).bool(), torch.rand(2, 5, 6), *CONV, True, True),
    ),
    "class_conv2d": lambda: (
        *(torch.randn(2, 3, 5, 6), ints(2, 5, 6), torch.randn(4, 3, 3, 3), torch.randn(4), 0.2),
    ),
    "class_conv2d_backward": lambda: (
        *(torch.randn(2, 4, 5, 6), torch.randn(2, 3, 5, 6), ints(2, 5, 6)),
        *(torch.randn(4, 3, 3, 3), 0.2, True, True, True),
    ),
    "gather_sum": lambda: (torch.randn(9, 70), ints(4, 3), 3, 1),
    "gather_sum_backward": lambda: (torch.randn(4, 70), ints(4, 3), torch.empty(9, 0), 3, 1),
    "label_windows": lambda: (ints(2, 5, 6), 3, 3),
    "label_segments": lambda: (ints(2, 5, 6).sort().values, 2),
    "label_spade": lambda: (
        *(torch.randn(2, 2, 4, 9), torch.randn(4, 3), *spade_lookup()),
        *(statistics(1), statistics(1), "fixed", 1e-5, 0.2),
    ),
    "label_spade_statistics": lambda: (torch.randn(2, 2, 4, 9),),
    "label_spade_backward": lambda: (
        *(torch.randn(2, 2, 4, 9), torch.randn(2, 2, 4, 9), torch.randn(4, 3), *spade_lookup()),
        *(statistics(1), statistics(1), statistics(2), "shared", 1e-5, 0.2, True, True),
    ),
}
every_call = pytest.mark.parametrize("name", CALLS)


def assert_says(error: Exception) -> None:
    assert str(error)


def call(name: str, arguments: list) -> None:
    """Runs the operator and reads what it gives; an exception is fine."""
    try:
        out = getattr(torch.ops.ecgan, name)(*arguments)
    except (TypeError, ValueError, RuntimeError, IndexError) as error:
        assert_says(error)
        return
    for y in out if isinstance(out, tuple) else [out]:
        assert y.is_meta or float(y.double().sum()) is not None


def test_every_operator_is_attacked():
    known = torch._C._dispatch_get_all_op_names()
    compiled = {n.removeprefix("ecgan::") for n in known if n.startswith("ecgan::")}
    compiled = {n for n in compiled if "triton" not in n} - {"cpu_isa"}
    assert compiled == set(CALLS)


@every_call
def test_the_calls_themselves_are_right(name):
    getattr(torch.ops.ecgan, name)(*CALLS[name]())


@every_call
@given(data=st.data())
def test_any_argument(name: str, data: st.DataObject) -> None:
    torch.manual_seed(0)  # each attack the same, however often it is tried
    arguments = list(CALLS[name]())
    for i in range(len(arguments)):
        if isinstance(arguments[i], Tensor):
            layout = data.draw(st.sampled_from(LAYOUTS))
            if arguments[i].dtype in (torch.float32, torch.float64) or layout != "negated":
                arguments[i] = relayout(arguments[i], layout, data.draw(st.integers(0, 9)))
    places = st.integers(0, len(arguments) - 1)
    for i in data.draw(st.lists(places, min_size=1, max_size=3, unique=True)):
        value = arguments[i]
        if isinstance(value, Tensor):
            arguments[i] = data.draw(changed(value) | any_tensor(value))
        elif type(value) is int:
            arguments[i] = data.draw(st.sampled_from(INTS))
        else:
            arguments[i] = data.draw(hostile(value))
    call(name, arguments)


@st.composite
def changed(draw: st.DrawFn, x: Tensor) -> Tensor:
    """A tensor of the same kind with other values, of another size or, empty, of a huge one."""
    how = draw(st.sampled_from(["values", "narrow", "longer", "flat", "empty", "huge", "dtype"]))
    if how == "values" and x.dtype in (I32, torch.int64):
        limits = torch.iinfo(x.dtype)
        some = draw(st.sampled_from([-1, 3, 4000, limits.min, limits.max]))
        return torch.where(torch.rand(x.shape) < 0.2, some, x)
    if how == "values":
        return torch.where(torch.rand(x.shape) < 0.2, draw(st.floats(width=16)), x).to(x.dtype)
    dim = draw(st.integers(0, max(0, x.dim() - 1)))
    if x.dim() == 0 or how == "flat":
        return x.reshape(-1)
    if how == "narrow" and x.shape[dim] > 0:
        return x.narrow(dim, 0, x.shape[dim] - 1)
    if how == "longer":
        return torch.cat([x, x], dim)
    if how == "empty":
        return x.narrow(dim, 0, 0)
    if how == "huge":
        empty = x.narrow(dim, 0, 0).sum(0, keepdim=True).to(x.dtype) if dim else x[:0]
        sizes = [size if size != 1 else draw(st.sampled_from([1, HUGE])) for size in empty.shape]
        return empty.expand(sizes) if empty.numel() == 0 else x
    return x.to(draw(st.sampled_from([torch.float64, torch.float16, torch.int64, torch.bool])))


def huge(*shape: int, dtype: torch.dtype = torch.float32) -> Tensor:
    """An empty tensor of this shape."""
    base = torch.zeros([min(size, 1) for size in shape], dtype=dtype)
    return base.expand(shape)


def spade(walk: list, bounds: tuple[int, ...], norm: str = "instance", **other: Tensor) -> tuple:
    x = other.get("x", torch.randn(1, 2, 3, 5))
    inverse = other.get("inverse", torch.zeros(x.shape[0], *x.shape[2:], dtype=I32))
    segments = torch.tensor(walk, dtype=I32).reshape(-1, 2)
    statistics = other.get("mean"), other.get("mean")
    table = torch.randn(4, 2)
    return (x, table, inverse, segments, torch.tensor(bounds), *statistics, norm, 1e-5, 1.0)


def conv(labels: Tensor, weight: Tensor, *steps: int) -> tuple:
    return labels, weight, None, None, None, *steps, 255, True


MAP, KERNEL = torch.zeros(1, 3, 3, dtype=I32), torch.randn(2, 3, 3, 3)
FOUND = {
    "rows outside the table": (
        *("gather_sum", "rows: expected rows of a table"),
        (torch.randn(4, 8), torch.tensor([[5000, 0]], dtype=I32), 1, 0),
    ),
    "steps outside the table": (
        *("gather_sum", "row_step, tap_step: expected at least 0"),
        (torch.randn(4, 8), torch.tensor([[3, 0]], dtype=I32), 2**62, 2**62),
    ),
    "rows outside the gradient": (
        *("gather_sum_backward", "rows: expected rows of a table"),
        (torch.randn(1, 8), torch.tensor([[4, 0]], dtype=I32), torch.empty(4, 0), 1, 0),
    ),
    "a window larger than memory": ("label_windows", "kernel_size: expected", (MAP, 1, 50001)),
    "a window of overflowing size": ("label_windows", "kernel_size", (MAP, 1, INTS[-2])),
    "a value that 32 bits cut": ("label_windows", "outside: expected 32 bits", (MAP, 2**32, 3)),
    "a length that 32 bits cut": ("label_segments", "shortest: expected 32 bits", (MAP, 2**32)),
    "huge maps of nothing": (
        *("label_segments", "inverse: expected sizes"),
        (huge(0, HUGE, HUGE, dtype=I32), 3),
    ),
    "an overflowing padding": (
        *("label_conv2d", "padding: expected"),
        conv(MAP, KERNEL, 1, 1, 2**62, 2**62),
    ),
    "an overflowing stride": (
        *("label_conv2d", "stride: expected"),
        conv(MAP, KERNEL, 2**62, 2**62, 0, 0),
    ),
    "a workspace that overflows to nothing": (
        *("label_conv2d", "labels: expected sizes"),
        conv(huge(2**60, 0, 5, dtype=I32), torch.randn(0, 3, 3, 3), 1, 1, 512, 511),
    ),
    "a huge empty image": (
        *("edge_transfer", "image: expected sizes"),
        (huge(0, HUGE, HUGE), huge(0, HUGE, HUGE), "none"),
    ),
    "more classes than numbers": (
        *("similarity_bce", "probs: expected fewer"),
        (huge(1, 2**34, 1), torch.full((1, 1), 2**33), 255, 1e-6, "exact", False),
    ),
    "labels that are no integers": (
        *("similarity_bce", "labels: expected uint8"),
        (torch.rand(1, 2, 3), torch.full((1, 3), torch.nan), 255, 1e-6, "exact", True),
    ),
    "huge embeddings": (
        *("pixel_contrast", "embeddings: expected sizes"),
        (huge(1, 2**58), MAP[0, 0, :1], huge(1, 2**58), MAP[0, 0, :1], True, 0.1, 255, True),
    ),
    "huge channels": (
        *("class_conv2d", "x: expected sizes"),
        (huge(1, 2**58, 1, 1), MAP[:, :1, :1], huge(0, 2**58, 3, 3), None, 1.0),
    ),
    "runs that are mixtures": (
        *("label_spade", "walk: expected the segments"),
        spade([[0, 15]], (0, 1), inverse=torch.arange(15, dtype=I32).reshape(1, 3, 5) % 2),
    ),
    "segments that end early": ("label_spade", "walk: expected", spade([[0, 14]], (0, 1))),
    "the lowest length": ("label_spade", "walk: expected", spade([[0, -(2**31)]], (0, 1))),
    "places outside the table": (
        *("label_spade", r"inverse: expected values in \[0, U\)"),
        spade([[0, 15]], (0, 1), inverse=torch.full((1, 3, 5), 7, dtype=I32)),
    ),
    "a mean of no channels": (
        *("label_spade", "mean: expected float64"),
        spade([[0, 15]], (0, 1), "fixed", mean=torch.tensor(1.0)),
    ),
    "means that broadcast": (
        *("label_spade_backward", "shared: expected the means"),
        (
            *(torch.randn(1, 2, 3, 5), *spade([[0, 15]], (0, 1))[:5], statistics(1), statistics(1)),
            *(torch.zeros(()), "shared", 1e-5, 1.0, True, True),
        ),
    ),
    "memory that is not aligned": (
        *("edge_transfer", "image: expected memory aligned"),
        (torch.frombuffer(bytearray(9), dtype=torch.float32, offset=1), torch.zeros(2), "none"),
    ),
}


@pytest.mark.parametrize("fault", FOUND)
def test_is_refused(fault):
    name, sentence, arguments = FOUND[fault]
    with pytest.raises(RuntimeError, match=sentence):
        getattr(torch.ops.ecgan, name)(*arguments)
