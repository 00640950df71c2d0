import pytest
import torch

from ecgan.losses import class_l1

N = 3


@pytest.fixture
def case():
    torch.manual_seed(0)
    labels = torch.randint(0, N + 1, (2, 5, 7))
    labels[1] = labels[1].clamp_max(1)  # class 2 and void are absent from the second image
    return torch.randn(2, 3, 5, 7), torch.randn(2, 3, 5, 7), labels


def n_terms(class_image, image, labels, balanced):
    """One masked L1 for each class, added: the equation as it is printed."""
    total = 0.0
    for index in range(N):
        mask = (labels == index).unsqueeze(1).to(image)
        error = (mask * class_image - mask * image).abs().sum((1, 2, 3)) / 3
        area = mask.sum((1, 2, 3)).clamp_min(1) if balanced else image[0, 0].numel()
        total = total + (error / area).mean()
    return total


@pytest.mark.parametrize("balanced", [False, True])
def test_equals_the_sum_of_n_masked_terms(case, balanced):
    class_image, image, labels = (t.double() if t.is_floating_point() else t for t in case)
    class_image.requires_grad_()
    loss = class_l1(class_image, image, labels, num_classes=N, balanced=balanced)
    (gradient,) = torch.autograd.grad(loss, class_image)
    expected = n_terms(class_image, image, labels, balanced)
    (expected_gradient,) = torch.autograd.grad(expected, class_image)
    torch.testing.assert_close(loss.double(), expected, rtol=1e-6, atol=0)
    torch.testing.assert_close(gradient, expected_gradient, rtol=1e-6, atol=1e-9)


def test_balanced_gives_a_small_class_the_weight_of_a_large_one():
    labels = torch.zeros(1, 4, 4, dtype=torch.long)
    labels[0, 0, 0] = 1
    image = torch.zeros(1, 3, 4, 4)
    for index in range(2):
        off = (labels == index).unsqueeze(1).float().expand_as(image)
        assert class_l1(off, image, labels, num_classes=N, balanced=True).item() == pytest.approx(1)
    assert class_l1(image + 1, image, labels, num_classes=N).item() == pytest.approx(1)


@pytest.mark.parametrize("balanced", [False, True])
def test_void_pixels_do_not_count(case, balanced):
    class_image, image, labels = case
    void = (labels == N).unsqueeze(1)
    changed = torch.where(void, class_image + 100, class_image)
    losses = [
        class_l1(x, image, labels, num_classes=N, balanced=balanced) for x in (class_image, changed)
    ]
    assert void.any()
    torch.testing.assert_close(losses[0], losses[1])
    only_void = torch.full_like(labels, N)
    assert class_l1(class_image, image, only_void, num_classes=N, balanced=balanced).item() == 0
