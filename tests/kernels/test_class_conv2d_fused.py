"""class_conv2d's compiled implementations: accuracy, tiles, layouts, and torch's contract."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from ecgan_kernels import _library, class_conv2d, cpu_isa
from torch import Tensor
from torch.library import opcheck

needs_library = pytest.mark.skipif(not _library.CPU.loaded, reason=str(_library.CPU.problem))
needs_gpu = pytest.mark.skipif(
    not (torch.cuda.is_available() and _library.CUDA.loaded), reason="needs a GPU and _C_cuda"
)
FUSED = [
    pytest.param("cpu", marks=needs_library),
    pytest.param("cuda", marks=[pytest.mark.gpu, needs_gpu]),
]
DTYPES = [torch.float32, torch.float16, torch.bfloat16]
# [B, C, O, H, W]: every remainder of a micro-kernel's channels and outputs, and several tiles.
SIZES = [
    (1, 1, 1, 1, 1),
    (2, 2, 5, 2, 17),
    (1, 3, 6, 17, 97),
    (3, 4, 7, 9, 2),
    (1, 5, 3, 1, 257),
    (1, 6, 9, 31, 5),
    (2, 7, 2, 8, 96),
    (1, 13, 11, 10, 127),
    (1, 64, 32, 12, 35),
]


def device_of(impl: str) -> str:
    return "cuda" if impl == "cuda" else "cpu"


def operands(batch, channels, outputs, height, width, dtype=torch.float32, device="cpu"):
    """x, labels in patches, weight, bias and an incoming gradient."""
    torch.manual_seed(channels * outputs + width)
    coarse = torch.randint(0, 3, (batch, height // 4 + 1, width // 5 + 1))
    labels = coarse.repeat_interleave(4, 1).repeat_interleave(5, 2)[:, :height, :width]
    noise = torch.rand(batch, height, width) < 0.1
    labels = torch.where(noise, torch.randint(0, 3, labels.shape), labels)
    x = torch.randn(batch, channels, height, width)
    weight, bias = torch.randn(outputs, channels, 3, 3), torch.randn(outputs)
    grad = torch.randn(batch, outputs, height, width)
    x, weight, bias, grad = (t.to(device, dtype) for t in (x, weight, bias, grad))
    return x, labels.to(device), weight, bias, grad


def results(x, labels, weight, bias, grad, impl: str, slope: float | None = 0.2) -> list[Tensor]:
    """The output and the gradients of x, weight and bias."""
    inputs = [t.detach().requires_grad_() for t in (x, weight, bias)]
    y = class_conv2d(inputs[0], labels, *inputs[1:], negative_slope=slope, impl=impl)
    return [y.detach(), *torch.autograd.grad(y, inputs, grad)]


@pytest.mark.parametrize("impl", FUSED)
@pytest.mark.parametrize("size", SIZES, ids=str)
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("slope", [None, 0.2])
def test_accuracy(slope, dtype, size, impl, assert_accurate):
    x, labels, *others = operands(*size, dtype=dtype, device=device_of(impl))
    ours = results(x, labels, *others, impl, slope)
    eager = results(x, labels, *others, "reference", slope)
    truth = results(x.double(), labels, *(t.double() for t in others), "reference", slope)
    for o, e, t in zip(ours, eager, truth, strict=True):
        assert_accurate(o, e, t)


@needs_library
@pytest.mark.parametrize("size", SIZES, ids=str)
def test_float64(size):
    inputs = operands(*size, dtype=torch.float64)
    for o, e in zip(results(*inputs, "cpu"), results(*inputs, "reference"), strict=True):
        torch.testing.assert_close(o, e)


@pytest.mark.parametrize("impl", FUSED)
def test_infinities_and_nan_stay_in_their_class(impl):
    x, labels, weight, bias, grad = operands(1, 5, 6, 18, 105, device=device_of(impl))
    clean = results(x, labels, weight, bias, grad, impl)
    for value in (torch.nan, torch.inf):
        bad = torch.where(labels[:, None] == 1, value, x)
        keep = (labels != 1)[:, None].expand_as(clean[0])
        assert torch.equal(results(bad, labels, weight, bias, grad, impl)[0][keep], clean[0][keep])
        bad = torch.where(labels[:, None] == 1, value, grad)
        keep = (labels != 1)[:, None].expand_as(clean[1])
        assert torch.equal(results(x, labels, weight, bias, bad, impl)[1][keep], clean[1][keep])


@pytest.mark.parametrize("impl", FUSED)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_layouts(layout, dtype, impl, with_layout):
    x, labels, weight, bias, grad = operands(2, 5, 7, 19, 101, dtype, device_of(impl))
    expected = results(x, labels, weight, bias, grad, impl)
    x, weight, grad = (with_layout(t, layout) for t in (x, weight, grad))
    ours = results(x, labels.mT.contiguous().mT, weight, bias, grad, impl)
    for o, e in zip(ours, expected, strict=True):
        assert torch.equal(o, e)


@pytest.mark.parametrize("impl", FUSED)
def test_expanded_gradient(impl):
    x, labels, weight, bias, grad = operands(2, 3, 4, 9, 21, device=device_of(impl))
    flat = grad[:1, :1, :1, :1].expand_as(grad)
    ours = results(x, labels, weight, bias, flat, impl)
    for o, e in zip(ours, results(x, labels, weight, bias, flat.clone(), impl), strict=True):
        assert torch.equal(o, e)


@pytest.mark.parametrize("impl", FUSED)
def test_offsets_beyond_32_bits(impl):
    # Two columns, 2^31 elements apart. On the CPU only their pages are ever touched.
    base = torch.empty(2**31 + 1, dtype=torch.float16, device=device_of(impl))
    far = base[None, None, None, :: 2**31]
    far.copy_(torch.tensor([1.0, -2.0]))
    labels = torch.zeros(1, 1, 2, dtype=torch.long, device=far.device)
    weight = torch.ones(1, 1, 3, 3, dtype=torch.float16, device=far.device)
    assert (class_conv2d(far, labels, weight, impl=impl) == -1).all()


@pytest.mark.parametrize("impl", FUSED)
def test_labels_beyond_32_bits(impl):
    x, labels, weight, bias, grad = operands(1, 2, 3, 11, 40, device=device_of(impl))
    expected = results(x, labels, weight, bias, grad, impl)
    for wide in (labels * 2**32, labels * 2**40 - 2**62, -labels):
        ours = results(x, wide, weight, bias, grad, impl)
        assert all(torch.equal(o, e) for o, e in zip(ours, expected, strict=True))


@pytest.mark.parametrize("impl", FUSED)
@pytest.mark.parametrize("dtype", [torch.uint8, torch.int16, torch.int32])
def test_void_is_a_class(dtype, impl):
    x, labels, weight, bias, grad = operands(1, 3, 3, 7, 30, device=device_of(impl))
    void = torch.where(labels == 2, 255, labels)
    expected = results(x, labels, weight, bias, grad, impl)
    ours = results(x, void.to(dtype), weight, bias, grad, impl)
    assert all(torch.equal(o, e) for o, e in zip(ours, expected, strict=True))


@pytest.mark.parametrize("impl", FUSED)
@pytest.mark.parametrize("needs", range(8))
def test_every_subset_of_requires_grad(needs, impl):
    x, labels, weight, bias, grad = operands(1, 5, 3, 10, 20, device=device_of(impl))
    expected = results(x, labels, weight, bias, grad, impl)[1:]
    inputs = [
        t.clone().requires_grad_(bool(needs >> i & 1)) for i, t in enumerate((x, weight, bias))
    ]
    y = class_conv2d(inputs[0], labels, *inputs[1:], negative_slope=0.2, impl=impl)
    assert y.requires_grad == (needs > 0)
    if needs:
        y.backward(grad)
    for t, e in zip(inputs, expected, strict=True):
        assert torch.equal(t.grad, e) if t.requires_grad else t.grad is None


@needs_library
def test_threads_do_not_change_the_result():
    inputs = operands(2, 17, 9, 40, 200)
    threads = torch.get_num_threads()
    found = []
    for count in (1, 3):
        torch.set_num_threads(count)
        found.append(results(*inputs, "cpu"))
    torch.set_num_threads(threads)
    assert all(torch.equal(a, b) for a, b in zip(*found, strict=True))


@pytest.mark.parametrize("impl", FUSED)
def test_no_channels_and_no_outputs(impl):
    for channels, outputs in ((0, 2), (2, 0)):
        x, labels, weight, bias, grad = operands(1, channels, outputs, 3, 4, device=device_of(impl))
        y, grad_x, grad_weight, grad_bias = results(x, labels, weight, bias, grad, impl)
        assert torch.equal(y, bias[:, None, None].expand_as(y))
        assert not grad_x.any()
        assert grad_weight.shape == weight.shape
        torch.testing.assert_close(grad_bias, grad.sum((0, 2, 3)))


@needs_library
def test_peak_memory(peak_memory):
    x, labels, weight, bias, grad = operands(2, 16, 8, 64, 128)
    x.requires_grad_(), weight.requires_grad_()

    def step() -> tuple[Tensor, ...]:
        y = class_conv2d(x, labels, weight, bias, negative_slope=0.2)
        return y, *torch.autograd.grad(y, (x, weight), grad)

    step()
    # The result, the input's gradient, and at most 32 parts of the weights'.
    size = x.nbytes + grad.nbytes
    assert size <= peak_memory(step) < size + 35 * (weight.nbytes + bias.nbytes) + 4096


# One instruction set, all of its micro-kernels.
ISA_SCRIPT = """
import os, torch
from ecgan_kernels import class_conv2d, cpu_isa
assert cpu_isa() == os.environ.get("ECGAN_CPU_ISA", cpu_isa())
for dtype in (torch.float32, torch.float16, torch.bfloat16, torch.float64):
    for channels, outputs in ((1, 2), (3, 4), (5, 3), (7, 6)):
        torch.manual_seed(channels)
        x = torch.randn(1, channels, 11, 131).to(dtype).requires_grad_()
        weight = torch.randn(outputs, channels, 3, 3).to(dtype).requires_grad_()
        labels = torch.randint(0, 2, (1, 11, 131)).cummax(2).values
        found = []
        for impl, kind in (("cpu", dtype), ("reference", torch.float64)):
            wide = [t.detach().to(kind).requires_grad_() for t in (x, weight)]
            y = class_conv2d(wide[0], labels, wide[1], negative_slope=0.1, impl=impl)
            grad = torch.arange(y.numel(), dtype=torch.float64).cos().to(dtype).view(y.shape)
            found.append((y, *torch.autograd.grad(y, wide, grad.to(kind))))
        for o, e in zip(*found):
            ulps = 64 if dtype == torch.float64 else 8  # the truth is no better there
            tolerance = ulps * torch.finfo(dtype).eps * e.abs().max().item()
            torch.testing.assert_close(o.double(), e, rtol=0, atol=tolerance)
"""


@needs_library
@pytest.mark.parametrize("isa", ["baseline", "avx2", "avx512"])
def test_each_instruction_set(isa):
    known = ["baseline", "avx2", "avx512"]
    if known.index(isa) > known.index(cpu_isa()):
        pytest.skip(f"this processor has no {isa}")
    if isa == cpu_isa():
        exec(ISA_SCRIPT, {})
        return
    run = subprocess.run(
        [sys.executable, "-c", ISA_SCRIPT],
        env={**os.environ, "ECGAN_CPU_ISA": isa},
        capture_output=True,
        text=True,
    )
    assert run.returncode == 0, run.stderr


@pytest.mark.parametrize("impl", FUSED)
def test_opcheck(impl, with_layout):
    x, labels, weight, bias, grad = operands(2, 3, 4, 5, 7, device=device_of(impl))
    x = with_layout(x, "channels_last").requires_grad_()
    forward, backward = torch.ops.ecgan.class_conv2d, torch.ops.ecgan.class_conv2d_backward
    weight.requires_grad_(), bias.requires_grad_()
    opcheck(forward.default, (x, labels, weight, bias, 0.2))
    opcheck(forward.default, (x, labels, weight, None, 1.0))
    x, weight, grad = x.detach(), weight.detach(), with_layout(grad, "transposed")
    for needs in ((True, True, True), (True, False, False), (False, False, True)):
        opcheck(backward.default, (grad, x, labels, weight, 0.2, *needs))


@pytest.mark.parametrize("impl", FUSED)
def test_autocast_keeps_the_weights_precision(impl):
    device = device_of(impl)
    x, labels, weight, bias, grad = operands(1, 8, 4, 9, 33, device=device)
    with torch.autocast(device, torch.bfloat16):
        ours = results(x, labels, weight, bias, grad.bfloat16(), impl)
        eager = results(x, labels, weight, bias, grad.bfloat16(), "reference")
    assert [t.dtype for t in ours] == [torch.bfloat16, *[torch.float32] * 3]
    for o, e in zip(ours, eager, strict=True):
        torch.testing.assert_close(o, e, rtol=1e-2, atol=1e-2 if o.dtype == torch.bfloat16 else 0.1)


@needs_library
def test_second_derivative_is_refused():
    x, labels, weight, bias, _ = operands(1, 2, 2, 3, 3)
    x.requires_grad_()
    y = class_conv2d(x, labels, weight, bias, impl="cpu")
    (first,) = torch.autograd.grad(y.square().sum(), x, create_graph=True)
    with pytest.raises(RuntimeError, match="differentiable once"):
        first.sum().backward()


@needs_library
@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"x": torch.ones(2, 3, 4)}, r"x: expected shape \[B, C, H, W\]"),
        ({"x": torch.ones(2, 3, 4, 5).int()}, "x: expected float32"),
        ({"labels": torch.ones(2, 4, 4).long()}, "labels: expected shape"),
        ({"weight": torch.ones(2, 2, 3, 3)}, "weight: expected shape"),
        ({"weight": torch.ones(2, 3, 3, 3).int()}, "weight: expected float32"),
        ({"bias": torch.ones(3)}, r"bias: expected shape \[O\]"),
    ],
)
def test_the_operator_itself_checks(change, message):
    arguments = {
        "x": torch.ones(2, 3, 4, 5),
        "labels": torch.ones(2, 4, 5).long(),
        "weight": torch.ones(2, 3, 3, 3),
        "bias": None,
        **change,
    }
    with pytest.raises(RuntimeError, match=message):
        torch.ops.ecgan.class_conv2d(**arguments, negative_slope=1.0)


@needs_library
@pytest.mark.skipif(
    not os.environ.get("ECGAN_TEST_DATA"), reason="ECGAN_TEST_DATA names no folder of label maps"
)
def test_real_layouts_equal_a_masked_convolution_a_class():
    image = pytest.importorskip("PIL.Image")
    files = sorted(Path(os.environ["ECGAN_TEST_DATA"], "coco_stuff", "val_label").glob("*.png"))[:3]
    if not files:
        pytest.skip("no coco_stuff here")

    def resized(file: Path) -> Tensor:
        with image.open(file) as opened:
            return torch.from_numpy(np.array(opened.resize((140, 100), image.Resampling.NEAREST)))

    labels = torch.stack([resized(file) for file in files])  # uint8, 255 is void
    assert 255 in labels.unique()
    torch.manual_seed(0)
    x = torch.randn(3, 8, *labels.shape[1:], dtype=torch.float64)
    weight = torch.randn(5, 8, 3, 3, dtype=torch.float64)
    bias = torch.randn(5, dtype=torch.float64)
    grad = torch.randn(3, 5, *labels.shape[1:], dtype=torch.float64)
    found = results(x, labels, weight, bias, grad, "cpu", slope=None)

    inputs = [t.detach().requires_grad_() for t in (x, weight, bias)]
    y = inputs[2][:, None, None].expand(3, 5, *labels.shape[1:])
    for label in labels.unique():
        mask = (labels == label)[:, None]
        y = y + torch.nn.functional.conv2d(inputs[0] * mask, inputs[1], padding=1) * mask
    expected = [y.detach(), *torch.autograd.grad(y, inputs, grad)]
    for ours, theirs in zip(found, expected, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-10, atol=1e-10)
