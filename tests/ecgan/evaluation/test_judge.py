import numpy as np
import pytest
import torch
import torch.nn.functional as F

from ecgan.config import JudgeConfig
from ecgan.errors import ConfigError, WeightsError
from ecgan.evaluation.judge import Judge, build_judge
from ecgan.models.segmenter import LabelGenerator, build_small_segformer

CPU = torch.device("cpu")


def build(source, num_classes=5, **settings):
    return build_judge(JudgeConfig(source=str(source), **settings), num_classes, CPU)


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
    return torch.rand(2, 3, 48, 64) * 2 - 1


def test_predicts_what_the_label_generator_does(segformer, folder, image):
    judge = build(folder)
    expected = F.interpolate(LabelGenerator(segformer, 5)(image), (48, 64), mode="bilinear")
    assert torch.equal(judge(image), expected.argmax(1))
    assert len(judge.weights) == 64
    assert judge.evaluated.all()


def test_label_map(folder, image, tmp_path):
    path = tmp_path / "map.yaml"
    path.write_text("{0: 2, 3: 0, 4: 2}")
    judge = build(folder, 3, label_map=str(path))
    assert judge.evaluated.tolist() == [True, False, True]
    logits = F.interpolate(judge._network((image + 1) / 2 * 0), (48, 64), mode="bilinear")
    assert logits.shape[1] == 5
    assert set(judge(image).unique().tolist()) <= {0, 2}


def test_label_maps_and_classes_that_do_not_fit(folder, image, tmp_path):
    with pytest.raises(WeightsError, match="predicts 5 classes but the data set has 7"):
        build(folder, 7)(image)
    path = tmp_path / "map.yaml"
    for text, message in (
        ("9: 1", r"names id 9, but .* has ids 0\.\.4"),
        ("1: 7", r"class 7: expected ids from 0 and classes 0\.\.6"),
        ("{}", "is empty"),
    ):
        path.write_text(text)
        with pytest.raises(ConfigError, match=message):
            build(folder, 7, label_map=str(path))(image)


def test_input_size_and_normalisation(image):
    seen = []

    def network(x):
        seen.append(x)
        return torch.zeros(len(x), 3, 4, 4)

    Judge("n", "", network, 3, statistics=((0.5,) * 3, (0.25,) * 3))(image)
    torch.testing.assert_close(seen[0], ((image + 1) / 2 - 0.5) / 0.25)
    judge = Judge("n", "", network, 3, size=(96, 128))
    judge(image)
    assert seen[1].shape == (2, 3, 96, 128)
    assert "96x128" in judge.prepares


def test_ids_in_place_of_logits(image):
    ids = torch.tensor([[0, 1], [2, 9]]).expand(2, 2, 2)
    labels = Judge("n", "", lambda x: ids, 3)(image)
    assert labels.shape == (2, 48, 64)
    assert (labels[0, 0, 0], labels[0, 0, 63], labels[0, 47, 0]) == (0, 1, 2)
    assert labels[0, 47, 63] == 3  # 9 is no class
    mapped = Judge("n", "", lambda x: ids[:, None], 4, label_map={9: 1, 0: 2})(image)
    assert mapped[0, ::47, ::63].tolist() == [[2, 4], [4, 1]]
    with pytest.raises(WeightsError, match=r"answers torch.float32 of shape \[2, 2, 2\]"):
        Judge("n", "", lambda x: ids.float(), 3)(image)


def test_a_preprocessor_says_how_to_normalise(segformer, tmp_path):
    segformer.save_pretrained(tmp_path)
    path = tmp_path / "preprocessor_config.json"
    path.write_text('{"image_mean": [0.5, 0.5, 0.5], "image_std": [0.5, 0.5, 0.5]}')
    assert build(tmp_path).statistics == ((0.5,) * 3, (0.5,) * 3)
    assert build(tmp_path, normalize="unit").statistics == ((0.0,) * 3, (1.0,) * 3)
    path.write_text('{"do_normalize": false}')
    assert build(tmp_path).statistics == ((0.0,) * 3, (1.0,) * 3)


def test_other_models_of_transformers(tmp_path, image):
    from transformers import (
        Mask2FormerConfig,
        Mask2FormerForUniversalSegmentation,
        MobileNetV2Config,
        MobileNetV2ForSemanticSegmentation,
        SwinConfig,
    )

    names = dict(enumerate("abc"))
    labels = {"id2label": names, "label2id": {name: index for index, name in names.items()}}
    mobile = MobileNetV2Config(depth_multiplier=0.35, **labels)
    MobileNetV2ForSemanticSegmentation(mobile).save_pretrained(tmp_path / "mobile")
    swin = SwinConfig(
        embed_dim=8, depths=[1] * 4, num_heads=[1] * 4, window_size=4, image_size=64,
        out_features=["stage1", "stage2", "stage3", "stage4"],
    )  # fmt: skip
    masks = Mask2FormerConfig(
        backbone_config=swin, feature_size=32, mask_feature_size=32, hidden_dim=32,
        encoder_feedforward_dim=32, dim_feedforward=32, encoder_layers=1, decoder_layers=2,
        num_attention_heads=2, num_queries=6, **labels,
    )  # fmt: skip
    Mask2FormerForUniversalSegmentation(masks).save_pretrained(tmp_path / "masks")
    for source in ("mobile", "masks"):
        predicted = build(tmp_path / source, 3)(image)
        assert predicted.shape == (2, 48, 64)
        assert predicted.max() < 3


def test_mask_classifiers_add_up_queries(image):
    from types import SimpleNamespace

    from ecgan.evaluation.judge import _classify_masks

    classes = torch.tensor([[[9.0, 0, 0], [0, 9, 0], [0, 0, 9]]])  # the third is "no object"
    masks = torch.full((1, 3, 2, 2), -9.0)
    masks[0, 0, 0], masks[0, 1, 1], masks[0, 2] = 9, 9, 9
    out = SimpleNamespace(class_queries_logits=classes, masks_queries_logits=masks)
    scores = _classify_masks(lambda pixel_values: out, image)
    assert scores.argmax(1).tolist() == [[[0, 0], [1, 1]]]


def onnx_model(path, ids=False, batch="B", height="H", width="W"):
    """Red, green or blue: the strongest channel of a pixel is its class."""
    onnx = pytest.importorskip("onnx")
    pytest.importorskip("onnxruntime")
    from onnx import TensorProto, helper

    node = helper.make_node("Identity", ["image"], ["out"])
    output = helper.make_tensor_value_info("out", TensorProto.FLOAT, [batch, 3, height, width])
    if ids:
        node = helper.make_node("ArgMax", ["image"], ["out"], axis=1, keepdims=0)
        output = helper.make_tensor_value_info("out", TensorProto.INT64, [batch, height, width])
    image = helper.make_tensor_value_info("image", TensorProto.FLOAT, [batch, 3, height, width])
    graph = helper.make_graph([node], "argmax", [image], [output])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    onnx.save(model, path)
    return path


@pytest.mark.parametrize("ids", [False, True])
@pytest.mark.parametrize("shape", [{}, {"batch": 1, "height": 48, "width": 64}])
def test_onnx_files(tmp_path, ids, shape, image):
    judge = build(onnx_model(tmp_path / "rgb.onnx", ids, **shape), 3, normalize="unit")
    assert torch.equal(judge(image), image.argmax(1))
    assert judge.size == ((48, 64) if shape else None)
    large = np.repeat(np.repeat(image.numpy(), 2, 2), 2, 3)
    assert judge(torch.from_numpy(large)).shape == (2, 96, 128)


def test_sources_that_cannot_be_used(tmp_path, folder, image, monkeypatch):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    with pytest.raises(WeightsError, match=r"folder .*missing does not exist"):
        build(tmp_path / "missing")
    with pytest.raises(WeightsError, match="cannot load a semantic-segmentation model"):
        build("nobody/no-such-segmenter")
    with pytest.raises(WeightsError, match=r"file .* does not exist"):
        build(tmp_path / "missing.onnx")
    (tmp_path / "broken.onnx").write_bytes(b"nothing")
    with pytest.raises(WeightsError, match="as an ONNX model"):
        build(tmp_path / "broken.onnx")
    fixed = onnx_model(tmp_path / "fixed.onnx", height=48, width=64)
    with pytest.raises(ConfigError, match="takes 48x64 only"):
        build(fixed, 3, size="96x128")
    (tmp_path / "config.json").write_text((folder / "config.json").read_text())
    torch.save({}, tmp_path / "pytorch_model.bin")
    with pytest.raises(WeightsError, match="cannot load"):  # a pickle is not read
        build(tmp_path)

    def network(x):
        raise RuntimeError("too small")

    with pytest.raises(WeightsError, match=r"does not take images of 48x64: too small"):
        Judge("n", "", network, 3)(image)
