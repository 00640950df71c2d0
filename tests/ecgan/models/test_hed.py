import pickle

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from ecgan.errors import WeightsError
from ecgan.models.hed import build_hed, load_hed

NAMES = ("One", "Two", "Thr", "Fou", "Fiv")
# Positions of the convolutions in the published file's sequences, and their width.
STAGES = (((0, 2), 64), ((1, 3), 128), ((1, 3, 5), 256), ((1, 3, 5), 512), ((1, 3, 5), 512))


@pytest.fixture(scope="module")
def state():
    """Random weights with the names and shapes of network-bsds500.pytorch."""
    torch.manual_seed(0)
    state, channels = {}, 3
    for name, (positions, width) in zip(NAMES, STAGES, strict=True):
        for position in positions:
            std = (2 / (9 * channels)) ** 0.5
            state[f"moduleVgg{name}.{position}.weight"] = torch.randn(width, channels, 3, 3) * std
            state[f"moduleVgg{name}.{position}.bias"] = torch.randn(width) * 0.1
            channels = width
        state[f"moduleScore{name}.weight"] = torch.randn(1, width, 1, 1) * 0.002
        state[f"moduleScore{name}.bias"] = torch.randn(1)
    state["moduleCombine.0.weight"] = torch.rand(1, 5, 1, 1)
    state["moduleCombine.0.bias"] = torch.randn(1)
    return state


@pytest.fixture(scope="module")
def weights(state, tmp_path_factory):
    path = tmp_path_factory.mktemp("hed") / "network-bsds500.pytorch"
    torch.save(state, path)
    return str(path)


@pytest.fixture(scope="module")
def image():
    return np.random.default_rng(0).integers(0, 256, (37, 50, 3), dtype=np.uint8)


def by_hand(state, image):
    """HED on blue, green, red, as the published file expects."""
    bgr = torch.from_numpy(image[:, :, ::-1].copy()).permute(2, 0, 1)[None].float()
    x = bgr - torch.tensor([104.00698793, 116.66876762, 122.67891434]).view(1, 3, 1, 1)
    sides = []
    for depth, (name, (positions, _)) in enumerate(zip(NAMES, STAGES, strict=True)):
        if depth:
            x = F.max_pool2d(x, 2)
        for at in positions:
            key = f"moduleVgg{name}.{at}"
            x = F.conv2d(x, state[f"{key}.weight"], state[f"{key}.bias"], padding=1).relu()
        key = f"moduleScore{name}"
        side = F.conv2d(x, state[f"{key}.weight"], state[f"{key}.bias"])
        sides.append(F.interpolate(side, image.shape[:2], mode="bilinear", align_corners=False))
    fused = F.conv2d(
        torch.cat(sides, 1), state["moduleCombine.0.weight"], state["moduleCombine.0.bias"]
    )
    return fused.sigmoid()[0, 0].numpy()


def test_equals_the_network_written_out(state, weights, image):
    edges = build_hed(weights)(image)
    assert edges.dtype == np.float32
    assert edges.shape == image.shape[:2]
    expected = by_hand(state, image)
    assert expected.std() > 1e-3
    np.testing.assert_allclose(edges, expected, rtol=1e-4, atol=1e-5)


def test_newer_names_and_safetensors(state, weights, image, tmp_path):
    from safetensors.torch import save_file

    path = tmp_path / "hed.safetensors"
    save_file({key.replace("module", "net"): tensor for key, tensor in state.items()}, path)
    np.testing.assert_array_equal(build_hed(str(path))(image), build_hed(weights)(image))


def test_goes_to_data_loading_processes(weights, image):
    extract = build_hed(weights)
    copy = pickle.loads(pickle.dumps(extract))
    np.testing.assert_array_equal(copy(image), extract(image))


def test_frozen(weights):
    network = load_hed(weights).train()
    assert not network.training
    assert not any(parameter.requires_grad for parameter in network.parameters())


def test_weights_that_do_not_fit(state, tmp_path):
    with pytest.raises(WeightsError, match="weights file of HED does not exist"):
        build_hed(str(tmp_path / "missing.pytorch"))
    for change, text in (
        ({"moduleScoreSix.weight": torch.zeros(1)}, "HED.*unknown 'moduleScoreSix.weight'"),
        ({"moduleCombine.0.bias": torch.zeros(2)}, r"'fuse.bias' has shape \[2\], expected \[1\]"),
    ):
        torch.save(state | change, tmp_path / "bad.pytorch")
        with pytest.raises(WeightsError, match=text):
            build_hed(str(tmp_path / "bad.pytorch"))
    torch.save({"features.0.weight": torch.zeros(1)}, tmp_path / "bad.pytorch")
    with pytest.raises(WeightsError, match="not those of HED"):
        build_hed(str(tmp_path / "bad.pytorch"))


@pytest.mark.parametrize(
    "wrong",
    [np.zeros((32, 32, 3)), np.zeros((32, 32), np.uint8), np.zeros((8, 32, 3), np.uint8)],
)
def test_wrong_images_are_refused(weights, wrong):
    with pytest.raises(ValueError, match=r"uint8 \[H, W, 3\] of at least 16x16"):
        build_hed(weights)(wrong)
