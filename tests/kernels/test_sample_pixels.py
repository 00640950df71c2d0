"""sample_pixels against the shares that dealing pixel by pixel gives."""

from __future__ import annotations

import itertools
from collections import Counter

import pytest
import torch
from ecgan_kernels.sample_pixels import sample_pixels
from torch import Tensor

IGNORE = 255


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def layout(counts: dict[int, int], shape: tuple[int, ...] | None = None) -> Tensor:
    """A shuffled label map with so many pixels of each label."""
    flat = torch.cat([torch.full((count,), label) for label, count in counts.items()])
    flat = flat[torch.randperm(len(flat), generator=generator(99))]
    return flat.reshape(shape or (1, -1))


def dealt(counts: dict[int, int], budget: int) -> list[int]:
    """Shares, smallest class first, when the classes take turns until the budget is spent."""
    left, shares = dict(counts), Counter(dict.fromkeys(counts, 0))
    while budget and any(left.values()):
        for label in sorted(left, key=lambda c: left[c], reverse=True):
            if left[label] and budget:
                left[label] -= 1
                shares[label] += 1
                budget -= 1
    return sorted(shares.values())


@pytest.mark.parametrize(
    "counts",
    [
        {0: 100, 1: 100, 2: 100},
        {0: 100, 1: 7, 2: 2, 3: 1},
        {5: 1, 9: 1, 17: 98},
        {3: 50},
        {0: 10, 1: 10, IGNORE: 80},
    ],
)
@pytest.mark.parametrize("budget", [0, 1, 2, 10, 31, 60, 1000])
def test_shares_are_water_filled(counts, budget):
    labels = layout(counts)
    index = sample_pixels(labels, budget, generator=generator())
    known = {label: count for label, count in counts.items() if label != IGNORE}
    assert index.dtype == torch.int64
    assert index.dim() == 1
    assert len(index) == min(budget, sum(known.values()))
    assert (index.diff() > 0).all()  # ascending, hence without replacement
    drawn = Counter(labels.flatten()[index].tolist())
    assert IGNORE not in drawn
    assert sorted(drawn[label] for label in known) == dealt(known, budget)


def test_shares_are_over_the_batch_not_per_image():
    # Class 1 stands in the second image only and still gets half.
    labels = torch.zeros(4, 6, 6, dtype=torch.long)
    labels[1, :5] = 1
    index = sample_pixels(labels, 40, generator=generator())
    assert (labels.flatten()[index] == 1).sum() == 20


def test_per_class():
    counts = {0: 50, 1: 5, 2: 1}
    labels = layout(counts)
    index = sample_pixels(labels, 100, per_class=8, generator=generator())
    assert Counter(labels.flatten()[index].tolist()) == {0: 8, 1: 5, 2: 1}


def test_same_generator_state_same_sample():
    labels = layout({0: 40, 1: 40}, (2, 8, 5))
    first = sample_pixels(labels, 16, generator=generator(3))
    assert torch.equal(first, sample_pixels(labels, 16, generator=generator(3)))
    assert not torch.equal(first, sample_pixels(labels, 16, generator=generator(4)))
    torch.manual_seed(3)
    default = sample_pixels(labels, 16)
    torch.manual_seed(3)
    assert torch.equal(default, sample_pixels(labels, 16))


def test_uniform_within_a_class():
    labels = layout({0: 12, 1: 5})
    rounds, share = 3000, 4
    source = generator(1)
    hits = torch.zeros(17)
    for _ in range(rounds):
        hits[sample_pixels(labels, 2 * share, generator=source)] += 1
    for label, count in ((0, 12), (1, 5)):
        expected = rounds * share / count
        deviation = (rounds * share / count * (1 - share / count)) ** 0.5
        assert ((hits[labels[0] == label] - expected).abs() < 5 * deviation).all()


def test_incomplete_round_goes_to_random_classes():
    labels = layout({0: 1000, 1: 2, 2: 2})
    source = generator(2)
    first = Counter(int(labels[0, sample_pixels(labels, 1, generator=source)]) for _ in range(600))
    assert all(130 < first[label] < 270 for label in range(3))


def wrong_and_right(labels: Tensor, predictions: Tensor, index: Tensor, label: int) -> list[int]:
    chosen = index[labels.flatten()[index] == label]
    right = int((predictions.flatten()[chosen] == label).sum())
    return [len(chosen) - right, right]


@pytest.mark.parametrize(
    ("wrong", "right", "expected"),
    [
        (50, 50, [10, 10]),  # enough of both: half and half
        (3, 97, [3, 17]),  # too few wrong ones: the rest is right
        (96, 4, [16, 4]),  # too few right ones
        (0, 100, [0, 20]),
        (100, 0, [20, 0]),
    ],
)
def test_half_of_a_share_is_wrong_pixels(wrong, right, expected):
    labels = torch.tensor([0] * 100 + [1] * 100)[None]
    predictions = labels.clone()
    predictions[0, :wrong] = 1
    assert wrong + right == 100
    index = sample_pixels(labels, 40, predictions=predictions, generator=generator())
    assert wrong_and_right(labels, predictions, index, 0) == expected
    assert wrong_and_right(labels, predictions, index, 1) == [0, 20]


def test_odd_share_has_one_more_wrong_pixel():
    labels = torch.zeros(1, 60, dtype=torch.long)
    predictions = (torch.arange(60) < 30).long()[None]
    for seed in range(8):
        index = sample_pixels(labels, 11, predictions=predictions, generator=generator(seed))
        assert wrong_and_right(labels, predictions, index, 0) == [6, 5]


def test_wrong_pixels_are_drawn_uniformly():
    labels = torch.zeros(1, 20, dtype=torch.long)
    predictions = (torch.arange(20) < 8).long()[None]  # eight wrong, twelve right
    source = generator(5)
    hits = torch.zeros(20)
    rounds = 2000
    for _ in range(rounds):
        hits[sample_pixels(labels, 8, predictions=predictions, generator=source)] += 1
    for part, count in ((slice(0, 8), 8), (slice(8, 20), 12)):
        expected = rounds * 4 / count
        assert ((hits[part] - expected).abs() < 5 * expected**0.5).all()


def test_predictions_with_small_and_ignored_classes():
    generator_ = generator(7)
    labels = torch.randint(0, 6, (3, 9, 11), generator=generator_)
    labels[torch.rand(labels.shape, generator=generator_) < 0.3] = IGNORE
    predictions = torch.randint(0, 6, labels.shape, generator=generator_)
    counts = Counter(labels.flatten().tolist())
    del counts[IGNORE]
    for budget in (5, 30, 100, 999):
        index = sample_pixels(labels, budget, predictions=predictions, generator=generator_)
        drawn = Counter(labels.flatten()[index].tolist())
        assert sorted(drawn[label] for label in counts) == dealt(counts, budget)


@pytest.mark.parametrize("dtype", [torch.uint8, torch.int16, torch.int32, torch.int64])
def test_label_dtypes(dtype):
    labels = layout({0: 30, 7: 30, IGNORE: 9})
    expected = sample_pixels(labels, 20, predictions=labels, generator=generator())
    actual = sample_pixels(
        labels.to(dtype), 20, predictions=labels.to(dtype), generator=generator()
    )
    assert torch.equal(actual, expected)


def test_non_contiguous():
    labels = layout({0: 30, 1: 30}, (2, 5, 6))
    turned = labels.mT.contiguous().mT
    assert not turned.is_contiguous()
    assert torch.equal(
        sample_pixels(turned, 12, generator=generator()),
        sample_pixels(labels, 12, generator=generator()),
    )


@pytest.mark.parametrize("shape", [(0, 4, 4), (2, 0), (0,)])
def test_empty(shape):
    labels = torch.zeros(shape, dtype=torch.long)
    assert sample_pixels(labels, 5, predictions=labels).shape == (0,)


def test_all_ignored():
    assert sample_pixels(torch.full((2, 3, 3), IGNORE), 5).shape == (0,)
    labels = torch.full((2, 3, 3), -1)
    assert sample_pixels(labels, 5, ignore_index=-1).shape == (0,)
    assert len(sample_pixels(labels, 5)) == 5


LABELS = torch.zeros(2, 4, 4).long()


@pytest.mark.parametrize(
    ("error", "words", "arguments", "options"),
    [
        (TypeError, "labels must be a torch.Tensor", ([0], 5), {}),
        (TypeError, "labels must be uint8", (LABELS.float(), 5), {}),
        (ValueError, "labels must have shape", (LABELS[0, 0, 0], 5), {}),
        (TypeError, "budget must be an int", (LABELS, 5.0), {}),
        (TypeError, "budget must be an int", (LABELS, True), {}),
        (ValueError, "budget must be at least 0", (LABELS, -1), {}),
        (ValueError, "per_class must be at least 1", (LABELS, 5), {"per_class": 0}),
        (TypeError, "predictions must be uint8", (LABELS, 5), {"predictions": LABELS.float()}),
        (ValueError, "predictions must have shape", (LABELS, 5), {"predictions": LABELS[1:]}),
        (ValueError, "predictions must be on", (LABELS, 5), {"predictions": LABELS.to("meta")}),
        (TypeError, "generator must be a torch.Generator", (LABELS, 5), {"generator": 1}),
        (TypeError, "ignore_index must be an int", (LABELS, 5), {"ignore_index": "void"}),
    ],
)
def test_errors(error, words, arguments, options):
    with pytest.raises(error, match=words):
        sample_pixels(*arguments, **options)


def test_deals_every_small_case():
    for counts in itertools.product(range(4), repeat=3):
        present = {label: count for label, count in enumerate(counts) if count}
        if present:
            labels = layout(present)
            for budget in range(sum(counts) + 1):
                index = sample_pixels(labels, budget, generator=generator(budget))
                drawn = Counter(labels[0, index].tolist())
                assert sorted(drawn[label] for label in present) == dealt(present, budget)
