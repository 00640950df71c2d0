"""label_conv2d against a loop over output pixels and taps in float64."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import ecgan_kernels
import numpy as np
import pytest
import torch
import torch.nn.functional as F
from ecgan_kernels import cpu_isa
from ecgan_kernels.label_conv2d import label_conv2d
from torch import Tensor
from torch.library import opcheck

IGNORE = 255
CPU, CUDA = ecgan_kernels.libraries()
needs_library = pytest.mark.skipif(not CPU.loaded, reason=str(CPU.problem))
needs_cuda = pytest.mark.skipif(
    not (CUDA.loaded and torch.cuda.is_available()), reason="needs a GPU and _C_cuda"
)
FUSED = [
    pytest.param("cpu", marks=needs_library),
    pytest.param("cuda", marks=[pytest.mark.gpu, needs_cuda]),
]
IMPLS = [*FUSED, "reference"]
DTYPES = [torch.float32, torch.float16, torch.bfloat16]


def device_of(impl: str) -> str:
    return "cuda" if impl == "cuda" else "cpu"


def brute_force(
    labels: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    stride: tuple[int, int] = (1, 1),
    padding: tuple[int, int] = (0, 0),
    ignore: int = IGNORE,
    edges: Tensor | None = None,
    scale: Tensor | None = None,
) -> Tensor:
    """Sums one weight column per tap, from the equation of the docstring; differentiable."""
    batch, height, width = labels.shape
    kernel_height, kernel_width = weight.shape[2:]
    rows = (height + 2 * padding[0] - kernel_height) // stride[0] + 1
    columns = (width + 2 * padding[1] - kernel_width) // stride[1] + 1
    start = weight.new_zeros(weight.shape[0]) if bias is None else bias
    out = []
    for b in range(batch):
        for row in range(rows):
            for column in range(columns):
                y = start
                for i in range(kernel_height):
                    for j in range(kernel_width):
                        r = row * stride[0] + i - padding[0]
                        c = column * stride[1] + j - padding[1]
                        if 0 <= r < height and 0 <= c < width:
                            label = int(labels[b, r, c])
                            times = 1.0 if scale is None else float(scale[b, r, c])
                            if label != ignore:
                                y = y + times * weight[:, label, i, j]
                            if edges is not None and edges[b, 0, r, c]:
                                y = y + times * weight[:, -1, i, j]
                out.append(y)
    return torch.stack(out).view(batch, rows, columns, -1).permute(0, 3, 1, 2)


def example(
    height: int = 5, width: int = 6, classes: int = 4, outputs: int = 3, kernel=(3, 3)
) -> tuple[Tensor, Tensor, Tensor]:
    generator = torch.Generator().manual_seed(height * width)
    labels = torch.randint(0, classes, (2, height, width), generator=generator)
    labels[torch.rand(labels.shape, generator=generator) < 0.2] = IGNORE
    weight = torch.randn(outputs, classes, *kernel, generator=generator, dtype=torch.float64)
    bias = torch.randn(outputs, generator=generator, dtype=torch.float64)
    return labels, weight.requires_grad_(), bias.requires_grad_()


# Kernel, stride and padding of convolutions on [5, 6] and [7, 4].
GEOMETRIES = [
    ((1, 1), 1, 0),
    ((3, 3), 1, 1),
    ((3, 3), 1, 0),
    ((3, 3), 2, 1),
    ((4, 4), 2, 2),
    ((5, 5), 1, 2),
    ((2, 3), (2, 1), (0, 1)),
    ((3, 3), (1, 3), (3, 0)),
    ((7, 7), 1, 3),
]


@pytest.mark.parametrize("impl", ["reference", pytest.param("cpu", marks=needs_library)])
@pytest.mark.parametrize("extras", ["none", "edges", "scale", "both"])
@pytest.mark.parametrize(("kernel", "stride", "padding"), GEOMETRIES)
@pytest.mark.parametrize("size", [(5, 6), (7, 4)])
def test_value_and_gradient(size, kernel, stride, padding, extras, impl):
    labels, weight, bias = example(*size, kernel=kernel)
    options = {}
    if extras in ("edges", "both"):
        weight = torch.cat([weight.detach(), torch.randn_like(weight[:, :1])], 1).requires_grad_()
        options["edges"] = torch.rand(2, 1, *size) < 0.3
    if extras in ("scale", "both"):
        options["scale"] = torch.randint(1, 3, (2, *size)) / 4
    actual = label_conv2d(
        labels, weight, bias, stride=stride, padding=padding, impl=impl, **options
    )
    pairs = [v if isinstance(v, tuple) else (v, v) for v in (stride, padding)]
    expected = brute_force(labels, weight, bias, *pairs, **options)
    torch.testing.assert_close(actual, expected)
    grad = torch.randn_like(expected)
    for ours, theirs in zip(
        torch.autograd.grad(actual, (weight, bias), grad),
        torch.autograd.grad(expected, (weight, bias), grad),
        strict=True,
    ):
        torch.testing.assert_close(ours, theirs)


def areas(batch: int, height: int, width: int, classes: int, void: bool = True) -> Tensor:
    """A label map like a layout's: rectangles, some void pixels and, at the right, noise."""
    generator = torch.Generator().manual_seed(height * 1000 + width)
    labels = torch.zeros(batch, height, width, dtype=torch.int64)
    for label in range(1, classes):
        top, left = (int(torch.randint(0, n, (), generator=generator)) for n in (height, width))
        labels[label % max(batch, 1) :: 2, top : top + 9, left : left + 30] = label
    third = labels[..., width - width // 3 :]
    third.copy_(torch.randint(0, classes, third.shape, generator=generator))
    if void:
        labels[torch.rand(labels.shape, generator=generator) < 0.02] = IGNORE
    return labels


def both_ways(
    labels: Tensor, weight: Tensor, bias: Tensor | None, grad: Tensor | None, impl: str, **options
) -> tuple[Tensor, ...]:
    """The result and its gradients; ``grad`` None: of ones."""
    inputs = [x.detach().requires_grad_() for x in (weight, bias) if x is not None]
    out = label_conv2d(labels, inputs[0], *inputs[1:], impl=impl, **options)
    grad = torch.ones_like(out) if grad is None else grad
    return (out.detach(), *torch.autograd.grad(out, inputs, grad))


@pytest.mark.parametrize("impl", FUSED)
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("size", [(1, 1), (2, 17), (17, 2), (31, 257), (64, 61)], ids=str)
@pytest.mark.parametrize(("kernel", "stride"), [(3, 1), (4, 2), (7, 3)])
def test_accuracy(kernel, stride, size, dtype, impl, assert_accurate):
    classes, outputs = 23, 37
    device = device_of(impl)
    labels = areas(3, *size, classes).to(device)
    weight = torch.randn(outputs, classes + 1, kernel, kernel).to(device, dtype)
    bias = torch.randn(outputs).to(device, dtype)
    options = {
        "stride": stride,
        "padding": kernel // 2 + 1,
        "edges": (torch.rand(3, 1, *size) < 0.1).to(device),
        "scale": torch.tensor([1.0, 0.5, 1.0]).repeat(size[1])[: size[1]].to(device),
    }
    shape = both_ways(labels, weight, bias, None, "reference", **options)[0].shape
    grad = torch.randn(shape, device=device).to(dtype)
    ours = both_ways(labels, weight, bias, grad, impl, **options)
    eager = both_ways(labels, weight, bias, grad, "reference", **options)
    truth = both_ways(
        labels, *(x.double() for x in (weight, bias)), grad.double(), "reference", **options
    )
    for o, e, t in zip(ours, eager, truth, strict=True):
        assert_accurate(o, e, t)


@pytest.mark.parametrize("impl", FUSED)
def test_neighbourhoods(impl, assert_accurate):
    # What LabelSPADE asks for: distinct 3 x 3 neighbourhoods, one output each.
    labels = areas(1, 60, 70, 9, void=False)[0].unfold(0, 3, 1).unfold(1, 3, 1).reshape(-1, 3, 3)
    labels = labels.to(device_of(impl))
    weight, bias = torch.randn(48, 9, 3, 3), torch.randn(48)
    grad = torch.randn(len(labels), 48, 1, 1)
    weight, bias, grad = (x.to(device_of(impl)) for x in (weight, bias, grad))
    eager = both_ways(labels, weight, bias, grad, "reference")
    truth = both_ways(labels, weight.double(), bias.double(), grad.double(), "reference")
    for g in (grad, grad[..., 0, 0].t().contiguous().t()[..., None, None]):
        for o, e, t in zip(both_ways(labels, weight, bias, g, impl), eager, truth, strict=True):
            assert_accurate(o, e, t)


@pytest.mark.parametrize("impl", FUSED)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize("shape", [(2, 19, 23), (5, 3, 3), (1, 3, 40)], ids=str)
def test_layouts_of_the_gradient(layout, shape, dtype, impl, with_layout):
    device = device_of(impl)
    labels = areas(*shape, 7).to(device)
    weight = torch.randn(21, 7, 3, 3).to(device, dtype)
    bias = torch.randn(21).to(device, dtype)
    grad = torch.randn(shape[0], 21, shape[1] - 2, shape[2] - 2).to(device, dtype)
    expected = both_ways(labels, weight, bias, grad, impl)
    found = both_ways(labels, weight, bias, with_layout(grad, layout), impl)
    for o, e in zip(found, expected, strict=True):
        torch.testing.assert_close(o, e, rtol=1e-5 if dtype == torch.float32 else 1e-2, atol=1e-5)


@pytest.mark.parametrize("impl", IMPLS)
def test_stride_0_gradient_and_transposed_labels(impl):
    device = device_of(impl)
    labels = areas(2, 9, 12, 4).to(device)
    weight = torch.randn(5, 4, 3, 3, device=device)
    columns = labels.mT.contiguous().mT
    expected = both_ways(
        labels, weight, None, torch.ones(2, 5, 9, 12, device=device), impl, padding=1
    )
    grad = torch.ones(1, device=device).expand(2, 5, 9, 12)
    for o, e in zip(both_ways(columns, weight, None, grad, impl, padding=1), expected, strict=True):
        torch.testing.assert_close(o, e)


@pytest.mark.parametrize("impl", IMPLS)
def test_slices_of_a_larger_weight(impl):
    device = device_of(impl)
    labels = areas(2, 9, 12, 4).to(device)
    large = torch.randn(5, 9, 3, 3, device=device, requires_grad=True)
    for part in (large[:, 2:6], large[:, 1::2], large.flip(1)[:, :4].mT):
        ours = label_conv2d(labels, part, impl=impl)
        expected = label_conv2d(labels, part.contiguous(), impl="reference")
        torch.testing.assert_close(ours, expected)
        g = torch.randn_like(ours)
        ours, expected = (torch.autograd.grad(y, large, g)[0] for y in (ours, expected))
        torch.testing.assert_close(ours, expected)


@pytest.mark.parametrize("impl", IMPLS)
def test_average_pooled_labels(impl):
    # The column of a pooled map is that of nine shifted maps, each counted 1 / 9.
    device = device_of(impl)
    labels, weight = areas(2, 12, 15, 6).to(device), torch.randn(7, 6, 3, 3, device=device)
    one_hot = (labels[:, None] == torch.arange(6, device=device)[:, None, None]).float()
    expected = F.conv2d(F.avg_pool2d(one_hot, 3, 1), weight)
    ninth = torch.full((1, 1, 1), 1 / 9, device=device)
    ours = sum(
        label_conv2d(labels[:, i : i + 10, j : j + 13], weight, scale=ninth, impl=impl)
        for i in range(3)
        for j in range(3)
    )
    torch.testing.assert_close(ours, expected)


@pytest.mark.parametrize("impl", IMPLS)
def test_edges_are_whatever_is_not_zero(impl):
    labels, weight, bias = (x.detach().to(device_of(impl)) for x in example())
    weight, bias = weight.float(), bias.float()
    edges = torch.tensor([0.0, -1.0, 0.5, 0.0, 0.0, 3.0], device=device_of(impl))
    edges = edges.expand(2, 1, 5, 6)
    labels = labels.clamp(max=3).where(labels == IGNORE, labels % 3)
    labels[labels == 3] = IGNORE
    found = [
        label_conv2d(labels, weight, bias, edges=e, impl=impl)
        for e in (edges, edges != 0, edges.int() | (edges != 0))
    ]
    assert torch.equal(found[0], found[1])
    assert torch.equal(found[0], found[2])
    expected = brute_force(
        labels.cpu(), weight.double().cpu(), bias.double().cpu(), edges=edges.cpu()
    )
    torch.testing.assert_close(found[0].double().cpu(), expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("size", [(1, 1), (1, 17), (2, 1)])
def test_small_maps(size):
    labels, weight, _ = example(*size)
    actual = label_conv2d(labels, weight, padding=1)
    torch.testing.assert_close(actual, brute_force(labels, weight, None, padding=(1, 1)))


def test_ignore_index_inside_the_classes():
    labels, weight, _ = example()
    labels[labels == IGNORE] = 0
    actual = label_conv2d(labels, weight, padding=1, ignore_index=2)
    expected = brute_force(labels, weight, None, padding=(1, 1), ignore=2)
    torch.testing.assert_close(actual, expected)


def test_all_ignored_gives_the_bias():
    labels, weight, bias = example()
    out = label_conv2d(torch.full_like(labels, IGNORE), weight, bias)
    torch.testing.assert_close(out, bias[:, None, None].expand_as(out))


@pytest.mark.parametrize("needed", ["weight", "bias"])
def test_one_gradient_at_a_time(needed):
    labels, weight, bias = example()
    weight.requires_grad_(needed == "weight")
    bias.requires_grad_(needed == "bias")
    wanted = weight if needed == "weight" else bias
    assert torch.autograd.grad(label_conv2d(labels, weight, bias).sum(), wanted)[0].any()


def test_gradcheck():
    labels, weight, bias = example(4, 3)
    assert torch.autograd.gradcheck(
        lambda w, b: label_conv2d(labels, w, b, padding=1, stride=2), (weight, bias)
    )


@pytest.mark.parametrize("dtype", [torch.uint8, torch.int16, torch.int32, torch.int64])
def test_label_dtypes(dtype):
    labels, weight, bias = example()
    assert torch.equal(
        label_conv2d(labels.to(dtype), weight, bias), label_conv2d(labels, weight, bias)
    )


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
def test_weight_dtypes(dtype):
    labels, weight, bias = example()
    actual = label_conv2d(labels, weight.to(dtype), bias.to(dtype), padding=1)
    assert actual.dtype == dtype
    truth = brute_force(labels, weight.to(dtype).double(), bias.to(dtype).double(), padding=(1, 1))
    tolerance = 4 * torch.finfo(dtype).eps
    torch.testing.assert_close(actual.double(), truth, rtol=tolerance, atol=4 * tolerance)


def test_empty_batch():
    _, weight, bias = example()
    out = label_conv2d(torch.zeros(0, 5, 6).long(), weight, bias)
    assert out.shape == (0, 3, 3, 4)
    out.sum().backward()
    assert (weight.grad == 0).all()


def test_non_contiguous():
    labels, weight, bias = example()
    expected = label_conv2d(labels, weight, bias)
    turned = weight.detach().to(memory_format=torch.channels_last)
    columns = labels.mT.contiguous().mT
    torch.testing.assert_close(label_conv2d(columns, turned, bias), expected)


@pytest.mark.parametrize("impl", IMPLS)
def test_autocast_follows_conv2d(impl):
    labels, weight, bias = (x.to(device_of(impl)) for x in example())
    weight, bias = (x.detach().float().requires_grad_() for x in (weight, bias))
    expected = label_conv2d(labels, weight, bias, impl=impl)
    with torch.autocast(device_of(impl), dtype=torch.bfloat16):
        actual = label_conv2d(labels, weight, bias, impl=impl)
    assert actual.dtype == torch.bfloat16
    torch.testing.assert_close(actual.float(), expected, rtol=2e-2, atol=5e-2)
    actual.sum().backward()
    assert (weight.grad.dtype, bias.grad.dtype) == (torch.float32, torch.float32)


@pytest.mark.parametrize("impl", [*FUSED, "auto", "reference"])
def test_compiles_with_gradients(impl):
    def step(labels: Tensor, weight: Tensor, edges: Tensor, scale: Tensor) -> Tensor:
        out = label_conv2d(labels, weight * 2, edges=edges, scale=scale, padding=1, impl=impl)
        return out.square()

    compiled = torch.compile(step, fullgraph=True, backend="aot_eager", dynamic=True)
    for size in (5, 9):
        labels = areas(2, size, 8, 3, void=False).to(device_of(impl))
        weight = torch.randn(4, 4, 3, 3, device=device_of(impl), requires_grad=True)
        edges, scale = labels[:, None] == 1, torch.rand(2, size, 8, device=device_of(impl))
        ours = torch.autograd.grad(compiled(labels, weight, edges, scale).sum(), weight)
        eager = torch.autograd.grad(step(labels, weight, edges, scale).sum(), weight)
        torch.testing.assert_close(ours, eager)


def test_compiles_to_one_graph():
    labels, weight, bias = example()
    compiled = torch.compile(label_conv2d, fullgraph=True, backend="aot_eager")
    actual = compiled(labels, weight, bias, padding=1)
    torch.testing.assert_close(actual, label_conv2d(labels, weight, bias, padding=1))
    # Values cannot be looked at in a graph: out-of-range labels contribute nothing there.
    wrong = torch.where(labels == IGNORE, -9, labels)
    torch.testing.assert_close(compiled(wrong, weight, bias, padding=1), actual)


def test_equals_conv2d_of_the_one_hot_form_at_many_classes():
    labels = torch.randint(0, 183, (1, 9, 9), dtype=torch.uint8)
    weight = torch.randn(4, 183, 3, 3, dtype=torch.float64)
    columns = F.one_hot(labels.long(), 183).permute(0, 3, 1, 2).double()
    torch.testing.assert_close(
        label_conv2d(labels, weight, padding=1), F.conv2d(columns, weight, padding=1)
    )


@needs_library
def test_threads_do_not_change_the_result():
    labels = areas(3, 70, 90, 11)
    weight, bias, grad = torch.randn(40, 11, 3, 3), torch.randn(40), torch.randn(3, 40, 70, 90)
    threads = torch.get_num_threads()
    results = []
    for count in (1, 3):
        torch.set_num_threads(count)
        results.append(both_ways(labels, weight, bias, grad, "cpu", padding=1))
    torch.set_num_threads(threads)
    assert all(torch.equal(a, b) for a, b in zip(*results, strict=True))


@needs_library
def test_peak_memory(peak_memory):
    labels = areas(2, 128, 128, 150)
    weight = torch.randn(64, 150, 3, 3, requires_grad=True)
    grad = torch.randn(2, 64, 128, 128)

    def step() -> tuple[Tensor, ...]:
        out = label_conv2d(labels, weight, padding=1)
        return out, *torch.autograd.grad(out, weight, grad)

    step()
    # The result, the gradient and, during either pass, the map's codes and the packed weight.
    assert peak_memory(step) < grad.nbytes + 4 * weight.nbytes + 4 * labels.nbytes


# One instruction set, all dtypes, channels that fill no vector, runs of every length.
ISA_SCRIPT = """
import os, torch
from ecgan_kernels import cpu_isa, label_conv2d
assert cpu_isa() == os.environ.get("ECGAN_CPU_ISA", cpu_isa())
torch.manual_seed(0)
labels = torch.randint(0, 5, (2, 37, 41)).cummax(2)[0]
labels[:, ::3] = torch.randint(0, 5, labels[:, ::3].shape)
for dtype in (torch.float32, torch.float16, torch.bfloat16, torch.float64):
    for outputs in (1, 16, 29):
        for options in ({"padding": 1}, {"stride": 2}, {"scale": torch.rand(41)}):
            x = [torch.randn(outputs, 5, 3, 3), torch.randn(outputs)]
            x = [t.to(dtype).requires_grad_() for t in x]
            wide = [t.detach().double().requires_grad_() for t in x]
            ours = label_conv2d(labels, *x, impl="cpu", **options)
            truth = label_conv2d(labels, *wide, impl="reference", **options)
            grad = torch.randn_like(ours)
            ours = ours, *torch.autograd.grad(ours, x, grad)
            truth = truth, *torch.autograd.grad(truth, wide, grad.double())
            for o, t in zip(ours, truth):
                # Sums of some thousand terms may come out near 0.
                tolerance = 16 * torch.finfo(dtype).eps * max(t.abs().max().item(), 100)
                torch.testing.assert_close(o.double(), t, rtol=0, atol=tolerance)
"""


@needs_library
@pytest.mark.parametrize("isa", ["baseline", "avx2", "avx512"])
def test_each_instruction_set(isa):
    known = ["baseline", "avx2", "avx512"]
    if known.index(isa) > known.index(cpu_isa()):
        pytest.skip(f"this processor has no {isa}")
    run = subprocess.run(
        [sys.executable, "-c", ISA_SCRIPT],
        env={**os.environ, "ECGAN_CPU_ISA": isa},
        capture_output=True,
        text=True,
    )
    assert run.returncode == 0, run.stderr


@pytest.mark.parametrize("impl", FUSED)
@pytest.mark.parametrize("extras", [False, True])
def test_opcheck(extras, impl, with_layout):
    device = device_of(impl)
    labels = areas(2, 6, 8, 3).to(device)
    weight = torch.randn(5, 4, 3, 3, device=device, requires_grad=True)
    bias = torch.randn(5, device=device, requires_grad=True) if extras else None
    edges = (labels == 1)[:, None] if extras else None
    scale = torch.rand(2, 6, 8, device=device) if extras else None
    geometry = (1, 2, 1, 0, IGNORE)
    opcheck(
        torch.ops.ecgan.label_conv2d.default,
        (labels, weight, bias, edges, scale, *geometry, False),
    )
    grad = with_layout(torch.randn(2, 5, 6, 3, device=device), "transposed")
    for needs in ((True, True), (True, False), (False, True)):
        opcheck(
            torch.ops.ecgan.label_conv2d_backward.default,
            (grad, labels, weight.detach(), edges, scale, *geometry, *needs),
        )


@needs_library
def test_second_derivative_is_refused():
    labels, weight, _ = example()
    grad = torch.ones(2, 3, 3, 4, dtype=torch.float64, requires_grad=True)
    (first,) = torch.autograd.grad(label_conv2d(labels, weight), weight, grad, create_graph=True)
    with pytest.raises(RuntimeError, match="differentiable once"):
        first.sum().backward()


@needs_library
def test_the_raw_op_checks_too():
    op = torch.ops.ecgan.label_conv2d
    rest = (1, 1, 0, 0, IGNORE, True)
    with pytest.raises(RuntimeError, match="labels: expected labels in range"):
        op(LABELS + 3, WEIGHT, None, None, None, *rest)
    with pytest.raises(RuntimeError, match="labels: expected uint8"):
        op(LABELS.bool(), WEIGHT, None, None, None, *rest)
    with pytest.raises(RuntimeError, match="bias: expected the dtype of weight"):
        op(LABELS, WEIGHT, BIAS.double(), None, None, *rest)
    with pytest.raises(RuntimeError, match="edges: expected bool"):
        op(LABELS, WEIGHT, None, LABELS[:, None], None, *rest)
    with pytest.raises(RuntimeError, match="scale: expected the size of labels"):
        op(LABELS, WEIGHT, None, None, torch.ones(1, 4, 4), *rest)
    with pytest.raises(RuntimeError, match="kernel within the padded labels"):
        op(LABELS[:, :2], WEIGHT, None, None, None, *rest)


DATA = os.environ.get("ECGAN_TEST_DATA", "")


@pytest.mark.skipif(not DATA, reason="ECGAN_TEST_DATA names no folder of real label maps")
@pytest.mark.parametrize("impl", FUSED)
@pytest.mark.parametrize(("kernel", "stride", "padding"), [(3, 1, 1), (4, 2, 2)])
def test_real_layouts(kernel, stride, padding, impl, assert_accurate):
    image = pytest.importorskip("PIL.Image")
    files = sorted(Path(DATA, "coco_stuff", "val_label").glob("*.png"))[:3]
    if not files:
        pytest.skip("no coco_stuff here")

    def resized(file: Path) -> Tensor:
        with image.open(file) as opened:
            return torch.from_numpy(np.array(opened.resize((96, 80), image.Resampling.NEAREST)))

    labels = torch.stack([resized(f) for f in files]).long()
    instances = torch.stack([resized(f.parents[1] / "val_inst" / f.name).long() for f in files])
    edges = torch.zeros(len(files), 1, 80, 96, dtype=torch.bool)
    edges[:, 0, 1:] |= instances[:, 1:] != instances[:, :-1]
    edges[..., 1:] |= (instances[..., 1:] != instances[..., :-1])[:, None]
    assert (labels == IGNORE).any()
    weight, bias = torch.randn(24, 183, kernel, kernel), torch.randn(24)
    options = {"stride": stride, "padding": padding, "edges": edges.to(device_of(impl))}
    labels, weight, bias = (x.to(device_of(impl)) for x in (labels, weight, bias))
    grad = torch.randn_like(label_conv2d(labels, weight, bias, impl="reference", **options))
    ours = both_ways(labels, weight, bias, grad, impl, **options)
    eager = both_ways(labels, weight, bias, grad, "reference", **options)
    wide = (x.double() for x in (weight, bias, grad))
    truth = both_ways(labels, *wide, "reference", **options)
    for o, e, t in zip(ours, eager, truth, strict=True):
        assert_accurate(o, e, t)


LABELS, WEIGHT, BIAS = torch.zeros(2, 4, 4).long(), torch.randn(5, 3, 3, 3), torch.randn(5)


@pytest.mark.parametrize(
    ("error", "words", "arguments", "options"),
    [
        (TypeError, "labels must be uint8", (LABELS.float(), WEIGHT), {}),
        (ValueError, "labels must have 3 dimensions", (LABELS[0], WEIGHT), {}),
        (TypeError, "weight must be a torch.Tensor", (LABELS, None), {}),
        (TypeError, "weight must be float32", (LABELS, WEIGHT.int()), {}),
        (ValueError, "weight must have 4 dimensions", (LABELS, WEIGHT[0]), {}),
        (ValueError, "weight must be on the device", (LABELS, WEIGHT.to("meta")), {}),
        (ValueError, "kernel height between 1 and .* \\(2\\)", (LABELS[:, :2], WEIGHT), {}),
        (ValueError, "kernel width", (LABELS[:, :, :2], WEIGHT), {}),
        (ValueError, r"bias must have shape \(5,\)", (LABELS, WEIGHT, BIAS[1:]), {}),
        (TypeError, "bias must have the dtype of weight", (LABELS, WEIGHT, BIAS.double()), {}),
        (ValueError, "stride must be at least 1", (LABELS, WEIGHT), {"stride": 0}),
        (ValueError, "stride must be one int or two", (LABELS, WEIGHT), {"stride": (1, 1, 1)}),
        (TypeError, "padding must be an int", (LABELS, WEIGHT), {"padding": "same"}),
        (ValueError, "padding must be at least 0", (LABELS, WEIGHT), {"padding": (0, -1)}),
        (TypeError, "ignore_index must be an int", (LABELS, WEIGHT), {"ignore_index": 2.0}),
        (ValueError, r"labels must lie in \[0, 3\).*holds 3", (LABELS + 3, WEIGHT), {}),
        (ValueError, "impl", (LABELS, WEIGHT), {"impl": "fast"}),
        (RuntimeError, "impl='cuda' cannot run here", (LABELS, WEIGHT), {"impl": "cuda"}),
        (TypeError, "edges must be a torch.Tensor", (LABELS, WEIGHT), {"edges": True}),
        (ValueError, r"edges must have shape \(2, 1, 4, 4\)", (LABELS, WEIGHT), {"edges": LABELS}),
        (TypeError, "scale must be float32", (LABELS, WEIGHT), {"scale": LABELS}),
        (ValueError, "scale must have shape", (LABELS, WEIGHT), {"scale": torch.ones(3, 4, 4)}),
        (ValueError, "scale must have shape", (LABELS, WEIGHT), {"scale": torch.ones(1, 2, 4, 4)}),
        (
            ValueError,
            r"labels must lie in \[0, 2\).*holds 2",
            (LABELS + 2, WEIGHT),
            {"edges": LABELS[:, None]},
        ),
    ],
)
def test_errors(error, words, arguments, options):
    with pytest.raises(error, match=words):
        label_conv2d(*arguments, **options)
