"""pixel_contrast against loops over anchors, positives and negatives in float64."""

from __future__ import annotations

import functools
import math
import os
import subprocess
import sys

import pytest
import torch
from ecgan_kernels import _library, cpu_isa
from ecgan_kernels import pixel_contrast as operator
from torch import Tensor
from torch.library import opcheck

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
def pixel_contrast(request):
    """The operator in each implementation."""
    return functools.partial(operator, impl=request.param)


def brute_force(
    embeddings: Tensor,
    labels: Tensor,
    contrast: Tensor | None = None,
    contrast_labels: Tensor | None = None,
    temperature: float = 0.07,
    normalize: bool = True,
) -> tuple[Tensor, Tensor]:
    """Loss of each anchor (a differentiable tensor) and which anchors have a positive."""
    same_set = contrast is None
    z, y = embeddings.double(), labels.tolist()
    others = z if contrast is None else contrast.double()
    other_y = y if contrast_labels is None else contrast_labels.tolist()
    if normalize:
        z = z / z.norm(dim=1, keepdim=True)
        others = others / others.norm(dim=1, keepdim=True)
    losses, has_positive = [], []
    for i in range(len(y)):
        members = [
            j
            for j in range(len(other_y))
            if IGNORE not in (y[i], other_y[j]) and not (same_set and i == j)
        ]
        negatives = [z[i] @ others[j] / temperature for j in members if other_y[j] != y[i]]
        terms = []
        for j in members:
            if other_y[j] == y[i]:
                s = z[i] @ others[j] / temperature
                terms.append(torch.stack([s, *negatives]).logsumexp(0) - s)
        has_positive.append(bool(terms))
        losses.append(torch.stack(terms).mean() if terms else z.sum() * 0)
    return torch.stack(losses), torch.tensor(has_positive)


def example(count: int = 14, dim: int = 5, classes: int = 3) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(count)
    z = torch.randn(count, dim, generator=generator, dtype=torch.float64)
    labels = torch.randint(0, classes, (count,), generator=generator)
    labels[torch.rand(count, generator=generator) < 0.15] = IGNORE
    return z.requires_grad_(), labels


@pytest.mark.parametrize("temperature", [0.07, 1.0])
@pytest.mark.parametrize("normalize", [True, False])
@pytest.mark.parametrize("separate", [False, True])
@pytest.mark.parametrize("count", [2, 14, 31])
def test_value_and_gradient(count, separate, normalize, temperature, pixel_contrast):
    z, labels = example(count)
    inputs, keywords = [z], {}
    if separate:
        other, other_labels = example(count + 3)
        inputs.append(other)
        keywords = {"contrast": other, "contrast_labels": other_labels}
    keywords |= {"temperature": temperature, "normalize": normalize}
    expected, has_positive = brute_force(z, labels, **keywords)
    torch.testing.assert_close(pixel_contrast(z, labels, reduction="none", **keywords), expected)
    torch.testing.assert_close(
        pixel_contrast(z, labels, reduction="sum", **keywords), expected.sum()
    )
    mean = expected.sum() / max(int(has_positive.sum()), 1)
    loss = pixel_contrast(z, labels, **keywords)
    torch.testing.assert_close(loss, mean)
    for actual, wanted in zip(
        torch.autograd.grad(loss, inputs), torch.autograd.grad(mean, inputs), strict=True
    ):
        torch.testing.assert_close(actual, wanted)


def test_more_anchors_than_one_block(pixel_contrast):
    z, labels = example(530, dim=3)
    keep = torch.arange(530) % 40 == 7
    rows, _ = brute_force(z[keep], labels[keep], contrast=z, contrast_labels=labels)
    loss = pixel_contrast(z, labels, reduction="none")
    # The same-set form leaves the self pair out, which the separate one counts as a positive.
    s = torch.nn.functional.normalize(z, dim=1)
    s = s @ s.t() / 0.07
    part = labels != IGNORE
    for row, i in enumerate(keep.nonzero().flatten().tolist()):
        if not part[i]:
            assert loss[i] == 0
            continue
        same = part & (labels == labels[i])
        own = torch.cat([s[i, i, None], s[i, part & ~same]]).logsumexp(0) - s[i, i]
        count = int(same.sum())
        torch.testing.assert_close(loss[i], (rows[row] * count - own) / (count - 1))


def test_gradcheck_of_both_sets(pixel_contrast):
    z, labels = example(6)
    other, other_labels = example(7)
    assert torch.autograd.gradcheck(
        lambda a, b: pixel_contrast(a, labels, contrast=b, contrast_labels=other_labels),
        (z, other),
    )
    assert torch.autograd.gradcheck(lambda a: pixel_contrast(a, labels, temperature=0.5), (z,))


@pytest.mark.parametrize("needed", ["embeddings", "contrast"])
def test_one_gradient_at_a_time(needed, pixel_contrast):
    z, labels = example(6)
    other, other_labels = example(7)
    wanted = z if needed == "embeddings" else other
    (other if needed == "embeddings" else z).requires_grad_(False)
    pixel_contrast(z, labels, contrast=other, contrast_labels=other_labels).backward()
    assert wanted.grad.abs().sum() > 0


def test_denominator_holds_the_own_positive_only(pixel_contrast):
    # Two positives at right angles and no negative: with the other positive in the denominator,
    # as in SupCon, the loss would be log(1 + e^...) > 0.
    z = torch.tensor([[1.0, 0.0], [0.0, 1.0], [1.0, 1.0]], requires_grad=True)
    loss = pixel_contrast(z, torch.tensor([4, 4, 4]))
    loss.backward()
    assert loss == 0
    assert (z.grad == 0).all()


@pytest.mark.parametrize("labels", [[0, 1, 2], [IGNORE] * 3, [0, IGNORE, IGNORE]])
def test_no_positive_at_all(labels, pixel_contrast):
    z = torch.randn(3, 4, requires_grad=True)
    for reduction in ("mean", "sum", "none"):
        loss = pixel_contrast(z, torch.tensor(labels), reduction=reduction)
        assert (loss == 0).all()
        (grad,) = torch.autograd.grad(loss.sum(), z)
        assert (grad == 0).all()


def test_mean_skips_anchors_without_positives(pixel_contrast):
    z = torch.randn(4, 8, dtype=torch.float64)
    labels = torch.tensor([0, 0, 1, 2])
    each = pixel_contrast(z, labels, reduction="none")
    assert (each[2:] == 0).all()
    torch.testing.assert_close(pixel_contrast(z, labels), each[:2].mean())


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
def test_lowest_temperature_stays_finite(dtype, pixel_contrast):
    # Positives exactly opposite, negatives identical: s runs from -100 to 100.
    z = torch.tensor([[1.0, 0], [-1, 0], [1, 0], [-1, 0]], dtype=dtype, requires_grad=True)
    loss = pixel_contrast(z, torch.tensor([0, 0, 1, 1]), temperature=0.01)
    torch.testing.assert_close(loss, torch.tensor(200.0))
    loss.backward()
    assert z.grad.isfinite().all()
    assert z.grad.dtype == dtype


def test_large_logits_without_normalisation_stay_finite(pixel_contrast):
    z = torch.tensor([[1e3, 0], [1e3, 1], [-1e3, 0]], requires_grad=True)
    loss = pixel_contrast(z, torch.tensor([0, 0, 1]), temperature=0.01, normalize=False)
    loss.backward()
    assert loss.isfinite()
    assert z.grad.isfinite().all()


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
def test_low_precision_inputs(dtype, pixel_contrast):
    z, labels = example(20)
    z = z.detach().to(dtype).requires_grad_()
    expected, has_positive = brute_force(z, labels)
    expected = expected.sum() / has_positive.sum()
    loss = pixel_contrast(z, labels)
    assert loss.dtype == torch.float32
    torch.testing.assert_close(loss.double(), expected, rtol=1e-5, atol=1e-5)
    (wanted,) = torch.autograd.grad(expected, z)
    (grad,) = torch.autograd.grad(loss, z)
    assert grad.dtype == dtype
    torch.testing.assert_close(grad, wanted, rtol=2e-2, atol=1e-3)


@pytest.mark.parametrize("dtype", [torch.uint8, torch.int16, torch.int32, torch.int64])
def test_label_dtypes(dtype, pixel_contrast):
    z, labels = example()
    assert torch.equal(pixel_contrast(z, labels.to(dtype)), pixel_contrast(z, labels))


def test_ignored_embeddings_have_no_influence(pixel_contrast):
    z, labels = example()
    ignored = labels == IGNORE
    assert ignored.any()
    broken = z.detach().clone()
    broken[ignored] = torch.nan
    broken.requires_grad_()
    loss = pixel_contrast(broken, labels)
    torch.testing.assert_close(loss, pixel_contrast(z[~ignored], labels[~ignored]))
    loss.backward()
    assert (broken.grad[ignored] == 0).all()
    assert broken.grad.isfinite().all()


@pytest.mark.parametrize("anchors", [0, 3])
@pytest.mark.parametrize("others", [None, 0, 3])
def test_empty_sets(anchors, others, pixel_contrast):
    z = torch.randn(anchors, 4, requires_grad=True)
    labels = torch.zeros(anchors).long()
    keywords = {}
    if others is not None:
        keywords = {
            "contrast": torch.randn(others, 4),
            "contrast_labels": torch.ones(others).long(),
        }
    for reduction, shape in (("none", (anchors,)), ("mean", ())):
        loss = pixel_contrast(z, labels, reduction=reduction, **keywords)
        assert loss.shape == shape
        assert (loss == 0).all()
        (grad,) = torch.autograd.grad(loss.sum(), z)
        assert (grad == 0).all()


def test_contrast_may_be_half_beside_float_embeddings(pixel_contrast):
    z, labels = example()
    queue, queue_labels = z.detach().half(), labels
    loss = pixel_contrast(z.float(), labels, contrast=queue, contrast_labels=queue_labels)
    wide = pixel_contrast(z.float(), labels, contrast=queue.float(), contrast_labels=queue_labels)
    assert torch.equal(loss, wide)


def test_non_contiguous(pixel_contrast):
    z, labels = example()
    turned = z.detach().t().contiguous().t()
    assert not turned.is_contiguous()
    every_second = torch.stack([labels, labels], dim=1)[:, 0]
    torch.testing.assert_close(pixel_contrast(turned, every_second), pixel_contrast(z, labels))


def test_autocast_stays_in_float32(pixel_contrast):
    z, labels = example()
    z = z.detach().float()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        loss = pixel_contrast(z, labels)
    assert loss.dtype == torch.float32
    assert torch.equal(loss, pixel_contrast(z, labels))


@pytest.mark.parametrize("separate", [False, True])
def test_compiles_to_one_graph(separate, pixel_contrast):
    z, labels = example()
    keywords = {}
    if separate:
        other, other_labels = example(9)
        keywords = {"contrast": other, "contrast_labels": other_labels}
    compiled = torch.compile(pixel_contrast, fullgraph=True, backend="aot_eager")
    expected = torch.autograd.grad(pixel_contrast(z, labels, **keywords), z)
    torch.testing.assert_close(torch.autograd.grad(compiled(z, labels, **keywords), z), expected)


Z, LABELS = torch.randn(4, 3), torch.tensor([0, 0, 1, 1])


@pytest.mark.parametrize(
    ("error", "words", "arguments"),
    [
        (TypeError, "embeddings must be a torch.Tensor", (None, LABELS, {})),
        (TypeError, "embeddings must be float32", (Z.long(), LABELS, {})),
        (ValueError, "embeddings must have 2 dimensions", (Z[None], LABELS, {})),
        (TypeError, "labels must be uint8", (Z, LABELS.bool(), {})),
        (ValueError, r"labels must have shape \(4,\)", (Z, LABELS[:3], {})),
        (ValueError, "labels must be on the device", (Z, LABELS.to("meta"), {})),
        (ValueError, "contrast and contrast_labels must", (Z, LABELS, {"contrast": Z})),
        (
            ValueError,
            r"contrast must have shape \(4, 3\)",
            (Z, LABELS, {"contrast": Z[:, :2], "contrast_labels": LABELS}),
        ),
        (
            ValueError,
            "contrast_labels must have shape",
            (Z, LABELS, {"contrast": Z, "contrast_labels": LABELS[1:]}),
        ),
        (ValueError, "temperature must be greater", (Z, LABELS, {"temperature": 0})),
        (ValueError, "temperature", (Z, LABELS, {"temperature": math.inf})),
        (TypeError, "temperature must be a number", (Z, LABELS, {"temperature": "hot"})),
        (TypeError, "ignore_index", (Z, LABELS, {"ignore_index": None})),
        (ValueError, "reduction must be one of", (Z, LABELS, {"reduction": "median"})),
        (ValueError, "impl", (Z, LABELS, {"impl": "keops"})),
        (RuntimeError, "triton", (Z, LABELS, {"impl": "triton"})),
    ],
)
def test_errors(error, words, arguments):
    z, labels, options = arguments
    with pytest.raises(error, match=words):
        operator(z, labels, **options)


def random_set(count: int, dim: int, classes: int, dtype=torch.float32) -> tuple[Tensor, Tensor]:
    """Embeddings that lean towards their class's direction, some of them ignored."""
    labels = torch.randint(0, classes, (count,))
    z = torch.randn(count, dim) + torch.randn(classes, dim)[labels]
    labels[torch.rand(count) < 0.1] = IGNORE
    return z.to(dtype), labels


def results(z: Tensor, labels: Tensor, other: tuple | None, **options) -> tuple[Tensor, ...]:
    """The loss of each anchor and the gradients of their mean."""
    inputs = [z.detach().requires_grad_()]
    if other is not None:
        inputs.append(other[0].detach().requires_grad_())
        options |= {"contrast": inputs[1], "contrast_labels": other[1]}
    each = operator(inputs[0], labels, reduction="none", **options)
    loss = operator(inputs[0], labels, **options)
    return each.detach(), loss.detach(), *torch.autograd.grad(loss, inputs)


def check_accuracy(z, labels, other, assert_accurate, impl: str, **options) -> None:
    device = "cuda" if impl == "cuda" else "cpu"
    z, labels = z.to(device), labels.to(device)
    other = None if other is None else tuple(x.to(device) for x in other)
    wide = None if other is None else (other[0].double(), other[1])
    ours = results(z, labels, other, impl=impl, **options)
    eager = results(z, labels, other, impl="reference", **options)
    truth = results(z.double(), labels, wide, impl="reference", **options)
    # A logit is as large as 1 / temperature, and so is its rounding error in every exponential.
    ulps = 16 + 1 / options.get("temperature", 0.07)
    for o, e, t in zip(ours, eager, truth, strict=True):
        assert_accurate(o, e, t, ulps=ulps)


@pytest.mark.parametrize("impl", FUSED)
@pytest.mark.parametrize("temperature", [0.01, 0.07, 1.0])
@pytest.mark.parametrize("separate", [False, True])
@pytest.mark.parametrize("count", [1, 2, 17, 96, 97, 257, 701])
def test_accuracy(count, separate, temperature, impl, assert_accurate):
    z, labels = random_set(count, 24, 4)
    other = random_set(count + 50, 24, 4) if separate else None
    check_accuracy(z, labels, other, assert_accurate, impl, temperature=temperature)


@pytest.mark.parametrize("impl", FUSED)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16], ids=str)
@pytest.mark.parametrize("dim", [2, 16, 19, 64, 256, 512])
def test_accuracy_at_any_dimension_and_dtype(dim, dtype, impl, assert_accurate):
    z, labels = random_set(210, dim, 3, dtype)
    check_accuracy(z, labels, random_set(130, dim, 3, dtype), assert_accurate, impl)


@pytest.mark.parametrize("impl", FUSED)
@pytest.mark.parametrize("kind", ["same", "different", "halves", "far apart"])
def test_accuracy_of_whole_tiles(kind, impl, assert_accurate):
    z, _ = random_set(384, 16, 5)
    number = torch.arange(384)
    labels = {
        "same": number * 0 + 7,
        "different": number,
        "halves": number // 192,
        "far apart": (number // 100) * 2**40 - 2**62,
    }[kind]
    check_accuracy(z, labels, None, assert_accurate, impl, ignore_index=-1)
    check_accuracy(z, labels, (z.flip(0), labels), assert_accurate, impl, ignore_index=-1)


@pytest.mark.parametrize("impl", FUSED)
@pytest.mark.parametrize("separate", [False, True])
def test_accuracy_without_normalisation(separate, impl, assert_accurate):
    # Lengths from 0.05 to 20: exponents that no one shift serves, in either direction.
    z, labels = random_set(290, 8, 3)
    z = z * torch.logspace(-1.3, 0.7, 290)[:, None]
    other = (z.flip(0) * 0.5, labels.flip(0)) if separate else None
    check_accuracy(z, labels, other, assert_accurate, impl, normalize=False, temperature=0.5)


@needs_library
@pytest.mark.parametrize("separate", [False, True])
def test_weights_of_the_anchors(separate):
    z, labels = example(40)
    z, other = z.detach().requires_grad_(), z.detach().flip(0).requires_grad_()
    inputs, keywords = [z], {}
    if separate:
        inputs, keywords = [z, other], {"contrast": other, "contrast_labels": labels.flip(0)}
    weight = torch.randn(40, 2, dtype=torch.float64)[:, 0]  # of either sign, not contiguous
    ours, truth = (
        torch.autograd.grad(
            operator(z, labels, reduction="none", impl=impl, **keywords), inputs, weight
        )
        for impl in ("cpu", "reference")
    )
    for o, t in zip(ours, truth, strict=True):
        torch.testing.assert_close(o, t)


@needs_library
@pytest.mark.parametrize("value", [torch.nan, torch.inf])
def test_what_is_not_finite_shows(value):
    z, labels = random_set(120, 5, 3)
    z[7, 2], labels[7] = value, 1
    each, loss, grad = results(z, labels, None, impl="cpu")
    assert each.isnan().any()
    assert loss.isnan()
    assert grad.isnan().any()


@needs_library
def test_threads_do_not_change_the_result():
    z, labels = random_set(900, 10, 4)
    other = random_set(700, 10, 4)
    threads = torch.get_num_threads()
    found = []
    for count in (1, 3):
        torch.set_num_threads(count)
        found.append((*results(z, labels, None), *results(z, labels, other)))
    torch.set_num_threads(threads)
    assert all(torch.equal(a, b) for a, b in zip(*found, strict=True))


@pytest.mark.parametrize("impl", FUSED)
def test_layouts(layout, impl, with_layout):
    device = "cuda" if impl == "cuda" else "cpu"
    z, labels = (x.to(device) for x in random_set(33, 31, 3))
    expected = results(z, labels, None, impl=impl)
    found = results(with_layout(z, layout), torch.stack([labels] * 2, 1)[:, 0], None, impl=impl)
    for o, e in zip(found, expected, strict=True):
        torch.testing.assert_close(o, e)  # F.normalize sums in another order


@needs_library
def test_peak_memory_is_linear(peak_memory):
    peaks = []
    for count in (1500, 3000):
        z, labels = random_set(count, 64, 10)
        z.requires_grad_()

        def step(z=z, labels=labels):
            return torch.autograd.grad(operator(z, labels, impl="cpu"), z)

        step()
        peaks.append(peak_memory(step) / z.nbytes)
    assert max(peaks) < 9  # times the input; one pair matrix is 23 and 47 times the input


@needs_library
def test_saves_nothing_quadratic(saved_tensors):
    z, labels = random_set(400, 16, 10)
    z.requires_grad_()
    saved = saved_tensors(lambda: operator(z, labels, impl="cpu"))
    assert max(x.numel() for x in saved) == z.numel()
    with torch.no_grad():
        assert not operator(z, labels, impl="cpu").requires_grad


# One instruction set, in a process of its own where it is not this processor's best.
ISA_SCRIPT = """
import os, torch
from ecgan_kernels import cpu_isa, pixel_contrast
assert cpu_isa() == os.environ.get("ECGAN_CPU_ISA", cpu_isa())
z, labels = torch.randn(400, 20), torch.randint(0, 4, (400,))
for dtype, tolerance in ((torch.float32, 1e-5), (torch.float64, 1e-11)):
    for temperature in (0.01, 0.07):
        found = []
        for x, impl in ((z.to(dtype), "cpu"), (z.double(), "reference")):
            x = x.clone().requires_grad_()
            loss = pixel_contrast(x, labels, temperature=temperature, impl=impl)
            found.append((loss.double(), torch.autograd.grad(loss, x)[0].double()))
        for ours, truth in zip(*found):
            error = (ours - truth).abs().max() / truth.abs().max()
            assert error < tolerance, (dtype, temperature, error)
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
def test_opcheck(impl):
    device = "cuda" if impl == "cuda" else "cpu"
    z, labels = (x.to(device) for x in random_set(20, 5, 3))
    other, other_labels = (x.to(device) for x in random_set(23, 5, 3))
    forward = torch.ops.ecgan.pixel_contrast.default
    backward = torch.ops.ecgan.pixel_contrast_backward.default
    for same_set, sets in (
        (True, (z, labels, z, labels)),
        (False, (z, labels, other, other_labels)),
    ):
        sets = tuple(x.clone() for x in sets)
        numbers = (same_set, 0.07, IGNORE)
        saved = forward(*sets, *numbers, True)[1:]
        for needs in ((True, False), (True, True), (False, True))[: 1 if same_set else 3]:
            opcheck(backward, (torch.randn_like(saved[2]), *sets, *numbers, *saved, *needs))
        opcheck(forward, (*sets, *numbers, False))
        leaf = z.detach().t().contiguous().t().requires_grad_()
        opcheck(forward, (leaf, *sets[1:], *numbers, True))


@needs_library
def test_second_derivative_is_refused():
    z, labels = example()
    loss = operator(z, labels, impl="cpu")
    (first,) = torch.autograd.grad(loss, z, create_graph=True)
    with pytest.raises(RuntimeError, match="differentiable once"):
        first.sum().backward()


@needs_library
def test_the_raw_op_checks_too():
    op = torch.ops.ecgan.pixel_contrast
    for error, changes in {
        "embeddings: expected 2 dimensions": {"embeddings": Z[0]},
        "embeddings: expected float32 or float64": {"embeddings": Z.half()},
        "contrast: expected shape": {"contrast": Z[:, 1:]},
        "contrast: expected the dtype": {"contrast": Z.double()},
        "labels: expected shape": {"labels": LABELS[1:]},
        "contrast: expected the embeddings": {"contrast": Z[1:], "same_set": True},
        "temperature: expected": {"temperature": 0.0},
    }.items():
        arguments = {
            **{"embeddings": Z, "labels": LABELS, "contrast": Z, "contrast_labels": LABELS},
            **{"same_set": False, "temperature": 0.07, "ignore_index": IGNORE, **changes},
        }
        with pytest.raises(RuntimeError, match=error):
            op(**arguments, need_grad=True)
    wanting = Z.clone().requires_grad_()
    loss, *_ = op(wanting, LABELS, Z, LABELS, False, 0.07, IGNORE, False)
    with pytest.raises(RuntimeError, match="need_grad was False"):
        loss.sum().backward()
