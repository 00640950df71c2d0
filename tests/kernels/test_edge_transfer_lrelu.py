"""edge_transfer_lrelu against its reference in float64: values, gradients, layouts, contract."""

from __future__ import annotations

import itertools
import os
import subprocess
import sys

import pytest
import torch
from ecgan_kernels import _library, cpu_isa, edge_transfer_lrelu, reference
from torch import Tensor
from torch.library import opcheck

needs_library = pytest.mark.skipif(not _library.CPU.loaded, reason=str(_library.CPU.problem))
needs_gpu = pytest.mark.skipif(
    not (torch.cuda.is_available() and _library.CUDA.loaded), reason="needs a GPU and _C_cuda"
)
IMPLS = [
    pytest.param("cpu", marks=needs_library),
    pytest.param("cuda", marks=[pytest.mark.gpu, needs_gpu]),
    "reference",
]
FUSED = IMPLS[:2]
DTYPES = [torch.float32, torch.float16, torch.bfloat16]
SLOPES = [0.2, 0.01, 1.0]
SHAPES = [(1,), (2,), (17,), (257,), (2, 3, 5, 7), (1, 1, 1, 1), (3, 1, 257), (4, 17, 2, 31)]


def device_of(impl: str) -> str:
    return "cuda" if impl == "cuda" else "cpu"


def gradients(
    image: Tensor, edge: Tensor, grads: tuple[Tensor, Tensor], impl: str, slope: float = 0.2
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Both results and both gradients."""
    image, edge = image.detach().requires_grad_(), edge.detach().requires_grad_()
    outs = edge_transfer_lrelu(image, edge, negative_slope=slope, impl=impl)
    return (*(x.detach() for x in outs), *torch.autograd.grad(outs, (image, edge), grads))


def assert_accurate(operands: list[Tensor], impl: str, slope: float) -> None:
    """Holds every element's error against float64 to eager's plus a few units of rounding.

    The unit of edge's gradient is epsilon times its two terms' magnitudes, times 1 + |e| where e,
    below 0, comes back from the rounded result: a relative error of e is |e| times that of
    sigmoid(e) (1 - sigmoid(e)).
    """
    image, edge, *grads = operands
    ours = gradients(image, edge, tuple(grads), impl, slope)
    eager = gradients(image, edge, tuple(grads), "reference", slope)
    wide = [x.double() for x in operands]
    truth = gradients(*wide[:2], tuple(wide[2:]), "reference", slope)
    zeros = torch.zeros_like(wide[2])
    terms = [
        gradients(*wide[:2], pair, "reference", slope)[3].abs()
        for pair in ((wide[2], zeros), (zeros, wide[3]))
    ]
    scales = [x.abs() for x in truth]
    scales[3] = terms[0] * (1 + (-wide[1]).clamp(min=0)) + terms[1]
    info = torch.finfo(image.dtype)
    # What falls below the normal numbers on the way, and comes back multiplied by the gradient.
    small = info.smallest_normal * (1 + wide[2].abs() * (1 + wide[0].abs()) + wide[3].abs())
    for o, e, t, scale in zip(ours, eager, truth, scales, strict=True):
        assert o.dtype == image.dtype
        assert o.shape == image.shape
        excess = (o.double() - t).abs() - (e.double() - t).abs() - 4 * info.eps * scale - small
        assert not excess.isnan().any()
        assert excess.max() <= 0, excess.max()


@pytest.mark.parametrize("impl", FUSED)
@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("slope", SLOPES)
def test_accuracy(slope, dtype, shape, impl):
    operands = [(3 * torch.randn(shape)).to(device_of(impl), dtype) for _ in range(4)]
    assert_accurate(operands, impl, slope)


@pytest.mark.parametrize("impl", FUSED)
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_accuracy_over_the_whole_range(dtype, impl):
    tiny = torch.logspace(-38 if dtype != torch.float16 else -4, 2, 5_000)
    edge = torch.cat([torch.linspace(-110, 110, 20_001), tiny, -tiny])
    operands = [edge.flip(0), edge, torch.randn_like(edge), torch.randn_like(edge)]
    assert_accurate([x.to(device_of(impl), dtype) for x in operands], impl, 0.2)


@pytest.mark.parametrize("impl", IMPLS)
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_zero_inf_and_nan_as_in_eager(dtype, impl):
    values = [0.0, -0.0, 1.0, -1.0, 100.0, -100.0, float("inf"), float("-inf"), float("nan")]
    pairs = torch.tensor(list(itertools.product(values, values)), dtype=dtype)
    image, edge = pairs.to(device_of(impl)).unbind(1)
    one = torch.ones_like(image)
    ours = gradients(image, edge, (one, 3 * one), impl)
    wide = [x.float() for x in (image, edge, one)]
    eager = gradients(wide[0], wide[1], (wide[2], 3 * wide[2]), "reference")
    for o, e in zip(ours, eager, strict=True):
        rounding = 4 * torch.finfo(dtype).eps  # the results are rounded before their gradients
        torch.testing.assert_close(o, e.to(dtype), rtol=rounding, atol=4 * rounding, equal_nan=True)
    edge.requires_grad_()  # and through edge's result alone, where a NaN stays with image's
    _, edge_out = edge_transfer_lrelu(image, edge, impl=impl)
    (grad_edge,) = torch.autograd.grad(edge_out.sum(), edge)
    torch.testing.assert_close(grad_edge, torch.where(edge.detach() > 0, one, 0.2 * one))


@pytest.mark.parametrize("impl", FUSED)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_layouts_of_inputs_and_gradients(layout, dtype, impl, with_layout):
    operands = [torch.randn(2, 3, 33, 31).to(device_of(impl), dtype) for _ in range(4)]
    expected = gradients(*operands[:2], tuple(operands[2:]), impl)
    names = [["contiguous"] * 4 for _ in range(4)]
    for position in range(4):  # one operand at a time, then all
        names[position][position] = layout
    for row in [*names, [layout] * 4]:
        converted = [with_layout(x, name) for x, name in zip(operands, row, strict=True)]
        results = gradients(*converted[:2], tuple(converted[2:]), impl)
        for o, e in zip(results, expected, strict=True):
            assert torch.equal(o, e)
    if layout == "channels_last":
        for x in results:
            assert x.is_contiguous(memory_format=torch.channels_last)


@pytest.mark.parametrize("impl", IMPLS)
def test_expanded_edge_and_stride_0_gradients(impl):
    image = torch.randn(2, 3, 19, 23, device=device_of(impl), requires_grad=True)
    edge = torch.randn(2, 1, 19, 23, device=device_of(impl), requires_grad=True)
    ours = edge_transfer_lrelu(image, edge.expand_as(image), impl=impl)
    eager = reference.edge_transfer_lrelu(image, edge.expand_as(image))
    torch.testing.assert_close(ours, eager)
    one = torch.ones_like(image[:1, :1, :1, :1]).expand_as(image)
    for grads in ((torch.randn_like(image), torch.randn_like(image)), (one, 2 * one)):
        torch.testing.assert_close(
            torch.autograd.grad(ours, (image, edge), grads, retain_graph=True),
            torch.autograd.grad(eager, (image, edge), grads, retain_graph=True),
        )
    scalar = torch.tensor(0.5, device=device_of(impl)).expand(2, 3, 19, 23)  # every stride is 0
    torch.testing.assert_close(
        edge_transfer_lrelu(scalar, scalar, impl=impl),
        reference.edge_transfer_lrelu(scalar, scalar),
    )


@pytest.mark.parametrize("impl", FUSED)
def test_offsets_beyond_32_bits(impl):
    # Two elements, 2^31 apart. On the CPU only their pages are ever touched.
    base = torch.empty(2**31 + 1, dtype=torch.float16, device=device_of(impl))
    far = base[:: 2**31]
    far.copy_(torch.tensor([1.0, -2.0]))
    for o, e in zip(
        edge_transfer_lrelu(far, far, impl=impl),
        reference.edge_transfer_lrelu(far.float(), far.float()),
        strict=True,
    ):
        torch.testing.assert_close(o.float(), e, atol=2e-3, rtol=0)


@pytest.mark.parametrize("impl", IMPLS)
@pytest.mark.parametrize("used", [(True, True), (True, False), (False, True)])
@pytest.mark.parametrize("needs", [(True, True), (True, False), (False, True), (False, False)])
def test_every_subset_of_requires_grad_and_of_results(needs, used, impl):
    operands = [torch.randn(3, 70, device=device_of(impl)) for _ in range(2)]
    ones = torch.ones(3, 70, device=device_of(impl))
    expected = gradients(*operands, tuple(ones * use for use in used), impl)[2:]
    inputs = [x.clone().requires_grad_(need) for x, need in zip(operands, needs, strict=True)]
    outs = edge_transfer_lrelu(*inputs, impl=impl)
    assert [x.requires_grad for x in outs] == [any(needs), needs[1]]
    total = sum(x.sum() for x, use in zip(outs, used, strict=True) if use)
    if not total.requires_grad:
        return
    total.backward()
    for x, need, e in zip(inputs, needs, expected, strict=True):
        if not need:
            assert x.grad is None
        elif x.grad is None:  # nothing that was used depends on it
            assert torch.equal(e, torch.zeros_like(e))
        else:
            assert torch.equal(x.grad, e)


@pytest.mark.parametrize("impl", [pytest.param("cpu", marks=needs_library), "reference"])
@pytest.mark.parametrize("slope", SLOPES)
def test_gradcheck(slope, impl):
    image, edge = (torch.randn(2, 3, 4, dtype=torch.float64, requires_grad=True) for _ in range(2))
    assert torch.autograd.gradcheck(
        lambda i, e: edge_transfer_lrelu(i, e, negative_slope=slope, impl=impl), (image, edge)
    )


@pytest.mark.parametrize("impl", FUSED)
@pytest.mark.parametrize("slope", [1e-30, 1e-42])
def test_tiny_slopes_stay_finite(slope, impl):
    operands = [torch.randn(100, device=device_of(impl)) for _ in range(4)]
    ours = gradients(*operands[:2], tuple(operands[2:]), impl, slope)
    eager = gradients(*operands[:2], tuple(operands[2:]), "reference", slope)
    assert all(x.isfinite().all() for x in ours)
    for o, e in zip(ours[:2], eager[:2], strict=True):
        torch.testing.assert_close(o, e)


@pytest.mark.parametrize("impl", IMPLS)
@pytest.mark.parametrize("shape", [(0,), (2, 0, 3), ()], ids=str)
def test_empty_and_scalar(shape, impl):
    x = -torch.ones(shape, device=device_of(impl))
    results = gradients(x, x, (x, x), impl)
    assert all(y.shape == shape for y in results)
    torch.testing.assert_close(results[0], x * 0.2 * 1.2689414)
    torch.testing.assert_close(results[1], x * 0.2)


@pytest.mark.parametrize("impl", FUSED)
def test_saves_the_results_and_nothing_more(impl, saved_tensors):
    image, edge = (torch.randn(8, 9, device=device_of(impl), requires_grad=True) for _ in range(2))
    outs: list[Tensor] = []
    saved = saved_tensors(lambda: outs.extend(edge_transfer_lrelu(image, edge, impl=impl)))
    assert [x.data_ptr() for x in saved] == [x.data_ptr() for x in outs]


@pytest.mark.parametrize("impl", FUSED)
@pytest.mark.parametrize("position", [0, 1])
def test_modifying_a_result_in_place_is_an_error(position, impl):
    image, edge = (torch.randn(8, 9, device=device_of(impl), requires_grad=True) for _ in range(2))
    outs = edge_transfer_lrelu(image, edge, impl=impl)
    outs[position].add_(1)
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        outs[0].sum().backward()


@needs_library
def test_peak_memory(peak_memory):
    image, edge, grad = (torch.randn(64, 1024, requires_grad=True) for _ in range(3))

    def step() -> tuple[Tensor, ...]:
        outs = edge_transfer_lrelu(image, edge)
        return *outs, *torch.autograd.grad(outs, (image, edge), (grad, grad))

    step()
    # The two results and the two gradients, to the byte but for the allocator's small change.
    size = image.numel() * image.element_size()
    assert 4 * size <= peak_memory(step) < 4 * size + 4096


@needs_library
def test_threads_do_not_change_the_result():
    operands = [torch.randn(5, 100_003) for _ in range(4)]
    threads = torch.get_num_threads()
    results = []
    for count in (1, 3):
        torch.set_num_threads(count)
        results.append(gradients(*operands[:2], tuple(operands[2:]), "cpu"))
    torch.set_num_threads(threads)
    assert all(torch.equal(a, b) for a, b in zip(*results, strict=True))


# One instruction set: random inputs, in runs that end in a tail.
ISA_SCRIPT = """
import os, torch
from ecgan_kernels import cpu_isa, edge_transfer_lrelu, reference
assert cpu_isa() == os.environ.get("ECGAN_CPU_ISA", cpu_isa())
for dtype in (torch.float32, torch.float16, torch.bfloat16, torch.float64):
    x = [(4 * torch.randn(1003)).to(dtype).requires_grad_() for _ in range(2)]
    wide = [t.detach().double().requires_grad_() for t in x]
    ours = edge_transfer_lrelu(*x, impl="cpu")
    truth = reference.edge_transfer_lrelu(*wide)
    ours = *ours, *torch.autograd.grad(ours[0].sum() + 2 * ours[1].sum(), x)
    truth = *truth, *torch.autograd.grad(truth[0].sum() + 2 * truth[1].sum(), wide)
    for o, t in zip(ours, truth):
        tolerance = 4 * torch.finfo(dtype).eps * t.abs().max().item()
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
def test_opcheck(impl, with_layout):
    def operand(layout: str) -> Tensor:
        return with_layout(torch.randn(2, 3, 5, 7, device=device_of(impl)), layout)

    image, edge = operand("channels_last").requires_grad_(), operand("sliced").requires_grad_()
    op = torch.ops.ecgan.edge_transfer_lrelu
    opcheck(op.default, (image, edge, 0.2))
    opcheck(op.default, (image, edge.detach(), 0.2))
    outs = [x.detach() for x in op(image, edge, 0.2)]
    grad_image, grad_edge = operand("transposed"), operand("sliced")
    for grads, needs in (
        ((grad_image, grad_edge), (True, True)),
        ((grad_image, None), (True, True)),
        ((grad_image, grad_edge), (True, False)),
        ((grad_image, grad_edge), (False, True)),
        ((grad_image, None), (False, True)),
        ((None, grad_edge), (False, True)),
    ):
        opcheck(torch.ops.ecgan.edge_transfer_lrelu_backward.default, (*grads, *outs, 0.2, *needs))


@pytest.mark.parametrize("impl", [*FUSED, "auto", "reference"])
@pytest.mark.parametrize("needs_edge", [True, False])
def test_compiles_to_a_full_graph(needs_edge, impl):
    def step(image: Tensor, edge: Tensor) -> Tensor:
        y, f = edge_transfer_lrelu(image * 2, edge, impl=impl)
        return y.square() + f

    compiled = torch.compile(step, fullgraph=True, backend="aot_eager", dynamic=True)
    for size in (5, 9):
        image, edge = (torch.randn(3, size, device=device_of(impl)) for _ in range(2))
        inputs = [image.requires_grad_(), edge.requires_grad_(needs_edge)][: 1 + needs_edge]
        ours = torch.autograd.grad(compiled(image, edge).sum(), inputs)
        eager = torch.autograd.grad(step(image, edge).sum(), inputs)
        torch.testing.assert_close(ours, eager)


@pytest.mark.parametrize("impl", IMPLS)
def test_autocast_promotes_mixed_inputs(impl):
    device = device_of(impl)
    image = torch.randn(4, 5, device=device, requires_grad=True)
    edge = torch.randn(4, 5, device=device, dtype=torch.bfloat16, requires_grad=True)
    with torch.autocast(device, torch.bfloat16):
        mixed = edge_transfer_lrelu(image, edge, impl=impl)
        same = edge_transfer_lrelu(edge, edge, impl=impl)
    assert [x.dtype for x in mixed] == [torch.float32] * 2
    assert [x.dtype for x in same] == [torch.bfloat16] * 2
    sum(x.sum() for x in mixed).backward()
    assert (image.grad.dtype, edge.grad.dtype) == (torch.float32, torch.bfloat16)


@needs_library
def test_second_derivative_is_refused():
    x = torch.randn(4, requires_grad=True)
    outs = edge_transfer_lrelu(x, x)
    (first,) = torch.autograd.grad(outs[0].sum(), x, create_graph=True)
    with pytest.raises(RuntimeError, match="differentiable once"):
        first.sum().backward()


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        ({"image": [1.0]}, TypeError, "image must be a torch.Tensor, not list"),
        ({"image": torch.ones(2, 3, dtype=torch.int64)}, TypeError, "image must be float32"),
        ({"edge": torch.ones(2, 4)}, ValueError, r"edge must have shape \(2, 3\)"),
        ({"edge": torch.ones(2, 3).half()}, TypeError, "edge must have the dtype of image"),
        ({"edge": torch.ones(2, 3, device="meta")}, ValueError, "edge must be on the device"),
        ({"negative_slope": "0.2"}, TypeError, "negative_slope must be a number, not str"),
        ({"negative_slope": True}, TypeError, "negative_slope must be a number, not bool"),
        ({"negative_slope": 0}, ValueError, "greater than 0 and at most 1, not 0"),
        ({"negative_slope": 1.5}, ValueError, "greater than 0 and at most 1, not 1.5"),
        ({"negative_slope": float("nan")}, ValueError, "greater than 0 and at most 1, not nan"),
        ({"impl": "fast"}, ValueError, "impl must be one of 'auto', 'cpu', .* not 'fast'"),
        ({"impl": "cuda"}, RuntimeError, "impl='cuda' cannot run here: "),
    ],
)
def test_wrong_arguments(change, error, message):
    arguments = {"image": torch.ones(2, 3), "edge": torch.ones(2, 3), **change}
    with pytest.raises(error, match=message):
        edge_transfer_lrelu(**arguments)


@needs_library
def test_the_raw_ops_check_too():
    op, backward = torch.ops.ecgan.edge_transfer_lrelu, torch.ops.ecgan.edge_transfer_lrelu_backward
    x = torch.ones(2, 3)
    with pytest.raises(RuntimeError, match="edge: expected the shape of image"):
        op(x, torch.ones(3, 2), 0.2)
    with pytest.raises(RuntimeError, match="edge: expected the dtype of image"):
        op(x, x.double(), 0.2)
    with pytest.raises(RuntimeError, match="negative_slope: expected more than 0 and at most 1"):
        op(x, x, 0.0)
    with pytest.raises(RuntimeError, match="expected at least one"):
        backward(x, x, x, x, 0.2, False, False)
    for grads, needs in (((None, x), (True, True)), ((None, None), (False, True))):
        with pytest.raises(RuntimeError, match="grad_image_out: expected"):
            backward(*grads, x, x, 0.2, *needs)
    with pytest.raises(RuntimeError, match="grad_edge_out: expected the shape of image_out"):
        backward(x, torch.ones(3, 2), x, x, 0.2, True, True)
