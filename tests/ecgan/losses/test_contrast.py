import math

import pytest
import torch
from torch import nn

from ecgan.losses import contrast_loss

VOID = 3


def by_hand(embeddings: torch.Tensor, labels: list[int], tau: float) -> float:
    """The paper's L_i, averaged over the anchors with a positive, in Python floats."""
    z = [(row / row.norm()).tolist() for row in embeddings.double()]
    similarity = [[sum(a * b for a, b in zip(u, v, strict=True)) / tau for v in z] for u in z]
    losses = []
    for i, label in enumerate(labels):
        positives = [j for j, other in enumerate(labels) if other == label and j != i]
        negatives = [j for j, other in enumerate(labels) if other != label]
        if positives:
            rest = sum(math.exp(similarity[i][j]) for j in negatives)
            terms = [
                -math.log(math.exp(similarity[i][j]) / (math.exp(similarity[i][j]) + rest))
                for j in positives
            ]
            losses.append(sum(terms) / len(terms))
    return sum(losses) / len(losses)


@pytest.fixture
def case():
    torch.manual_seed(0)
    features = torch.randn(4, 6, 3, 4)
    labels = torch.randint(0, VOID + 1, (4, 3, 4))
    return features, labels, nn.Linear(6, 5).requires_grad_(True)


def pairs(features, labels, projection):
    """Embeddings and labels of all valid pixels of a group of layouts."""
    rows = features.permute(0, 2, 3, 1).flatten(0, 2)
    keep = labels.flatten() != VOID
    return projection(rows[keep]).detach(), labels.flatten()[keep].tolist()


def test_equals_the_equation_over_all_layouts_when_the_budget_holds_them(case):
    features, labels, projection = case
    expected = by_hand(*pairs(features, labels, projection), 0.5)
    loss = contrast_loss(features, labels, projection, ignore_index=VOID, temperature=0.5)
    assert loss.item() == pytest.approx(expected, rel=1e-4)


def test_more_layouts_than_allowed_are_grouped(case):
    features, labels, projection = case
    halves = [
        by_hand(*pairs(features[part], labels[part], projection), 0.5)
        for part in (slice(0, 2), slice(2, 4))
    ]
    loss = contrast_loss(
        features, labels, projection, ignore_index=VOID, temperature=0.5, layouts=3
    )
    assert loss.item() == pytest.approx(sum(halves) / 2, rel=1e-4)


def test_gradients_reach_sampled_pixels_and_the_projection(case):
    features, labels, projection = case
    features.requires_grad_()
    loss = contrast_loss(
        features,
        labels,
        projection,
        ignore_index=VOID,
        budget=6,
        generator=torch.Generator().manual_seed(0),
    )
    loss.backward()
    assert projection.weight.grad.abs().sum() > 0
    touched = features.grad.abs().sum(1) > 0
    assert 2 <= touched.sum() <= 6
    assert not touched[labels == VOID].any()


def test_same_generator_state_same_loss(case):
    features, labels, projection = case
    losses = {
        contrast_loss(
            features,
            labels,
            projection,
            ignore_index=VOID,
            budget=8,
            generator=torch.Generator().manual_seed(7),
        ).item()
        for _ in range(2)
    }
    assert len(losses) == 1


def test_predictions_draw_the_sample_to_wrong_pixels(case):
    features, _, projection = case
    features = features.requires_grad_()
    labels = torch.zeros(4, 3, 4, dtype=torch.long)
    labels[:, :, 2:] = 1
    wrong = torch.zeros_like(labels, dtype=torch.bool)
    wrong[0, 0, 0] = wrong[3, 2, 3] = True
    contrast_loss(
        features,
        labels,
        projection,
        ignore_index=VOID,
        budget=4,
        predictions=torch.where(wrong, 1 - labels, labels),
    ).backward()
    assert (features.grad.abs().sum(1) > 0)[wrong].all()


def test_only_void_gives_zero(case):
    features, labels, projection = case
    loss = contrast_loss(features, torch.full_like(labels, VOID), projection, ignore_index=VOID)
    assert loss.item() == 0
