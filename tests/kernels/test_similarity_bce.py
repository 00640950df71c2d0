"""similarity_bce against a double loop over pairs of pixels in float64."""

from __future__ import annotations

import functools
import math
import os
import subprocess
import sys

import pytest
import torch
from ecgan_kernels import _library, cpu_isa
from ecgan_kernels import similarity_bce as operator
from torch import Tensor
from torch.library import opcheck

DTYPES = [torch.uint8, torch.int16, torch.int32, torch.int64]
IGNORE = 255

needs_library = pytest.mark.skipif(not _library.CPU.loaded, reason=str(_library.CPU.problem))
needs_gpu = pytest.mark.skipif(
    not (torch.cuda.is_available() and _library.CUDA.loaded), reason="needs a GPU and _C_cuda"
)
FUSED = [
    pytest.param("cpu", marks=needs_library),
    pytest.param("cuda", marks=[pytest.mark.gpu, needs_gpu]),
]


@pytest.fixture(params=[pytest.param("cpu", marks=needs_library), "reference"])
def similarity_bce(request):
    """The operator in each implementation."""
    return functools.partial(operator, impl=request.param)


def brute_force(
    probs: Tensor, labels: Tensor, eps: float = 1e-6, ignore: int = IGNORE
) -> tuple[Tensor, Tensor]:
    """Loss [B] and its gradient, pair by pair, from the equations of the docstring."""
    batch, classes = probs.shape[:2]
    s = probs.detach().double().reshape(batch, classes, -1)
    classes_of = labels.reshape(batch, -1).tolist()
    loss, grad = torch.zeros(batch, dtype=torch.float64), torch.zeros_like(s)
    for b in range(batch):
        valid = [i for i, label in enumerate(classes_of[b]) if label != ignore]
        for i in valid:
            for j in valid:
                p = float(s[b, :, i] @ s[b, :, j])
                agree = classes_of[b][i] == classes_of[b][j]
                bounded = max(p if agree else 1 - p, eps)
                loss[b] -= math.log(bounded) / len(valid) ** 2
                slope = (-1 if agree else 1) / bounded / len(valid) ** 2
                grad[b, :, i] += slope * s[b, :, j]
                grad[b, :, j] += slope * s[b, :, i]
    return loss, grad.reshape(probs.shape)


def example(
    *size: int, classes: int = 3, batch: int = 2, sharpness: float = 1.0, dtype=torch.float64
) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(classes + sum(size))
    logits = torch.randn(batch, classes, *size, generator=generator, dtype=torch.float64)
    labels = torch.randint(0, classes, (batch, *size), generator=generator)
    labels[torch.rand(labels.shape, generator=generator) < 0.2] = IGNORE
    return (logits * sharpness).softmax(1).to(dtype).requires_grad_(), labels


@pytest.mark.parametrize("size", [(), (1,), (17,), (3, 5), (2, 3, 2)])
@pytest.mark.parametrize("classes", [1, 2, 7])
def test_value_and_gradient(size, classes, similarity_bce):
    probs, labels = example(*size, classes=classes)
    loss = similarity_bce(probs, labels, reduction="none")
    expected, expected_grad = brute_force(probs, labels)
    torch.testing.assert_close(loss, expected, rtol=1e-9, atol=1e-12)
    loss.sum().backward()
    torch.testing.assert_close(probs.grad, expected_grad, rtol=1e-9, atol=1e-12)


def test_more_pixels_than_one_block_of_rows(similarity_bce):
    probs, labels = example(23, 25, classes=4, batch=1)
    s, flat = probs.detach().reshape(4, -1), labels.reshape(-1)
    p, valid = s.t() @ s, flat != IGNORE
    x = torch.where(flat[:, None] == flat, p, 1 - p).clamp(min=1e-6)
    expected = -x.log()[valid][:, valid].mean()
    torch.testing.assert_close(similarity_bce(probs, labels), expected)
    assert torch.autograd.gradcheck(
        lambda q: similarity_bce(q, labels), (probs,), fast_mode=True, atol=1e-7
    )


def test_gradcheck(similarity_bce):
    probs, labels = example(2, 3)
    assert torch.autograd.gradcheck(lambda p: similarity_bce(p, labels, eps=1e-9), (probs,))


def test_gradient_pulls_below_eps(similarity_bce):
    # Both pixels are certain of class 0, the second is of class 1: x_12 = 0 lies below eps.
    probs = torch.tensor([[[1.0, 1.0], [0.0, 0.0]]], dtype=torch.float64, requires_grad=True)
    labels = torch.tensor([[0, 1]])
    eps = 1e-3
    loss = similarity_bce(probs, labels, eps=eps)
    torch.testing.assert_close(loss.item(), -2 * math.log(eps) / 4)
    loss.backward()
    expected = 2 * (1 / eps - 1) / 4  # 2 sum_j G_ij s_j: one disagreeing pair and the diagonal
    torch.testing.assert_close(probs.grad[0, 0], torch.full((2,), expected, dtype=torch.float64))
    torch.testing.assert_close(probs.grad, brute_force(probs, labels, eps)[1])


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
def test_low_precision_inputs_lose_nothing_further(dtype, similarity_bce):
    probs, labels = example(5, 7, classes=5, dtype=dtype)
    loss = similarity_bce(probs, labels, reduction="none")
    assert loss.dtype == torch.float32
    expected, expected_grad = brute_force(probs, labels)
    torch.testing.assert_close(loss.double(), expected, rtol=1e-6, atol=1e-6)
    loss.sum().backward()
    assert probs.grad.dtype == dtype
    rounding = torch.finfo(dtype).eps + 1e-6
    torch.testing.assert_close(probs.grad.double(), expected_grad, rtol=rounding, atol=1e-6)


def test_confident_predictions(similarity_bce):
    probs, labels = example(5, 7, classes=5, sharpness=30)
    expected, expected_grad = brute_force(probs, labels)
    loss = similarity_bce(probs, labels, reduction="none")
    torch.testing.assert_close(loss, expected)
    (grad,) = torch.autograd.grad(loss.sum(), probs)
    torch.testing.assert_close(grad, expected_grad)
    single = probs.detach().float().requires_grad_()
    loss = similarity_bce(single, labels, reduction="none")
    torch.testing.assert_close(loss.double(), expected, rtol=1e-4, atol=1e-5)
    # 1 - p cancels near p = 1, and 1/x multiplies what is left of it: no closer than this.
    (grad,) = torch.autograd.grad(loss.sum(), single)
    assert (grad.double() - expected_grad).norm() < 0.2 * expected_grad.norm()


@pytest.mark.parametrize("dtype", DTYPES)
def test_label_dtypes(dtype, similarity_bce):
    probs, labels = example(4, 4)
    expected = similarity_bce(probs, labels)
    assert torch.equal(similarity_bce(probs, labels.to(dtype)), expected)


def test_reductions(similarity_bce):
    probs, labels = example(3, 3, batch=3)
    labels[1] = IGNORE
    each = similarity_bce(probs, labels, reduction="none")
    assert each[1] == 0
    torch.testing.assert_close(similarity_bce(probs, labels, reduction="sum"), each.sum())
    torch.testing.assert_close(similarity_bce(probs, labels), each.sum() / 2)


def test_ignored_pixels_leave_rows_and_columns(similarity_bce):
    probs, labels = example(4, 4, batch=1)
    keep = labels[0] != IGNORE
    expected = similarity_bce(probs[:, :, keep], labels[:, keep])
    torch.testing.assert_close(similarity_bce(probs, labels), expected)
    broken = probs.detach().clone()
    broken[:, :, ~keep] = torch.nan
    broken.requires_grad_()
    loss = similarity_bce(broken, labels)
    torch.testing.assert_close(loss, expected)
    loss.backward()
    assert (broken.grad[:, :, ~keep] == 0).all()
    assert broken.grad.isfinite().all()


@pytest.mark.parametrize("shape", [(0, 3, 4, 4), (2, 3, 0, 4)])
@pytest.mark.parametrize("reduction", ["mean", "sum", "none"])
def test_empty(shape, reduction, similarity_bce):
    probs = torch.zeros(shape, requires_grad=True)
    loss = similarity_bce(
        probs, torch.zeros(shape[0], *shape[2:], dtype=torch.long), reduction=reduction
    )
    assert loss.shape == ((shape[0],) if reduction == "none" else ())
    assert (loss == 0).all()
    loss.sum().backward()
    assert probs.grad.shape == shape


def test_all_ignored(similarity_bce):
    probs, labels = example(3, 3)
    loss = similarity_bce(probs, torch.full_like(labels, IGNORE))
    loss.backward()
    assert loss == 0
    assert (probs.grad == 0).all()


@pytest.mark.parametrize("labels", [torch.zeros(1, 9).long(), torch.arange(9)[None]])
def test_all_same_and_all_different(labels, similarity_bce):
    probs = torch.rand(1, 9, 9, dtype=torch.float64).softmax(1)
    expected, _ = brute_force(probs, labels)
    torch.testing.assert_close(similarity_bce(probs, labels)[None], expected)


def test_256_classes_and_negative_ignore_index(similarity_bce):
    labels = torch.tensor([[255, 255, 254, -1]], dtype=torch.int16)
    probs = torch.rand(1, 256, 4, dtype=torch.float64).softmax(1)
    expected, _ = brute_force(probs, labels, ignore=-1)
    torch.testing.assert_close(similarity_bce(probs, labels, ignore_index=-1)[None], expected)


def test_non_contiguous(similarity_bce):
    probs, labels = example(4, 6)
    expected = similarity_bce(probs, labels)
    turned = probs.detach().permute(0, 3, 2, 1).contiguous().permute(0, 3, 2, 1)
    assert not turned.is_contiguous()
    columns = labels.mT.contiguous().mT
    torch.testing.assert_close(similarity_bce(turned, columns), expected)


def test_autocast_stays_in_float32(similarity_bce):
    probs, labels = example(6, 6, dtype=torch.float32)
    expected = similarity_bce(probs, labels)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        loss = similarity_bce(probs, labels)
    assert loss.dtype == torch.float32
    assert torch.equal(loss, expected)


def test_compiles_to_one_graph(similarity_bce):
    probs, labels = example(4, 4)
    compiled = torch.compile(similarity_bce, fullgraph=True, backend="aot_eager")
    expected = torch.autograd.grad(similarity_bce(probs, labels), probs)
    actual = torch.autograd.grad(compiled(probs, labels), probs)
    torch.testing.assert_close(actual, expected)
    # Values cannot be looked at in a graph: out-of-range labels count as ignored there.
    wrong = torch.where(labels == IGNORE, 77, labels)
    torch.testing.assert_close(compiled(probs, wrong), similarity_bce(probs, labels))


@pytest.mark.parametrize("precision", ["exact", "fast"])
def test_precision_is_accepted(precision, similarity_bce):
    probs, labels = example(3, 3)
    assert torch.equal(
        similarity_bce(probs, labels, precision=precision), similarity_bce(probs, labels)
    )


PROBS, LABELS = torch.rand(2, 3, 4, 4), torch.zeros(2, 4, 4).long()


@pytest.mark.parametrize(
    ("error", "words", "arguments"),
    [
        (TypeError, "probs must be a torch.Tensor", ([1.0], LABELS, {})),
        (TypeError, "probs must be float32", (PROBS.int(), LABELS, {})),
        (ValueError, "probs must have shape", (PROBS[0, 0, 0], LABELS, {})),
        (ValueError, "probs must have shape", (PROBS[:, :0], LABELS, {})),
        (TypeError, "labels must be uint8", (PROBS, LABELS.float(), {})),
        (ValueError, r"labels must have shape \(2, 4, 4\)", (PROBS, LABELS[:, 1:], {})),
        (ValueError, "labels must be on the device", (PROBS, LABELS.to("meta"), {})),
        (ValueError, r"labels must lie in \[0, 3\).*holds -4, 7", (PROBS, "wrong", {})),
        (TypeError, "ignore_index", (PROBS, LABELS, {"ignore_index": 1.5})),
        (ValueError, "eps must be greater than 0", (PROBS, LABELS, {"eps": 0.0})),
        (ValueError, "eps", (PROBS, LABELS, {"eps": math.nan})),
        (TypeError, "eps", (PROBS, LABELS, {"eps": "small"})),
        (ValueError, "precision must be one of", (PROBS, LABELS, {"precision": "high"})),
        (ValueError, "reduction must be one of", (PROBS, LABELS, {"reduction": "max"})),
        (ValueError, "impl", (PROBS, LABELS, {"impl": "numpy"})),
        (RuntimeError, "cuda", (PROBS, LABELS, {"impl": "cuda"})),
    ],
)
def test_errors(error, words, arguments):
    probs, labels, options = arguments
    if isinstance(labels, str):
        labels = LABELS.clone()
        labels[0, 0, :2] = torch.tensor([7, -4])
    with pytest.raises(error, match=words):
        operator(probs, labels, **options)


def test_ignore_index_does_not_wrap_around_in_uint8(similarity_bce):
    # 300 is 44 in eight bits: no label of an uint8 map may be taken for it.
    probs, _ = example(4, classes=50, batch=1)
    labels = torch.tensor([[44, 44, 1, 1]], dtype=torch.uint8)
    expected, _ = brute_force(probs, labels)
    torch.testing.assert_close(similarity_bce(probs, labels, ignore_index=300)[None], expected)
    with pytest.raises(ValueError, match="but holds 44"):
        similarity_bce(probs[:, :3], labels, ignore_index=300)


def gradients(probs: Tensor, labels: Tensor, **options) -> tuple[Tensor, Tensor]:
    """Each image's loss and the gradient of their sum."""
    probs = probs.detach().requires_grad_()
    loss = operator(probs, labels, reduction="none", **options)
    return loss.detach(), *torch.autograd.grad(loss.sum(), probs)


def check_accuracy(probs: Tensor, labels: Tensor, impl: str, assert_accurate) -> None:
    device = "cuda" if impl == "cuda" else "cpu"
    probs, labels = probs.to(device), labels.to(device)
    eps = 1e-4 if probs.dtype == torch.float16 else 1e-6  # its gradient may reach 1 / eps
    ours = gradients(probs, labels, impl=impl, eps=eps)
    eager = gradients(probs, labels, impl="reference", eps=eps)
    truth = gradients(probs.double(), labels, impl="reference", eps=eps)
    for o, e, t in zip(ours, eager, truth, strict=True):
        assert_accurate(o, e, t, ulps=8)


@pytest.mark.parametrize("impl", FUSED)
@pytest.mark.parametrize("sharpness", [1, 30])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16], ids=str)
@pytest.mark.parametrize("size", [1, 2, 17, 95, 96, 97, 257, 631])
def test_accuracy(size, dtype, sharpness, impl, assert_accurate):
    probs, labels = example(size, classes=5, sharpness=sharpness, dtype=dtype)
    check_accuracy(probs, labels, impl, assert_accurate)


@pytest.mark.parametrize("impl", FUSED)
@pytest.mark.parametrize("classes", [1, 8, 35, 40, 64, 151, 256])
def test_accuracy_at_any_number_of_classes(classes, impl, assert_accurate):
    probs, labels = example(211, classes=classes, batch=1, sharpness=3, dtype=torch.float32)
    check_accuracy(probs, labels, impl, assert_accurate)


@pytest.mark.parametrize("impl", FUSED)
@pytest.mark.parametrize("kind", ["same", "different", "halves"])
def test_accuracy_of_whole_tiles(kind, impl, assert_accurate):
    probs, _ = example(256, classes=256, batch=2, sharpness=4, dtype=torch.float32)
    pixel = torch.arange(256)
    labels = {"same": pixel * 0 + 9, "different": pixel, "halves": pixel // 128}[kind]
    check_accuracy(probs, labels.expand(2, -1), impl, assert_accurate)


@pytest.mark.parametrize("impl", FUSED)
def test_images_of_unequal_numbers_of_valid_pixels(impl):
    device = "cuda" if impl == "cuda" else "cpu"
    probs, labels = example(30, 30, batch=4, dtype=torch.float32)
    labels[1] = IGNORE
    labels[2].view(-1)[3:] = IGNORE
    labels[3].view(-1)[400:] = IGNORE
    probs, labels = probs.to(device), labels.to(device)
    loss, grad = gradients(probs, labels, impl=impl)
    assert loss[1] == 0
    # On a GPU a batch's size decides how its sums are divided.
    rtol = 0 if impl == "cpu" else 1e-5
    for b in range(4):
        alone = gradients(probs[b : b + 1], labels[b : b + 1], impl=impl)
        torch.testing.assert_close(loss[b : b + 1], alone[0], rtol=rtol, atol=0)
        atol = rtol * alone[1].abs().max().item()
        torch.testing.assert_close(grad[b : b + 1], alone[1], rtol=0, atol=atol)


@pytest.mark.parametrize("impl", FUSED)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_layouts(layout, dtype, impl, with_layout):
    device = "cuda" if impl == "cuda" else "cpu"
    probs, labels = example(9, 11, dtype=dtype)
    probs, labels = probs.to(device), labels.to(device)
    expected = gradients(probs, labels, impl=impl)
    views = with_layout(probs.detach(), layout), labels.mT.contiguous().mT
    for o, e in zip(gradients(*views, impl=impl), expected, strict=True):
        assert torch.equal(o, e)


@needs_library
def test_gradient_of_each_image_and_of_expanded_ones():
    probs, labels = example(6, 7, batch=3)
    _, each = gradients(probs, labels, impl="cpu")
    loss = operator(probs, labels, reduction="none", impl="cpu")
    weight = torch.tensor([[2.0, -1.0], [0.5, 1.0], [0.0, 3.0]], dtype=torch.float64)
    (grad,) = torch.autograd.grad(loss, probs, weight[:, 0])  # not contiguous
    torch.testing.assert_close(grad, each * weight[:, 0].view(3, 1, 1, 1))
    (grad,) = torch.autograd.grad(operator(probs, labels, reduction="sum", impl="cpu"), probs)
    torch.testing.assert_close(grad, each)  # the sum's gradient is expanded


@needs_library
@pytest.mark.parametrize("value", [torch.nan, torch.inf, -torch.inf])
def test_what_is_not_finite_shows(value):
    probs, labels = example(10, 10, dtype=torch.float32)
    labels[0, 0, 0] = 1
    probs = probs.detach()
    probs[0, 2, 0, 0] = value
    loss, grad = gradients(probs, labels, impl="cpu")
    assert loss[0].isnan()
    assert loss[1].isfinite()
    assert not grad[0].isfinite().all()
    assert grad[1].isfinite().all()


@needs_library
def test_threads_do_not_change_the_result():
    probs, labels = example(1500, classes=5, dtype=torch.float32)
    threads = torch.get_num_threads()
    results = []
    for count in (1, 3):
        torch.set_num_threads(count)
        results.append(gradients(probs, labels, impl="cpu"))
    torch.set_num_threads(threads)
    assert all(torch.equal(a, b) for a, b in zip(*results, strict=True))


@needs_library
def test_saves_the_gradient_and_nothing_more(saved_tensors):
    probs, labels = example(20, 20, dtype=torch.float32)
    saved = saved_tensors(lambda: operator(probs, labels, reduction="sum", impl="cpu"))
    assert [x.shape for x in saved] == [probs.shape]
    with torch.no_grad():
        assert not operator(probs, labels, impl="cpu").requires_grad


@needs_library
def test_peak_memory_is_linear(peak_memory):
    peaks = []
    for side in (48, 96):
        probs, labels = example(side, side, classes=35, batch=1, dtype=torch.float32)
        labels.clamp_(max=34)

        def step(probs=probs, labels=labels):
            return torch.autograd.grad(operator(probs, labels, impl="cpu"), probs)

        step()
        peaks.append(peak_memory(step) / probs.nbytes)
    assert max(peaks) < 4  # times the input; one pair matrix is 66 and 263 times the input
    with torch.no_grad():
        assert peak_memory(lambda: operator(probs, labels, impl="cpu")) < 1.5 * probs.nbytes


# One instruction set, in a process of its own where it is not this processor's best.
ISA_SCRIPT = """
import os, torch
from ecgan_kernels import cpu_isa, similarity_bce
assert cpu_isa() == os.environ.get("ECGAN_CPU_ISA", cpu_isa())
for classes, dtype in (
    (5, torch.float32), (35, torch.float32), (5, torch.float16), (5, torch.float64)
):
    probs = (3 * torch.randn(2, classes, 300)).softmax(1).to(dtype)
    labels = torch.randint(0, classes, (2, 300))
    results = []
    for x, impl in ((probs, "cpu"), (probs.double(), "reference")):
        x = x.clone().requires_grad_()
        loss = similarity_bce(x, labels, impl=impl)
        results.append((loss.double(), torch.autograd.grad(loss, x)[0].double()))
    for ours, truth in zip(*results):
        tolerance = (1e-12 if dtype == torch.float64 else 2e-3 if dtype == torch.float16 else 3e-5)
        error = (ours - truth).abs().max() / truth.abs().max()
        assert error < tolerance, (classes, dtype, error)
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
    environment = {**os.environ, "ECGAN_CPU_ISA": isa}
    run = subprocess.run(
        [sys.executable, "-c", ISA_SCRIPT], env=environment, capture_output=True, text=True
    )
    assert run.returncode == 0, run.stderr


@pytest.mark.parametrize("impl", FUSED)
def test_opcheck(impl, with_layout):
    device = "cuda" if impl == "cuda" else "cpu"
    probs, labels = example(5, 7, dtype=torch.float32)
    probs = with_layout(probs.detach().to(device), "sliced").requires_grad_()
    arguments = (labels.to(device), IGNORE, 1e-6, "exact")
    opcheck(torch.ops.ecgan.similarity_bce.default, (probs, *arguments, True))
    opcheck(torch.ops.ecgan.similarity_bce.default, (probs.detach(), *arguments, False))


@needs_library
def test_compiles_with_dynamic_sizes():
    compiled = torch.compile(operator, fullgraph=True, backend="aot_eager", dynamic=True)
    for size in (5, 9):
        probs, labels = example(size, size, dtype=torch.float32)
        (ours,) = torch.autograd.grad(compiled(probs, labels, impl="cpu"), probs)
        (expected,) = torch.autograd.grad(operator(probs, labels, impl="cpu"), probs)
        assert torch.equal(ours, expected)


@needs_library
def test_second_derivative_is_refused():
    probs, labels = example(3, 3)
    loss = operator(probs, labels, impl="cpu")
    (first,) = torch.autograd.grad(loss, probs, create_graph=True)
    with pytest.raises(RuntimeError, match="differentiable once"):
        first.sum().backward()


@needs_library
def test_the_raw_op_checks_too():
    op = torch.ops.ecgan.similarity_bce
    for error, changes in {
        "probs: expected float32": {"probs": PROBS.int()},
        "probs: expected shape": {"probs": PROBS[0, 0, 0]},
        "labels: expected shape": {"labels": LABELS[0]},
        "labels: expected 4 in dimension 2, got 3": {"labels": LABELS[..., 1:]},
        "eps: expected": {"eps": 0.0},
        "precision: expected": {"precision": "high"},
    }.items():
        arguments = {"probs": PROBS, "labels": LABELS, "eps": 1e-6, "precision": "exact", **changes}
        with pytest.raises(RuntimeError, match=error):
            op(**arguments, ignore_index=IGNORE, need_grad=True)
    loss, _, _ = op(PROBS.requires_grad_(), LABELS, IGNORE, 1e-6, "exact", False)
    with pytest.raises(RuntimeError, match="need_grad was False"):
        loss.sum().backward()
