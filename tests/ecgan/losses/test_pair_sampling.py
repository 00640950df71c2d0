"""The sampled similarity loss against the loss over all pairs."""

import pytest
import torch
from ecgan_kernels import similarity_bce

from ecgan.errors import ConfigError
from ecgan.losses import sampled_similarity, similarity_loss, similarity_pairs

N, VOID = 5, 5


def case(sharpness: float) -> tuple[torch.Tensor, torch.Tensor]:
    """Probabilities [2, N, 6, 7] that favour the right class, and labels with void."""
    torch.manual_seed(0)
    labels = torch.randint(0, VOID + 1, (2, 6, 7))
    labels[1, :4] = 2  # one class with many pairs
    logits = torch.randn(2, N, 6, 7)
    right = torch.nn.functional.one_hot(labels, N + 1)[..., :N].permute(0, 3, 1, 2)
    return ((logits + right) * sharpness).softmax(1).requires_grad_(), labels


def exact(probs, labels, eps=1e-6):
    loss = similarity_bce(probs.double(), labels, ignore_index=VOID, eps=eps)
    return loss.detach(), torch.autograd.grad(loss, probs)[0]


# Undecided; decided; so confident that pairs reach p = 0 and p = 1, where eps counts.
@pytest.mark.parametrize("sharpness", [0.1, 1.0, 40.0])
def test_value_and_gradient_are_unbiased(sharpness):
    probs, labels = case(sharpness)
    loss, gradient = exact(probs, labels, eps=1e-3)
    random = torch.Generator().manual_seed(1)
    values, gradients = [], []
    for _ in range(3000):
        value = sampled_similarity(probs, labels, 32, ignore_index=VOID, eps=1e-3, generator=random)
        values.append(value.detach())
        gradients.append(torch.autograd.grad(value, probs)[0])
    for estimates, truth in ((torch.stack(values), loss), (torch.stack(gradients), gradient)):
        estimates = estimates.double().flatten(1) if estimates.dim() > 1 else estimates[:, None]
        error = estimates.double().mean(0) - truth.flatten()
        deviation = estimates.double().std(0) / len(estimates) ** 0.5
        # Standard errors, with float32's rounding; 421 numbers, so 4.5 is a chance of 0.3 %.
        assert (error.abs() <= 4.5 * deviation + 1e-6 * truth.abs().max()).all()


def test_the_known_part_spares_samples():
    probs, labels = case(0.1)
    loss, _ = exact(probs, labels)
    estimates = torch.stack(
        [sampled_similarity(probs, labels, 64, ignore_index=VOID).detach() for _ in range(200)]
    )
    # Plain sampling of 64 pairs: the spread of one pair's loss over the square root of 64.
    p = torch.einsum("bnm,bnk->bmk", probs.flatten(2), probs.flatten(2))
    y = labels.flatten(1)
    same = y[:, :, None] == y[:, None]
    valid = (y != VOID)[:, :, None] & (y != VOID)[:, None]
    plain = torch.where(same, -p.log(), -(1 - p).log())[valid].std() / 8
    assert estimates.std() < plain / 10
    assert (estimates - loss).abs().max() < plain


@pytest.mark.parametrize("labels", [[0, 0, 0, 0], [0, 1, 2, 3], [VOID, VOID, 4, VOID]])
def test_kinds_of_pairs_that_are_missing(labels):
    torch.manual_seed(0)
    probs = torch.randn(1, N, 2, 2).softmax(1)
    labels = torch.tensor(labels).view(1, 2, 2)
    expected = similarity_bce(probs, labels, ignore_index=VOID)
    estimates = torch.stack(
        [sampled_similarity(probs, labels, 64, ignore_index=VOID) for _ in range(200)]
    )
    spread = 4.5 * estimates.std() / 200**0.5
    assert (estimates.mean() - expected).abs() <= spread + 1e-6


def test_images_without_a_valid_pixel():
    probs, labels = case(1.0)
    alone = sampled_similarity(
        probs[:1], labels[:1], 400_000, ignore_index=VOID, generator=torch.Generator()
    )
    labels[1] = VOID
    both = sampled_similarity(probs, labels, 400_000, ignore_index=VOID)
    assert both.item() == pytest.approx(alone.item(), rel=0.01)
    none = sampled_similarity(probs, torch.full_like(labels, VOID), 8, ignore_index=VOID)
    assert none.item() == 0
    assert (torch.autograd.grad(none, probs)[0] == 0).all()


def test_the_loss_takes_a_number_of_pairs():
    torch.manual_seed(0)
    logits, labels = torch.randn(2, N, 8, 8), torch.randint(0, VOID + 1, (2, 8, 8))
    truth = similarity_loss(logits, labels, ignore_index=VOID, resolution="full")
    drawn = similarity_loss(logits, labels, ignore_index=VOID, resolution="full", pairs="200000")
    assert drawn.item() == pytest.approx(truth.item(), rel=0.01)
    assert drawn.item() != truth.item()


def test_number_of_pairs():
    assert similarity_pairs("all") is None
    assert similarity_pairs("65536") == 65536
    for wrong in ("some", "1", "-4", "", "2.5"):
        with pytest.raises(ConfigError, match="all or a number of pairs of at least 2"):
            similarity_pairs(wrong)
