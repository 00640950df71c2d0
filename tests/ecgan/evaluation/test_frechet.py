import numpy as np
import pytest
import torch
from torch import nn

from ecgan.errors import DataError
from ecgan.evaluation.frechet import FeatureStatistics, frechet_distance, kernel_distance


def gather(features, batch=7):
    statistics = FeatureStatistics(features.shape[1])
    for part in features.split(batch):
        statistics.update(part)
    return statistics


def draw(count, dimension, seed, shift=0.0, scale=1.0):
    generator = torch.Generator().manual_seed(seed)
    mixing = torch.randn(dimension, dimension, generator=generator)
    return torch.randn(count, dimension, generator=generator) @ mixing * scale + shift


@pytest.mark.parametrize("merge", [1, 20, 256])
def test_moments_batch_by_batch(merge, monkeypatch):
    monkeypatch.setattr("ecgan.evaluation.frechet._MERGE", merge)
    x = draw(50, 6, 0, shift=1e4)  # a mean that would drown the covariance in E[x^2] - E[x]^2
    statistics = gather(x)
    assert statistics.count == 50
    np.testing.assert_allclose(statistics.mean, x.double().mean(0), rtol=1e-13)
    np.testing.assert_allclose(
        statistics.covariance, np.cov(x.double().numpy().T), rtol=1e-9, atol=1e-9
    )
    assert torch.equal(statistics.features, x)


def test_known_gaussians():
    # One dimension: (m1 - m2)^2 + (s1 - s2)^2, here with exact sample moments.
    one = torch.tensor([[-1.0], [1.0]]) * (0.5**0.5) * 2 + 3
    other = torch.tensor([[-1.0], [1.0]]) * (0.5**0.5) * 5 - 1
    assert frechet_distance(gather(one), gather(other)) == pytest.approx(16 + 9, rel=1e-6)
    # Axes that do not mix: the same for each.
    corners = torch.tensor([[1.0, 1], [1, -1], [-1, 1], [-1, -1]]) * 0.75**0.5
    wide = corners * torch.tensor([2.0, 3.0])
    assert frechet_distance(gather(corners), gather(wide)) == pytest.approx(1 + 4, rel=1e-6)


@pytest.mark.parametrize(("count", "dimension"), [(200, 12), (9, 40)])
def test_agrees_with_scipy(count, dimension):
    linalg = pytest.importorskip("scipy.linalg")
    x, y = draw(count, dimension, 1), draw(count + 3, dimension, 2, shift=0.5)
    a, b = np.cov(x.double().numpy().T), np.cov(y.double().numpy().T)
    shift = (x.double().mean(0) - y.double().mean(0)).square().sum().item()
    root = np.sqrt(linalg.eigvals(a @ b).astype(complex)).real.sum()
    expected = shift + np.trace(a) + np.trace(b) - 2 * root
    assert frechet_distance(gather(x), gather(y)) == pytest.approx(expected, rel=1e-5)


class Identity(nn.Module):
    num_features = 10

    def forward(self, x):
        return x.flatten(1)


@pytest.mark.filterwarnings("ignore:Metric `Kernel Inception Distance`")
def test_agrees_with_torchmetrics():
    fid_module = pytest.importorskip("torchmetrics.image.fid")
    from torchmetrics.image.kid import KernelInceptionDistance

    x, y = draw(60, 10, 3), draw(64, 10, 4, shift=1.0)
    fid = fid_module.FrechetInceptionDistance(Identity(), input_img_size=(1, 1, 10)).set_dtype(
        torch.float64
    )
    for features, real in ((x, True), (y, False)):
        fid.update(features.double().view(-1, 1, 1, 10), real=real)
    assert frechet_distance(gather(x), gather(y)) == pytest.approx(fid.compute().item(), rel=1e-6)

    kid = KernelInceptionDistance(Identity(), subsets=1, subset_size=60)
    kid.update(x.view(-1, 1, 1, 10), real=True)
    kid.update(y[:60].view(-1, 1, 1, 10), real=False)
    ours = kernel_distance(gather(x), gather(y[:60]))
    assert (ours.subsets, ours.subset_size, ours.deviation) == (1, 60, None)
    assert ours.value == pytest.approx(kid.compute()[0].item(), rel=1e-4)


def test_a_set_is_no_distance_from_itself_however_few():
    for count in (3, 30, 300):
        x = draw(count, 64, 5)
        assert frechet_distance(gather(x), gather(x.flip(0), batch=5)) < 1e-9 * x.var().item() * 64


def test_kernel_distance_by_hand():
    x, y = torch.tensor([[0.0], [1.0]]), torch.tensor([[2.0], [3.0]])
    # Kernel (xy + 1)^3: within x 1, within y 7^3, across (1 + 1 + 27 + 64) / 4.
    assert kernel_distance(gather(x), gather(y)).value == pytest.approx(1 + 343 - 2 * 93 / 4)


def test_kernel_distance_by_subsets(monkeypatch):
    x, y = draw(80, 5, 6), draw(90, 5, 7)
    whole = kernel_distance(gather(x), gather(y[:80])).value
    several = kernel_distance(gather(x), gather(y), subsets=50, subset_size=40)
    assert (several.subsets, several.subset_size) == (50, 40)
    assert several.deviation > 0
    assert abs(several.value - whole) < 4 * several.deviation
    assert several == kernel_distance(gather(x), gather(y, 11), subsets=50, subset_size=40)
    monkeypatch.setattr("ecgan.evaluation.frechet._SHARED", 0)
    apart = kernel_distance(gather(x), gather(y), subsets=50, subset_size=40)
    assert (apart.value, apart.deviation) == pytest.approx((several.value, several.deviation))
    alike = kernel_distance(gather(x[:40]), gather(x[40:])).value
    assert abs(alike) < abs(whole)


def test_too_few_and_broken_features():
    one = gather(torch.zeros(1, 3))
    with pytest.raises(DataError, match="at least 2 images, not 1"):
        frechet_distance(one, gather(torch.zeros(5, 3)))
    with pytest.raises(DataError, match="at least 2 images a set, not 1"):
        kernel_distance(one, gather(torch.zeros(5, 3)))
    with pytest.raises(DataError, match="not finite"):
        one.update(torch.tensor([[0.0, float("nan"), 1]]))
    with pytest.raises(ValueError, match=r"\[B, 3\]"):
        one.update(torch.zeros(2, 4))
    one.update(torch.zeros(0, 3))
    assert one.count == 1
