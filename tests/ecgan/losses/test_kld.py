import pytest
import torch
from torch.distributions import Normal
from torch.distributions import kl_divergence as reference

from ecgan.losses import kl_divergence


def test_divergence_from_the_standard_normal_summed_over_the_code():
    torch.manual_seed(0)
    mu, logvar = torch.randn(3, 5), torch.randn(3, 5)
    codes = Normal(mu, (logvar / 2).exp())
    expected = reference(codes, Normal(torch.zeros(3, 5), torch.ones(3, 5))).sum(1).mean()
    torch.testing.assert_close(kl_divergence(mu, logvar), expected)


def test_the_standard_normal_itself_costs_nothing():
    assert kl_divergence(torch.zeros(2, 4), torch.zeros(2, 4)).item() == pytest.approx(0)
