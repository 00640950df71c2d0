import pytest
import torch
from torch import nn

from ecgan.losses import perceptual_loss


class TwoLayers(nn.Module):
    """Stands for a frozen network; counts its passes."""

    def __init__(self):
        super().__init__()
        self.layer_weights = [0.25, 2.0]
        self.passes = []

    def forward(self, image):
        self.passes.append((len(image), torch.is_grad_enabled()))
        return [image.square(), image.mean((2, 3)).sin()]


@pytest.fixture
def images():
    torch.manual_seed(0)
    return [torch.randn(2, 3, 4, 4) for _ in range(5)]


def test_weighted_sum_over_layers_and_pairs(images):
    network = TwoLayers()
    fakes, reals = images[:3], images[3:]
    pairs = [(0, 0, 1.0), (1, 1, 1.0), (2, 1, 2.0)]
    expected = 0.0
    for fake, real, weight in pairs:
        a, b = fakes[fake], reals[real]
        expected += weight * 0.25 * (a.square() - b.square()).abs().mean()
        expected += weight * 2.0 * (a.mean((2, 3)).sin() - b.mean((2, 3)).sin()).abs().mean()
    torch.testing.assert_close(perceptual_loss(network, fakes, reals, pairs), expected)


def test_two_passes_and_none_of_them_keeps_a_graph_of_the_real_side(images):
    network = TwoLayers()
    for image in images:
        image.requires_grad_()
    loss = perceptual_loss(network, images[:3], images[3:], [(0, 0, 1.0), (1, 1, 1.0), (2, 1, 2.0)])
    loss.backward()
    assert network.passes == [(4, False), (6, True)]
    assert all(image.grad.abs().sum() > 0 for image in images[:3])
    assert all(image.grad is None for image in images[3:])
