import math

import pytest
import torch

from ecgan.errors import ConfigError
from ecgan.losses import resize_labels, similarity_grid, similarity_loss

VOID = 3


def by_hand(probs: torch.Tensor, labels: torch.Tensor, eps: float) -> float:
    """The paper's sum over all pairs of one image's valid pixels, in Python floats."""
    p = [column.tolist() for column in probs.flatten(1).T]
    y = labels.flatten().tolist()
    valid = [i for i, label in enumerate(y) if label != VOID]
    total = 0.0
    for i in valid:
        for j in valid:
            same = sum(a * b for a, b in zip(p[i], p[j], strict=True))
            total -= math.log(max(same if y[i] == y[j] else 1 - same, eps))
    return total / len(valid) ** 2


def test_equals_the_sum_over_pairs_at_full_resolution():
    torch.manual_seed(0)
    logits = torch.randn(2, 3, 4, 5) * 3
    labels = torch.randint(0, VOID + 1, (2, 4, 5))
    probs = logits.double().softmax(1)
    expected = sum(by_hand(probs[i], labels[i], 1e-6) for i in range(2)) / 2
    loss = similarity_loss(logits, labels, ignore_index=VOID, resolution="full")
    assert loss.item() == pytest.approx(expected, rel=1e-4)


def test_quarter_compares_at_the_logits_own_grid():
    torch.manual_seed(0)
    logits = torch.randn(1, 3, 3, 4)
    labels = torch.randint(0, VOID + 1, (1, 10, 16))
    small = resize_labels(labels, (3, 4))
    expected = by_hand(logits.double().softmax(1)[0], small[0], 1e-6)
    loss = similarity_loss(logits, labels, ignore_index=VOID)
    assert loss.item() == pytest.approx(expected, rel=1e-4)


def test_a_segmentation_that_agrees_costs_nothing_and_a_wrong_one_pulls():
    labels = torch.tensor([[[0, 0], [1, 2]]])
    right = torch.nn.functional.one_hot(labels, 3).permute(0, 3, 1, 2) * 40.0
    agree = similarity_loss(right, labels, ignore_index=VOID, resolution="full")
    assert agree.item() == pytest.approx(0, abs=1e-5)
    wrong = right.roll(1, 2).requires_grad_()
    loss = similarity_loss(wrong / 10, labels, ignore_index=VOID, resolution="full")
    loss.backward()
    assert loss.item() > 0.5
    assert wrong.grad.abs().sum() > 0


@pytest.mark.parametrize(
    ("resolution", "grid"),
    [("quarter", (25, 32)), ("full", (97, 128)), ("48", (48, 63)), ("1", (1, 1))],
)
def test_grid(resolution, grid):
    assert similarity_grid(resolution, (97, 128)) == grid


@pytest.mark.parametrize("resolution", ["half", "0", "-4", "", "1.5"])
def test_unknown_resolution(resolution):
    with pytest.raises(ConfigError, match="quarter, full or a positive number of rows"):
        similarity_grid(resolution, (96, 128))


def test_labels_are_taken_at_the_cells_centres():
    labels = torch.arange(12).view(1, 1, 12).expand(2, 3, 12)
    assert resize_labels(labels, (3, 3))[0, 0].tolist() == [2, 6, 10]
    assert resize_labels(labels, (1, 4))[1, 0].tolist() == [1, 4, 7, 10]
    assert resize_labels(labels, (6, 24))[0, 5].tolist() == [i // 2 for i in range(24)]
    assert resize_labels(labels, (3, 12)) is labels
