"""similarity_bce against a double loop over pairs of pixels in float64."""

from __future__ import annotations

import math

import pytest
import torch
from ecgan_kernels.similarity_bce import similarity_bce
from torch import Tensor

DTYPES = [torch.uint8, torch.int16, torch.int32, torch.int64]
IGNORE = 255


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
def test_value_and_gradient(size, classes):
    probs, labels = example(*size, classes=classes)
    loss = similarity_bce(probs, labels, reduction="none")
    expected, expected_grad = brute_force(probs, labels)
    torch.testing.assert_close(loss, expected, rtol=1e-9, atol=1e-12)
    loss.sum().backward()
    torch.testing.assert_close(probs.grad, expected_grad, rtol=1e-9, atol=1e-12)


def test_more_pixels_than_one_block_of_rows():
    probs, labels = example(23, 25, classes=4, batch=1)
    s, flat = probs.detach().reshape(4, -1), labels.reshape(-1)
    p, valid = s.t() @ s, flat != IGNORE
    x = torch.where(flat[:, None] == flat, p, 1 - p).clamp(min=1e-6)
    expected = -x.log()[valid][:, valid].mean()
    torch.testing.assert_close(similarity_bce(probs, labels), expected)
    assert torch.autograd.gradcheck(
        lambda q: similarity_bce(q, labels), (probs,), fast_mode=True, atol=1e-7
    )


def test_gradcheck():
    probs, labels = example(2, 3)
    assert torch.autograd.gradcheck(lambda p: similarity_bce(p, labels, eps=1e-9), (probs,))


def test_gradient_pulls_below_eps():
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
def test_low_precision_inputs_lose_nothing_further(dtype):
    probs, labels = example(5, 7, classes=5, dtype=dtype)
    loss = similarity_bce(probs, labels, reduction="none")
    assert loss.dtype == torch.float32
    expected, expected_grad = brute_force(probs, labels)
    torch.testing.assert_close(loss.double(), expected, rtol=1e-6, atol=1e-6)
    loss.sum().backward()
    assert probs.grad.dtype == dtype
    rounding = torch.finfo(dtype).eps + 1e-6
    torch.testing.assert_close(probs.grad.double(), expected_grad, rtol=rounding, atol=1e-6)


def test_confident_predictions():
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
def test_label_dtypes(dtype):
    probs, labels = example(4, 4)
    expected = similarity_bce(probs, labels)
    assert torch.equal(similarity_bce(probs, labels.to(dtype)), expected)


def test_reductions():
    probs, labels = example(3, 3, batch=3)
    labels[1] = IGNORE
    each = similarity_bce(probs, labels, reduction="none")
    assert each[1] == 0
    torch.testing.assert_close(similarity_bce(probs, labels, reduction="sum"), each.sum())
    torch.testing.assert_close(similarity_bce(probs, labels), each.sum() / 2)


def test_ignored_pixels_leave_rows_and_columns():
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
def test_empty(shape, reduction):
    probs = torch.zeros(shape, requires_grad=True)
    loss = similarity_bce(
        probs, torch.zeros(shape[0], *shape[2:], dtype=torch.long), reduction=reduction
    )
    assert loss.shape == ((shape[0],) if reduction == "none" else ())
    assert (loss == 0).all()
    loss.sum().backward()
    assert probs.grad.shape == shape


def test_all_ignored():
    probs, labels = example(3, 3)
    loss = similarity_bce(probs, torch.full_like(labels, IGNORE))
    loss.backward()
    assert loss == 0
    assert (probs.grad == 0).all()


@pytest.mark.parametrize("labels", [torch.zeros(1, 9).long(), torch.arange(9)[None]])
def test_all_same_and_all_different(labels):
    probs = torch.rand(1, 9, 9, dtype=torch.float64).softmax(1)
    expected, _ = brute_force(probs, labels)
    torch.testing.assert_close(similarity_bce(probs, labels)[None], expected)


def test_256_classes_and_negative_ignore_index():
    labels = torch.tensor([[255, 255, 254, -1]], dtype=torch.int16)
    probs = torch.rand(1, 256, 4, dtype=torch.float64).softmax(1)
    expected, _ = brute_force(probs, labels, ignore=-1)
    torch.testing.assert_close(similarity_bce(probs, labels, ignore_index=-1)[None], expected)


def test_non_contiguous():
    probs, labels = example(4, 6)
    expected = similarity_bce(probs, labels)
    turned = probs.detach().permute(0, 3, 2, 1).contiguous().permute(0, 3, 2, 1)
    assert not turned.is_contiguous()
    columns = labels.mT.contiguous().mT
    torch.testing.assert_close(similarity_bce(turned, columns), expected)


def test_autocast_stays_in_float32():
    probs, labels = example(6, 6, dtype=torch.float32)
    expected = similarity_bce(probs, labels)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        loss = similarity_bce(probs, labels)
    assert loss.dtype == torch.float32
    assert torch.equal(loss, expected)


def test_compiles_to_one_graph():
    probs, labels = example(4, 4)
    compiled = torch.compile(similarity_bce, fullgraph=True, backend="aot_eager")
    expected = torch.autograd.grad(similarity_bce(probs, labels), probs)
    actual = torch.autograd.grad(compiled(probs, labels), probs)
    torch.testing.assert_close(actual, expected)
    # Values cannot be looked at in a graph: out-of-range labels count as ignored there.
    wrong = torch.where(labels == IGNORE, 77, labels)
    torch.testing.assert_close(compiled(probs, wrong), similarity_bce(probs, labels))


@pytest.mark.parametrize("precision", ["exact", "fast"])
def test_precision_is_accepted(precision):
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
        similarity_bce(probs, labels, **options)


def test_ignore_index_does_not_wrap_around_in_uint8():
    # 300 is 44 in eight bits: no label of an uint8 map may be taken for it.
    probs, _ = example(4, classes=50, batch=1)
    labels = torch.tensor([[44, 44, 1, 1]], dtype=torch.uint8)
    expected, _ = brute_force(probs, labels)
    torch.testing.assert_close(similarity_bce(probs, labels, ignore_index=300)[None], expected)
    with pytest.raises(ValueError, match="but holds 44"):
        similarity_bce(probs[:, :3], labels, ignore_index=300)
