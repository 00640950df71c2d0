import itertools

import pytest
import torch

from ecgan.config import ModelConfig
from ecgan.models import ImageEncoder


def settings(**kwargs):
    defaults = {"num_classes": 4, "size": "64x96", "ngf": 8, "style": "encoder"}
    return ModelConfig(**{**defaults, **kwargs})


def test_parameters_at_ngf_64_are_the_published_layers():
    with torch.device("meta"):
        network = ImageEncoder(ModelConfig(num_classes=35, style="encoder", spectral="none"))
    widths = [3, 64, 128, 256, 512, 512, 512]
    expected = [9 * a * b for a, b in itertools.pairwise(widths)]
    assert [sum(p.numel() for p in conv.parameters()) for conv in network.convs] == expected
    for head in (network.fc_mu, network.fc_var):
        assert sum(p.numel() for p in head.parameters()) == 512 * 4 * 4 * 256 + 256


@pytest.mark.parametrize("size", [(64, 96), (128, 128), (300, 200)])
def test_photos_of_any_size(size):
    mu, logvar = ImageEncoder(settings())(torch.rand(2, 3, *size) * 2 - 1)
    assert mu.shape == logvar.shape == (2, 256)


def test_gradient_reaches_every_parameter():
    network = ImageEncoder(settings(z_dim=5))
    mu, logvar = network(torch.randn(2, 3, 64, 96))
    (mu * torch.randn_like(mu) + logvar * torch.randn_like(logvar)).sum().backward()
    assert all(p.grad.abs().max() > 0 for p in network.parameters())


def test_reparameterisation_has_the_encoded_moments():
    mu = torch.tensor([[1.0, -2.0]]).expand(100_000, -1).clone().requires_grad_()
    logvar = torch.tensor([[0.0, 2.0]]).expand(100_000, -1).clone().requires_grad_()
    random = torch.Generator().manual_seed(1)
    z = ImageEncoder.reparameterize(mu, logvar, random)
    torch.testing.assert_close(z.mean(0), torch.tensor([1.0, -2.0]), atol=0.03, rtol=0)
    expected = torch.tensor([1.0, torch.e])
    torch.testing.assert_close(z.std(0), expected, atol=0.03, rtol=0)
    z.sum().backward()
    assert torch.equal(mu.grad, torch.ones_like(mu))
    torch.testing.assert_close(logvar.grad, (z - mu).detach() / 2)
