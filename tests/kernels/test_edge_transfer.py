"""edge_transfer against its reference in float64: values, gradients, layouts, and the contract."""

from __future__ import annotations

import itertools
import os
import subprocess
import sys

import pytest
import torch
from ecgan_kernels import _library, cpu_isa, edge_transfer, reference
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
ACTIVATIONS = [None, "tanh"]
SHAPES = [(1,), (2,), (17,), (257,), (2, 3, 5, 7), (1, 1, 1, 1), (3, 1, 257), (4, 17, 2, 31)]


def device_of(impl: str) -> str:
    return "cuda" if impl == "cuda" else "cpu"


def gradients(
    image: Tensor, edge: Tensor, grad: Tensor, activation: str | None, impl: str
) -> tuple[Tensor, Tensor, Tensor]:
    """The result and both gradients."""
    image, edge = image.detach().requires_grad_(), edge.detach().requires_grad_()
    out = edge_transfer(image, edge, activation=activation, impl=impl)
    return (out.detach(), *torch.autograd.grad(out, (image, edge), grad))


@pytest.mark.parametrize("impl", FUSED)
@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_accuracy(activation, dtype, shape, impl, assert_accurate):
    operands = [(3 * torch.randn(shape)).to(device_of(impl), dtype) for _ in range(3)]
    ours = gradients(*operands, activation, impl)
    eager = gradients(*operands, activation, "reference")
    truth = gradients(*(x.double() for x in operands), activation, "reference")
    for o, e, t in zip(ours, eager, truth, strict=True):
        assert_accurate(o, e, t, elementwise=True)


@pytest.mark.parametrize("impl", FUSED)
@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_accuracy_over_the_whole_range(activation, impl, assert_accurate):
    edge = torch.cat([torch.linspace(-110, 110, 20_001), torch.logspace(-38, 2, 5_000)])
    image, grad = edge.flip(0), torch.randn_like(edge)
    operands = [x.to(device_of(impl)) for x in (image, edge, grad)]
    ours = gradients(*operands, activation, impl)
    eager = gradients(*operands, activation, "reference")
    truth = gradients(*(x.double() for x in operands), activation, "reference")
    for o, e, t in zip(ours, eager, truth, strict=True):
        assert_accurate(o, e, t, elementwise=True, ulps=8)


@pytest.mark.parametrize("impl", IMPLS)
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_inf_and_nan_spread_as_in_eager(activation, dtype, impl):
    values = [0.0, 1.0, -1.0, 100.0, -100.0, float("inf"), float("-inf"), float("nan")]
    pairs = torch.tensor(list(itertools.product(values, values)), dtype=dtype)
    image, edge = pairs.to(device_of(impl)).unbind(1)
    grad = torch.ones_like(image)
    ours = gradients(image, edge, grad, activation, impl)
    eager = gradients(image.float(), edge.float(), grad.float(), activation, "reference")
    for o, e in zip(ours, eager, strict=True):
        torch.testing.assert_close(o, e.to(dtype), equal_nan=True)


@pytest.mark.parametrize("impl", FUSED)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_layouts_of_inputs_and_gradient(layout, dtype, impl, with_layout):
    operands = [torch.randn(2, 3, 33, 31).to(device_of(impl), dtype) for _ in range(3)]
    expected = gradients(*operands, "tanh", impl)
    plain = ["contiguous"] * 3
    for position in range(3):  # one operand at a time, then all
        layouts = [*plain[:position], layout, *plain[position + 1 :]]
        converted = [with_layout(x, name) for x, name in zip(operands, layouts, strict=True)]
        for o, e in zip(gradients(*converted, "tanh", impl), expected, strict=True):
            assert torch.equal(o, e)
    converted = [with_layout(x, layout) for x in operands]
    out, grad_image, grad_edge = gradients(*converted, "tanh", impl)
    for o, e in zip((out, grad_image, grad_edge), expected, strict=True):
        assert torch.equal(o, e)
    if layout == "channels_last":
        for x in (out, grad_image, grad_edge):
            assert x.is_contiguous(memory_format=torch.channels_last)


@pytest.mark.parametrize("impl", IMPLS)
def test_expanded_edge_and_stride_0_gradient(impl):
    image = torch.randn(2, 3, 19, 23, device=device_of(impl), requires_grad=True)
    edge = torch.randn(2, 1, 19, 23, device=device_of(impl), requires_grad=True)
    ours = edge_transfer(image, edge.expand_as(image), impl=impl)
    eager = image * (1 + torch.sigmoid(edge))
    torch.testing.assert_close(ours, eager)
    for grad in (torch.randn_like(image), torch.ones_like(image[:1, :1, :1, :1]).expand_as(image)):
        pairs = zip(
            torch.autograd.grad(ours, (image, edge), grad, retain_graph=True),
            torch.autograd.grad(eager, (image, edge), grad, retain_graph=True),
            strict=True,
        )
        for o, e in pairs:
            torch.testing.assert_close(o, e)
    scalar = torch.tensor(0.5, device=device_of(impl)).expand(2, 3, 19, 23)  # every stride is 0
    torch.testing.assert_close(
        edge_transfer(scalar, scalar, impl=impl), reference.edge_transfer(scalar, scalar)
    )


@pytest.mark.parametrize("impl", FUSED)
def test_offsets_beyond_32_bits(impl):
    # Two elements, 2^31 apart. On the CPU only their pages are ever touched.
    base = torch.empty(2**31 + 1, dtype=torch.float16, device=device_of(impl))
    far = base[:: 2**31]
    far.copy_(torch.tensor([1.0, -2.0]))
    expected = reference.edge_transfer(far.float(), far.float())
    torch.testing.assert_close(
        edge_transfer(far, far, impl=impl).float(), expected, atol=2e-3, rtol=0
    )


@pytest.mark.parametrize("impl", IMPLS)
@pytest.mark.parametrize("activation", ACTIVATIONS)
@pytest.mark.parametrize("needs", [(True, True), (True, False), (False, True), (False, False)])
def test_every_subset_of_requires_grad(needs, activation, impl):
    operands = [torch.randn(3, 70, device=device_of(impl)) for _ in range(2)]
    expected = gradients(*operands, torch.ones(3, 70, device=device_of(impl)), activation, impl)[1:]
    inputs = [x.clone().requires_grad_(need) for x, need in zip(operands, needs, strict=True)]
    out = edge_transfer(*inputs, activation=activation, impl=impl)
    assert out.requires_grad == any(needs)
    if any(needs):
        out.sum().backward()
    for x, need, e in zip(inputs, needs, expected, strict=True):
        assert torch.equal(x.grad, e) if need else x.grad is None


@pytest.mark.parametrize("impl", [pytest.param("cpu", marks=needs_library), "reference"])
@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_gradcheck(activation, impl):
    image, edge = (torch.randn(2, 3, 4, dtype=torch.float64, requires_grad=True) for _ in range(2))
    assert torch.autograd.gradcheck(
        lambda i, e: edge_transfer(i, e, activation=activation, impl=impl), (image, edge)
    )


@pytest.mark.parametrize("impl", IMPLS)
@pytest.mark.parametrize("shape", [(0,), (2, 0, 3), ()], ids=str)
def test_empty_and_scalar(shape, impl):
    x = torch.ones(shape, device=device_of(impl))
    out, grad_image, grad_edge = gradients(x, x, x, None, impl)
    assert out.shape == grad_image.shape == grad_edge.shape == shape
    torch.testing.assert_close(out, x * 1.7310586)


@pytest.mark.parametrize("impl", FUSED)
@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_saves_the_inputs_and_nothing_more(activation, impl, saved_tensors):
    image, edge = (torch.randn(8, 9, device=device_of(impl), requires_grad=True) for _ in range(2))
    saved = saved_tensors(lambda: edge_transfer(image, edge, activation=activation, impl=impl))
    assert [x.data_ptr() for x in saved] == [image.data_ptr(), edge.data_ptr()]


@needs_library
@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_peak_memory(activation, peak_memory):
    image, edge, grad = (torch.randn(64, 1024, requires_grad=True) for _ in range(3))

    def step() -> tuple[Tensor, ...]:
        out = edge_transfer(image, edge, activation=activation)
        return out, *torch.autograd.grad(out, (image, edge), grad)

    step()
    # The result and the two gradients, to the byte but for the allocator's small change.
    size = image.numel() * image.element_size()
    assert 3 * size <= peak_memory(step) < 3 * size + 4096


@needs_library
def test_threads_do_not_change_the_result():
    operands = [torch.randn(5, 100_003) for _ in range(3)]
    threads = torch.get_num_threads()
    results = []
    for count in (1, 3):
        torch.set_num_threads(count)
        results.append(gradients(*operands, "tanh", "cpu"))
    torch.set_num_threads(threads)
    assert all(torch.equal(a, b) for a, b in zip(*results, strict=True))


# One instruction set: the values on random inputs, and every half and bfloat16 there is, unchanged
# by sigmoid(-inf) = 0 and, by sigmoid(0) = 1/2, times 1.5: rounded with ties, subnormal, overflown.
ISA_SCRIPT = """
import os, torch
from ecgan_kernels import cpu_isa, edge_transfer, reference
assert cpu_isa() == os.environ.get("ECGAN_CPU_ISA", cpu_isa())
bits = torch.arange(-2**15, 2**15).short()
for dtype in (torch.float16, torch.bfloat16):
    every = bits.view(dtype)
    for edge, factor in ((-torch.inf, 1.0), (0.0, 1.5)):
        out = edge_transfer(every, torch.full_like(every, edge), impl="cpu")
        expected = (every.float() * factor).to(dtype)
        same = (out.view(torch.int16) == expected.view(torch.int16)) | (out.isnan() & every.isnan())
        assert same.all(), (dtype, every[~same], out[~same])
for dtype in (torch.float32, torch.float16, torch.bfloat16, torch.float64):
    for activation in (None, "tanh"):
        x = [(4 * torch.randn(1003)).to(dtype).requires_grad_() for _ in range(2)]
        wide = [t.detach().double().requires_grad_() for t in x]
        ours = edge_transfer(*x, activation=activation, impl="cpu")
        truth = reference.edge_transfer(*wide, activation=activation)
        ours = ours, *torch.autograd.grad(ours.sum(), x)
        truth = truth, *torch.autograd.grad(truth.sum(), wide)
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
    def operand(layout: str) -> Tensor:
        return with_layout(torch.randn(2, 3, 5, 7, device=device_of(impl)), layout)

    image, edge = operand("channels_last").requires_grad_(), operand("sliced").requires_grad_()
    opcheck(torch.ops.ecgan.edge_transfer.default, (image, edge, "tanh"))
    opcheck(torch.ops.ecgan.edge_transfer.default, (image, edge.detach(), "none"))
    image, edge, grad = image.detach(), edge.detach(), operand("transposed")
    for needs in ((True, True), (True, False), (False, True)):
        opcheck(torch.ops.ecgan.edge_transfer_backward.default, (grad, image, edge, "tanh", *needs))


@pytest.mark.parametrize("impl", [*FUSED, "auto", "reference"])
def test_compiles_to_a_full_graph(impl):
    def step(image: Tensor, edge: Tensor) -> Tensor:
        return edge_transfer(image * 2, edge, activation="tanh", impl=impl).square()

    compiled = torch.compile(step, fullgraph=True, backend="aot_eager", dynamic=True)
    for size in (5, 9):
        image, edge = (
            torch.randn(3, size, device=device_of(impl), requires_grad=True) for _ in range(2)
        )
        ours = torch.autograd.grad(compiled(image, edge).sum(), (image, edge))
        eager = torch.autograd.grad(step(image, edge).sum(), (image, edge))
        for o, e in zip(ours, eager, strict=True):
            torch.testing.assert_close(o, e)


@pytest.mark.parametrize("impl", IMPLS)
def test_autocast_promotes_mixed_inputs(impl):
    device = device_of(impl)
    image = torch.randn(4, 5, device=device, requires_grad=True)
    edge = torch.randn(4, 5, device=device, dtype=torch.bfloat16, requires_grad=True)
    with torch.autocast(device, torch.bfloat16):
        mixed = edge_transfer(image, edge, impl=impl)
        same = edge_transfer(edge, edge, impl=impl)
        compiled = torch.compile(
            lambda i, e: edge_transfer(i, e, impl=impl), fullgraph=True, backend="aot_eager"
        )(image, edge)
    assert mixed.dtype == torch.float32
    assert same.dtype == torch.bfloat16
    assert torch.equal(mixed, compiled)
    mixed.sum().backward()
    assert (image.grad.dtype, edge.grad.dtype) == (torch.float32, torch.bfloat16)


@needs_library
def test_second_derivative_is_refused():
    x = torch.randn(4, requires_grad=True)
    (first,) = torch.autograd.grad(edge_transfer(x, x).sum(), x, create_graph=True)
    with pytest.raises(RuntimeError, match="differentiable once"):
        first.sum().backward()


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        ({"image": [1.0]}, TypeError, "image must be a torch.Tensor, not list"),
        ({"image": torch.ones(2, 3, dtype=torch.int64)}, TypeError, "image must be float32"),
        ({"edge": torch.ones(2, 3, dtype=torch.bool)}, TypeError, "edge must be float32"),
        ({"edge": torch.ones(2, 4)}, ValueError, r"edge must have shape \(2, 3\)"),
        ({"edge": torch.ones(1, 3)}, ValueError, r"edge must have shape \(2, 3\)"),
        ({"edge": torch.ones(2, 3).half()}, TypeError, "edge must have the dtype of image"),
        ({"edge": torch.ones(2, 3, device="meta")}, ValueError, "edge must be on the device"),
        ({"activation": "relu"}, ValueError, "activation must be None or 'tanh', not 'relu'"),
        ({"impl": "fast"}, ValueError, "impl must be one of 'auto', 'cpu', .* not 'fast'"),
        ({"impl": "cuda"}, RuntimeError, "impl='cuda' cannot run here: "),
    ],
)
def test_wrong_arguments(change, error, message):
    arguments = {"image": torch.ones(2, 3), "edge": torch.ones(2, 3), **change}
    with pytest.raises(error, match=message):
        edge_transfer(**arguments)


def test_too_many_dimensions():
    x = torch.ones([1] * 9)
    with pytest.raises(ValueError, match="image must have at most 8 dimensions, not 9"):
        edge_transfer(x, x)


@needs_library
def test_the_raw_op_checks_too():
    op = torch.ops.ecgan.edge_transfer
    x = torch.ones(2, 3)
    with pytest.raises(RuntimeError, match="edge: expected the shape of image"):
        op(x, torch.ones(3, 2), "none")
    with pytest.raises(RuntimeError, match="edge: expected the dtype of image"):
        op(x, x.double(), "none")
    with pytest.raises(RuntimeError, match="image: expected float32"):
        op(x.int(), x.int(), "none")
    with pytest.raises(RuntimeError, match="activation: expected 'none' or 'tanh'"):
        op(x, x, "relu")
    with pytest.raises(RuntimeError, match="expected at least one"):
        torch.ops.ecgan.edge_transfer_backward(x, x, x, "none", False, False)
