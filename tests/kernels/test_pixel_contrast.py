"""pixel_contrast against loops over anchors, positives and negatives in float64."""

from __future__ import annotations

import math

import pytest
import torch
from ecgan_kernels.pixel_contrast import pixel_contrast
from torch import Tensor

IGNORE = 255


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
def test_value_and_gradient(count, separate, normalize, temperature):
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


def test_more_anchors_than_one_block():
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


def test_gradcheck_of_both_sets():
    z, labels = example(6)
    other, other_labels = example(7)
    assert torch.autograd.gradcheck(
        lambda a, b: pixel_contrast(a, labels, contrast=b, contrast_labels=other_labels),
        (z, other),
    )
    assert torch.autograd.gradcheck(lambda a: pixel_contrast(a, labels, temperature=0.5), (z,))


@pytest.mark.parametrize("needed", ["embeddings", "contrast"])
def test_one_gradient_at_a_time(needed):
    z, labels = example(6)
    other, other_labels = example(7)
    wanted = z if needed == "embeddings" else other
    (other if needed == "embeddings" else z).requires_grad_(False)
    pixel_contrast(z, labels, contrast=other, contrast_labels=other_labels).backward()
    assert wanted.grad.abs().sum() > 0


def test_denominator_holds_the_own_positive_only():
    # Two positives at right angles and no negative: with the other positive in the denominator,
    # as in SupCon, the loss would be log(1 + e^...) > 0.
    z = torch.tensor([[1.0, 0.0], [0.0, 1.0], [1.0, 1.0]], requires_grad=True)
    loss = pixel_contrast(z, torch.tensor([4, 4, 4]))
    loss.backward()
    assert loss == 0
    assert (z.grad == 0).all()


@pytest.mark.parametrize("labels", [[0, 1, 2], [IGNORE] * 3, [0, IGNORE, IGNORE]])
def test_no_positive_at_all(labels):
    z = torch.randn(3, 4, requires_grad=True)
    for reduction in ("mean", "sum", "none"):
        loss = pixel_contrast(z, torch.tensor(labels), reduction=reduction)
        assert (loss == 0).all()
        (grad,) = torch.autograd.grad(loss.sum(), z)
        assert (grad == 0).all()


def test_mean_skips_anchors_without_positives():
    z = torch.randn(4, 8, dtype=torch.float64)
    labels = torch.tensor([0, 0, 1, 2])
    each = pixel_contrast(z, labels, reduction="none")
    assert (each[2:] == 0).all()
    torch.testing.assert_close(pixel_contrast(z, labels), each[:2].mean())


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
def test_lowest_temperature_stays_finite(dtype):
    # Positives exactly opposite, negatives identical: s runs from -100 to 100.
    z = torch.tensor([[1.0, 0], [-1, 0], [1, 0], [-1, 0]], dtype=dtype, requires_grad=True)
    loss = pixel_contrast(z, torch.tensor([0, 0, 1, 1]), temperature=0.01)
    torch.testing.assert_close(loss, torch.tensor(200.0))
    loss.backward()
    assert z.grad.isfinite().all()
    assert z.grad.dtype == dtype


def test_large_logits_without_normalisation_stay_finite():
    z = torch.tensor([[1e3, 0], [1e3, 1], [-1e3, 0]], requires_grad=True)
    loss = pixel_contrast(z, torch.tensor([0, 0, 1]), temperature=0.01, normalize=False)
    loss.backward()
    assert loss.isfinite()
    assert z.grad.isfinite().all()


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
def test_low_precision_inputs(dtype):
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
def test_label_dtypes(dtype):
    z, labels = example()
    assert torch.equal(pixel_contrast(z, labels.to(dtype)), pixel_contrast(z, labels))


def test_ignored_embeddings_have_no_influence():
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
def test_empty_sets(anchors, others):
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


def test_contrast_may_be_half_beside_float_embeddings():
    z, labels = example()
    queue, queue_labels = z.detach().half(), labels
    loss = pixel_contrast(z.float(), labels, contrast=queue, contrast_labels=queue_labels)
    wide = pixel_contrast(z.float(), labels, contrast=queue.float(), contrast_labels=queue_labels)
    assert torch.equal(loss, wide)


def test_non_contiguous():
    z, labels = example()
    turned = z.detach().t().contiguous().t()
    assert not turned.is_contiguous()
    every_second = torch.stack([labels, labels], dim=1)[:, 0]
    torch.testing.assert_close(pixel_contrast(turned, every_second), pixel_contrast(z, labels))


def test_autocast_stays_in_float32():
    z, labels = example()
    z = z.detach().float()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        loss = pixel_contrast(z, labels)
    assert loss.dtype == torch.float32
    assert torch.equal(loss, pixel_contrast(z, labels))


@pytest.mark.parametrize("separate", [False, True])
def test_compiles_to_one_graph(separate):
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
        pixel_contrast(z, labels, **options)
