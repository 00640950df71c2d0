import hashlib

import pytest
import torch
import torch.nn.functional as F

from ecgan.errors import WeightsError
from ecgan.evaluation.features import build_features
from ecgan.evaluation.inception import InceptionV3


@pytest.fixture(scope="module")
def inception():
    """Random weights that keep the activations' scale, batch norms that do something."""
    torch.manual_seed(0)
    network = InceptionV3().eval()
    for name, tensor in network.state_dict().items():
        if name.endswith("conv.weight"):
            tensor.normal_(std=(2 / tensor[0].numel()) ** 0.5)
        elif name.endswith("running_mean"):
            tensor.normal_(std=0.1)
        elif name.endswith("running_var"):
            tensor.uniform_(0.5, 1.5)
    return network


@pytest.fixture(scope="module")
def inception_file(inception, tmp_path_factory):
    state = {k: v for k, v in inception.state_dict().items() if "num_batches" not in k}
    state |= {"fc.weight": torch.zeros(1008, 2048), "fc.bias": torch.zeros(1008)}
    path = tmp_path_factory.mktemp("inception") / "pt_inception.pth"
    torch.save(state, path)
    return path


def by_hand(state, x):
    """The network written out branch by branch from Szegedy et al.'s Figures 5 to 7 and 10."""

    def conv(x, name, stride=1, padding=0):
        x = F.conv2d(x, state[f"{name}.conv.weight"], None, stride, padding)
        mean, var = state[f"{name}.bn.running_mean"], state[f"{name}.bn.running_var"]
        weight, bias = state[f"{name}.bn.weight"], state[f"{name}.bn.bias"]
        return F.batch_norm(x, mean, var, weight, bias, eps=0.001).clamp_min(0)

    def average(x):  # over the pixels there are
        ones = torch.ones_like(x[:1, :1])
        return F.avg_pool2d(x, 3, 1, 1) / F.avg_pool2d(ones, 3, 1, 1)

    x = conv(x, "Conv2d_1a_3x3", 2)
    x = conv(x, "Conv2d_2a_3x3")
    x = F.max_pool2d(conv(x, "Conv2d_2b_3x3", 1, 1), 3, 2)
    x = F.max_pool2d(conv(conv(x, "Conv2d_3b_1x1"), "Conv2d_4a_3x3"), 3, 2)
    for m in ("Mixed_5b.", "Mixed_5c.", "Mixed_5d."):
        double = conv(conv(x, m + "branch3x3dbl_1"), m + "branch3x3dbl_2", 1, 1)
        x = torch.cat([
            conv(x, m + "branch1x1"),
            conv(conv(x, m + "branch5x5_1"), m + "branch5x5_2", 1, 2),
            conv(double, m + "branch3x3dbl_3", 1, 1),
            conv(average(x), m + "branch_pool"),
        ], 1)  # fmt: skip
    m = "Mixed_6a."
    double = conv(conv(x, m + "branch3x3dbl_1"), m + "branch3x3dbl_2", 1, 1)
    x = torch.cat(
        [conv(x, m + "branch3x3", 2), conv(double, m + "branch3x3dbl_3", 2), F.max_pool2d(x, 3, 2)],
        1,
    )
    for m in ("Mixed_6b.", "Mixed_6c.", "Mixed_6d.", "Mixed_6e."):
        single = conv(conv(x, m + "branch7x7_1"), m + "branch7x7_2", 1, (0, 3))
        double = conv(conv(x, m + "branch7x7dbl_1"), m + "branch7x7dbl_2", 1, (3, 0))
        double = conv(
            conv(double, m + "branch7x7dbl_3", 1, (0, 3)), m + "branch7x7dbl_4", 1, (3, 0)
        )
        x = torch.cat([
            conv(x, m + "branch1x1"),
            conv(single, m + "branch7x7_3", 1, (3, 0)),
            conv(double, m + "branch7x7dbl_5", 1, (0, 3)),
            conv(average(x), m + "branch_pool"),
        ], 1)  # fmt: skip
    m = "Mixed_7a."
    seven = conv(conv(x, m + "branch7x7x3_1"), m + "branch7x7x3_2", 1, (0, 3))
    seven = conv(conv(seven, m + "branch7x7x3_3", 1, (3, 0)), m + "branch7x7x3_4", 2)
    three = conv(conv(x, m + "branch3x3_1"), m + "branch3x3_2", 2)
    x = torch.cat([three, seven, F.max_pool2d(x, 3, 2)], 1)
    for m, pool in (("Mixed_7b.", average), ("Mixed_7c.", lambda x: F.max_pool2d(x, 3, 1, 1))):
        three = conv(x, m + "branch3x3_1")
        double = conv(conv(x, m + "branch3x3dbl_1"), m + "branch3x3dbl_2", 1, 1)
        x = torch.cat([
            conv(x, m + "branch1x1"),
            conv(three, m + "branch3x3_2a", 1, (0, 1)),
            conv(three, m + "branch3x3_2b", 1, (1, 0)),
            conv(double, m + "branch3x3dbl_3a", 1, (0, 1)),
            conv(double, m + "branch3x3dbl_3b", 1, (1, 0)),
            conv(pool(x), m + "branch_pool"),
        ], 1)  # fmt: skip
    return x.mean((2, 3))


def test_inception_is_the_published_network(inception):
    # 23,850,960 parameters with the 1008-way classifier, 94 convolutions.
    own = sum(parameter.numel() for parameter in inception.parameters())
    assert own + 1008 * 2049 == 23_850_960
    convolutions = [m for m in inception.modules() if isinstance(m, torch.nn.Conv2d)]
    assert len(convolutions) == 94
    torch.manual_seed(1)
    image = torch.rand(1, 3, 299, 299) * 2 - 1
    with torch.no_grad():
        expected = by_hand(inception.state_dict(), image)
        features = inception(image)
    assert features.shape == (1, 2048)
    assert features.std() > 0.01
    torch.testing.assert_close(features, expected, rtol=1e-4, atol=1e-5)


def test_a_weights_file_gives_the_fid(inception, inception_file):
    network = build_features(str(inception_file))
    assert (network.frechet_name, network.kernel_name) == ("fid", "kid")
    assert network.weights == hashlib.sha256(inception_file.read_bytes()).hexdigest()
    assert "not byte for byte the published" in network.remark
    image = torch.rand(1, 3, 64, 80) * 2 - 1
    resized = F.interpolate(image, (299, 299), mode="bilinear", align_corners=False)
    with torch.no_grad():
        torch.testing.assert_close(network(image), inception(resized))


def test_the_hub_folder_is_looked_at(inception_file, tmp_path, monkeypatch):
    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path))
    assert build_features().name == "efficientnet_lite0"
    (tmp_path / "checkpoints").mkdir()
    target = tmp_path / "checkpoints" / "pt_inception-2015-12-05-6726825d.pth"
    target.write_bytes(inception_file.read_bytes())
    assert build_features().frechet_name == "fid"


def test_no_inception_no_fid(tmp_path, monkeypatch):
    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path))
    network = build_features()
    assert network.frechet_name == "frechet_efficientnet_lite0"
    assert network.kernel_name == "kernel_distance_efficientnet_lite0"
    features = network(torch.rand(2, 3, 40, 56) * 2 - 1)
    assert features.shape == (2, network.dimension)
    assert not features.requires_grad
    # The 1280 features are what the classifier sees.
    image = torch.rand(1, 3, 224, 224) * 2 - 1
    logits = network.network.fc(network(image))
    torch.testing.assert_close(logits, network.network(image))


def test_other_weights_are_refused(inception_file, tmp_path):
    with pytest.raises(WeightsError, match=r"does not exist: .*none\.pth"):
        build_features(str(tmp_path / "none.pth"))
    state = torch.load(inception_file, weights_only=True)
    torch.save(state | {"fc.weight": torch.zeros(1000, 2048)}, tmp_path / "torchvision.pth")
    with pytest.raises(WeightsError, match=r"another InceptionV3 \(fc.weight is \[1000, 2048\]\)"):
        build_features(str(tmp_path / "torchvision.pth"))
    del state["Mixed_7c.branch_pool.conv.weight"]
    torch.save(state, tmp_path / "short.pth")
    with pytest.raises(WeightsError, match=r"lack 'Mixed_7c.branch_pool.conv.weight'"):
        build_features(str(tmp_path / "short.pth"))
