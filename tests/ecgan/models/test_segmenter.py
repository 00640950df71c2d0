import pytest
import torch

from ecgan.errors import ConfigError, WeightsError
from ecgan.models.segmenter import LabelGenerator, build_small_segformer, read_label_map


@pytest.fixture(scope="module")
def segformer():
    torch.manual_seed(0)
    return build_small_segformer(5).eval()


@pytest.fixture(scope="module")
def folder(segformer, tmp_path_factory):
    path = tmp_path_factory.mktemp("segformer")
    segformer.save_pretrained(path)
    return path


@pytest.fixture
def image():
    torch.manual_seed(1)
    return torch.rand(2, 3, 50, 64) * 2 - 1


def raw_logits(segformer, image):
    mean, std = torch.tensor([[0.485, 0.456, 0.406], [0.229, 0.224, 0.225]]).view(2, 1, 3, 1, 1)
    with torch.no_grad():
        return segformer(pixel_values=((image + 1) / 2 - mean) / std).logits


def test_logits_at_a_quarter_of_the_resolution(segformer, folder, image):
    logits = LabelGenerator.from_pretrained(str(folder), 5)(image)
    assert logits.shape == (2, 5, 13, 16)
    torch.testing.assert_close(logits, raw_logits(segformer, image))


def test_frozen_yet_gradients_flow_to_the_image(folder, image):
    network = LabelGenerator.from_pretrained(str(folder), 5).train()
    assert not any(module.training for module in network.modules())
    assert not any(parameter.requires_grad for parameter in network.parameters())
    image.requires_grad_()
    network(image)[:, 2].sum().backward()
    assert image.grad.abs().sum() > 0
    assert all(parameter.grad is None for parameter in network.parameters())


def test_label_map_adds_probabilities_and_leaves_classes_out(segformer, image):
    network = LabelGenerator(segformer, 4, {0: 3, 1: 0, 2: 3, 4: 3})
    raw = raw_logits(segformer, image)
    logits = network(image)
    torch.testing.assert_close(logits[:, 0], raw[:, 1])
    torch.testing.assert_close(logits[:, 3].exp(), raw[:, [0, 2, 4]].exp().sum(1))
    assert network.covered.tolist() == [True, False, False, True]
    probs = logits.softmax(1)
    assert probs.isfinite().all()
    assert (probs[:, 1:3] == 0).all()


def test_one_to_one_label_map_permutes(segformer, image):
    logits = LabelGenerator(segformer, 6, {0: 4, 3: 1})(image)
    raw = raw_logits(segformer, image)
    torch.testing.assert_close(logits[:, [4, 1]], raw[:, [0, 3]])
    assert (logits[:, [0, 2, 3, 5]] == -1e4).all()


def test_label_maps_that_cannot_be(segformer):
    with pytest.raises(WeightsError, match="predicts 5 classes but the data set has 7"):
        LabelGenerator(segformer, 7)
    with pytest.raises(ConfigError, match=r"segmenter id 5 to class 0.*ids 0\.\.4"):
        LabelGenerator(segformer, 7, {5: 0})
    with pytest.raises(ConfigError, match=r"class 7, .*classes 0\.\.6"):
        LabelGenerator(segformer, 7, {0: 7})
    with pytest.raises(ConfigError, match="empty"):
        LabelGenerator(segformer, 7, {})


def test_read_label_map(tmp_path):
    path = tmp_path / "map.yaml"
    path.write_text("0: 7\n1: 8\n18: 8\n")
    assert read_label_map(path) == {0: 7, 1: 8, 18: 8}
    for text in ("[1, 2]", "road: 7", "0: 1.5", "0: true", ""):
        path.write_text(text)
        with pytest.raises(ConfigError, match="lines 'segmenter_id: class_id'"):
            read_label_map(path)
    path.write_text("{")
    with pytest.raises(ConfigError, match="cannot read the label map"):
        read_label_map(path)
    with pytest.raises(ConfigError, match=r"cannot read the label map .*missing\.yaml"):
        read_label_map(tmp_path / "missing.yaml")


def sentence(source) -> str:
    with pytest.raises(WeightsError) as caught:
        LabelGenerator.from_pretrained(str(source), 5)
    text = str(caught.value)
    assert "\n" not in text
    assert str(source) in text
    return text


def test_sources_that_are_no_segformer(segformer, folder, tmp_path, monkeypatch, capfd):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    assert "does not exist" in sentence(tmp_path / "missing")
    assert "cannot load a SegFormer" in sentence("nobody/no-such-segformer")
    assert "cannot load a SegFormer" in sentence(tmp_path)

    config = (folder / "config.json").read_text()
    (tmp_path / "config.json").write_text(config)
    assert "cannot load a SegFormer" in sentence(tmp_path)  # no weights
    torch.save(segformer.state_dict(), tmp_path / "pytorch_model.bin")
    assert "cannot load a SegFormer" in sentence(tmp_path)  # a pickle is not read
    (tmp_path / "model.safetensors").write_bytes(b"broken")
    assert "cannot load a SegFormer" in sentence(tmp_path)

    capfd.readouterr()
    segformer.segformer.save_pretrained(tmp_path)  # the encoder alone: no decode head
    (tmp_path / "config.json").write_text(config)
    assert "missing or misshapen, the first is decode_head" in sentence(tmp_path)
    build_small_segformer(6).save_pretrained(tmp_path)
    (tmp_path / "config.json").write_text(config)
    assert "2 tensors are missing or misshapen" in sentence(tmp_path)
    (tmp_path / "config.json").write_text(config.replace('"segformer"', '"bert"'))
    assert "model_type 'bert', not 'segformer'" in sentence(tmp_path)
    assert "MISSING" not in capfd.readouterr().err


def test_small_segformer_learns():
    torch.manual_seed(0)
    model = build_small_segformer(2)
    assert sum(parameter.numel() for parameter in model.parameters()) < 500_000
    optimizer = torch.optim.AdamW(model.parameters(), lr=2e-3)
    x = torch.randn(4, 3, 32, 32)
    labels = torch.zeros(4, 32, 32, dtype=torch.long)
    labels[:, :, 16:] = 1
    x[:, :, :, 16:] += 2
    losses = []
    for _ in range(12):
        loss = model(pixel_values=x, labels=labels).loss
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < 0.5 * losses[0]
