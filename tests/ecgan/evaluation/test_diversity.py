import itertools

import pytest
import torch
from torch import nn

from ecgan.errors import ConfigError, WeightsError
from ecgan.evaluation.diversity import (
    LPIPSBackbone,
    MeanPairwiseDistance,
    build_distance,
)

WIDTHS = {"alex": (64, 192, 384, 256, 256), "vgg": (64, 128, 256, 512, 512)}


@pytest.fixture
def no_hub(tmp_path, monkeypatch):
    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path / "hub"))


@pytest.fixture(params=["alex", "vgg"])
def files(request, tmp_path):
    """Random weights with the names and shapes of the published files."""
    torch.manual_seed(0)
    backbone = LPIPSBackbone(request.param).state_dict() | {"classifier.1.weight": torch.ones(2)}
    linear = {
        f"lin{index}.model.1.weight": torch.rand(1, width, 1, 1)
        for index, width in enumerate(WIDTHS[request.param])
    }
    torch.save(backbone, tmp_path / "backbone.pth")
    torch.save(linear, tmp_path / "linear.pth")
    return request.param, str(tmp_path / "backbone.pth"), str(tmp_path / "linear.pth")


def images(count, seed=1, size=(64, 80)):
    return torch.rand(count, 3, *size, generator=torch.Generator().manual_seed(seed)) * 2 - 1


def test_lpips_agrees_with_torchmetrics(files, monkeypatch):
    theirs = pytest.importorskip("torchmetrics.functional.image.lpips")
    kind, backbone, linear = files
    distance = build_distance(kind, backbone, linear)
    assert distance.name == f"lpips_{kind}"
    assert {len(value) for value in distance.weights.values()} == {64}

    class Network(nn.Module):  # torchvision's network, as far as torchmetrics uses it
        def __init__(self):
            super().__init__()
            self.features = LPIPSBackbone(kind).features
            self.features.load_state_dict(
                {
                    key.removeprefix("features."): value
                    for key, value in torch.load(backbone, weights_only=True).items()
                    if key.startswith("features.")
                }
            )

    monkeypatch.setattr(
        theirs, "_get_tv_model_features", lambda net, pretrained=False: Network().features
    )
    reference = theirs._LPIPS(net=kind, pretrained=False).eval()
    state = torch.load(linear, weights_only=True)
    reference.load_state_dict(state, strict=False)
    x, y = images(3, 1), images(3, 2)
    with torch.no_grad():
        expected = reference(x, y).flatten().double()
    assert expected.min() > 0.01
    torch.testing.assert_close(distance(x, y), expected, rtol=1e-5, atol=1e-7)


def test_streaming_is_the_mean_over_all_pairs(no_hub):
    distance = build_distance()
    samples = [images(2, seed) for seed in range(5)]
    pairwise = MeanPairwiseDistance(distance)
    for sample in samples:
        pairwise.update(sample)
    pairs = [distance(a, b) for a, b in itertools.combinations(samples, 2)]
    torch.testing.assert_close(pairwise.means(), torch.stack(pairs).mean(0), rtol=1e-5, atol=1e-8)


def test_equal_images_have_no_diversity(no_hub):
    pairwise = MeanPairwiseDistance(build_distance())
    for _ in range(4):
        pairwise.update(images(2))
    assert pairwise.means().tolist() == [0, 0]


def test_one_sample_is_not_enough(no_hub):
    pairwise = MeanPairwiseDistance(build_distance())
    pairwise.update(images(1))
    with pytest.raises(ConfigError, match="at least 2 samples a label map, not 1"):
        pairwise.means()


def test_without_weights_it_is_not_called_lpips(no_hub):
    distance = build_distance()
    assert distance.name == "perceptual_distance_efficientnet_lite0"
    x, y = images(2, 1), images(2, 2)
    by_hand = torch.zeros(2, dtype=torch.float64)
    for a, b in zip(distance.backbone(x), distance.backbone(y), strict=True):
        a, b = (nn.functional.normalize(t, dim=1, eps=0) for t in (a, b))
        by_hand += (a - b).square().sum(1).mean((1, 2)).double()
    torch.testing.assert_close(distance(x, y), by_hand, rtol=1e-4, atol=1e-6)


def test_linear_weights_of_an_installed_package(no_hub, files):
    pytest.importorskip("torchmetrics")
    kind, backbone, _ = files
    assert build_distance(kind, backbone).name == f"lpips_{kind}"


def test_files_that_do_not_fit(no_hub, files, tmp_path):
    kind, backbone, linear = files
    other = "vgg" if kind == "alex" else "alex"
    with pytest.raises(WeightsError, match="not those of LPIPS"):
        build_distance(other, backbone, linear)
    with pytest.raises(WeightsError, match=r"expected 'lin0.model.1.weight'"):
        build_distance(kind, backbone, backbone)
    with pytest.raises(WeightsError, match=r"LPIPS' backbone .* not at hand: set diversity.back"):
        build_distance(kind, "", linear)
    with pytest.raises(WeightsError, match="does not exist"):
        build_distance(kind, str(tmp_path / "none.pth"), linear)
