import csv
import io
import itertools
import json

import numpy as np
import pytest
import torch
from PIL import Image

from ecgan.config import DatasetConfig, DiversityConfig, EvaluateConfig, ModelConfig
from ecgan.data import build_dataset
from ecgan.errors import ConfigError, DataError
from ecgan.evaluation.diversity import build_distance
from ecgan.evaluation.evaluate import REAL, Evaluator
from ecgan.evaluation.features import FeatureNetwork, build_features
from ecgan.evaluation.judge import Judge
from ecgan.evaluation.pairs import to_signed
from ecgan.evaluation.protocol import show, to_csv, to_json, to_markdown, write_evaluation
from ecgan.evaluation.systems import FolderSystem, NetworkSystem
from ecgan.models import Generator

CPU = torch.device("cpu")
MODEL = ModelConfig(
    num_classes=3, size="32x64", ngf=8, num_upsamples=3, spade_hidden=8, class_branch=False
)


def config(**changes) -> EvaluateConfig:
    return EvaluateConfig(
        **{"size": "20x30", "workers": 0, "batch_size": 2, "split": "train", **changes}
    )


@pytest.fixture
def dataset(pairs_folder):
    """Five pairs of three classes; an eighth of the width is void."""
    cfg = DatasetConfig(num_classes=3)
    return build_dataset(cfg, str(pairs_folder), (20, 30), "train")


def red_is_class_one(x):
    """Logits: class 1 where red outweighs green, else class 0; class 2 never."""
    red, green = x[:, 0], x[:, 1]
    return torch.stack([green, red, torch.full_like(red, -99)], 1)


@pytest.fixture
def judge():
    return Judge("by hand", "abc", red_is_class_one, 3, statistics=((0,) * 3, (1,) * 3))


@pytest.fixture
def channel_means():
    """Three features an image, so that a few images will do."""
    network = torch.nn.Identity()
    return FeatureNetwork("efficientnet_lite0", "def", 3, "none", network, lambda x: x.mean((2, 3)))


def results(folder, dataset, paint):
    folder.mkdir()
    for index in range(len(dataset)):
        pair = dataset.source.load(index, (40, 60))
        Image.fromarray(paint(pair)).save(folder / f"{dataset.source.name(index)}.png")
    return FolderSystem(folder.name, folder)


def perfect(pair):
    """Class 1 red, class 0 and void green, class 2 blue (red outweighs nothing)."""
    return np.eye(3, dtype=np.uint8)[[1, 0, 2, 1]][pair.labels] * 255


def test_segmentation_scores_by_hand(dataset, judge, tmp_path):
    system = results(tmp_path / "painted", dataset, perfect)
    evaluation = Evaluator(config(size="40x60"), dataset, judge=judge).run([system])
    real, painted = evaluation.systems
    assert (real.name, painted.name) == (REAL, "painted")
    # A quarter of the pixels each: class 0 right, 1 right, 2 taken for 0, void.
    values = {number.name: number.value for number in painted.numbers}
    assert values == pytest.approx(
        {"miou": 100 * (1 / 2 + 1 + 0) / 3, "acc_all": 50, "acc_valid": 100 * 2 / 3}
    )
    assert painted.iou == pytest.approx({"class 0": 50, "class 1": 100, "class 2": 0})
    (miou,) = (number for number in painted.numbers if number.name == "miou")
    beside = next(number.value for number in real.numbers if number.name == "miou")
    assert 0 < beside < 60  # the photos are noise
    assert miou.protocol == {
        "data": "pairs",
        "split": "train",
        "images": 5,
        "size": "40x60",
        "image_filter": "bicubic (Pillow, antialiased)",
        "label_filter": "nearest",
        "made_at": "40x60 (first file)",
        "images_left_out": 0,
        "segmenter": "by hand",
        "segmenter_weights": "abc",
        "segmenter_input": "the compared size, mean (0, 0, 0), deviation (1, 1, 1)",
        "classes_in_mean": 3,
        "classes_evaluated": 3,
        "classes": 3,
        "void_share": 0.25,
        "on_real_photos": beside,
    }


def test_photos_are_no_distance_from_themselves(dataset, channel_means, tmp_path):
    same = results(tmp_path / "same", dataset, lambda pair: pair.image)
    dark = results(tmp_path / "dark", dataset, lambda pair: pair.image // 4)
    evaluation = Evaluator(config(), dataset, features=channel_means).run([same, dark])
    real, *rows = evaluation.systems
    assert real.numbers == []
    close, far = ({n.name: n for n in row.numbers} for row in rows)
    assert close.keys() == {
        "frechet_efficientnet_lite0",
        "kernel_distance_efficientnet_lite0",
    }
    number = far["frechet_efficientnet_lite0"]
    assert close[number.name].value < 1e-9
    assert number.value > 1
    assert not number.higher_is_better
    assert number.protocol["reference"] == "real photos of pairs (train)"
    assert (number.protocol["reference_images"], number.protocol["images"]) == (5, 5)
    assert number.protocol["network_weights"] == "def"
    kernel = far["kernel_distance_efficientnet_lite0"]
    assert (kernel.protocol["subsets"], kernel.protocol["subset_size"]) == (1, 5)


def test_another_reference(dataset, channel_means, tmp_path, pairs_folder):
    reference = build_dataset(dataset.cfg, str(pairs_folder), (20, 30), "train")
    reference.split = "val"
    load = reference.source.load

    def bright(index, size):
        pair = load(index, size)
        pair.image = np.full_like(pair.image, 250 - index)
        return pair

    reference.source.load = bright
    system = results(tmp_path / "same", dataset, lambda pair: pair.image)
    evaluator = Evaluator(config(), dataset, reference=reference, features=channel_means)
    number = evaluator.run([system]).systems[1].numbers[0]
    assert number.value > 0.1
    assert number.protocol["reference"] == "real photos of pairs (val)"


@pytest.mark.parametrize("style", ["encoder", "noise"])
def test_diversity_of_images_and_edges(dataset, style, tmp_path, monkeypatch):
    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path))
    torch.manual_seed(0)
    generator = Generator(ModelConfig(**{**vars(MODEL), "style": style, "z_dim": 4})).eval()
    for parameter in generator.parameters():  # as they are drawn, all images are flat gray
        torch.nn.init.normal_(parameter, std=0.3)
    system = NetworkSystem("random", "nowhere", generator, "123", None, CPU)
    distance = build_distance()
    cfg = config(diversity=DiversityConfig(samples=4), limit=3)
    row = Evaluator(cfg, dataset, distance=distance).run([system]).systems[1]
    images, edges = row.numbers
    assert images.name == "perceptual_distance_efficientnet_lite0_images"
    assert edges.name == "perceptual_distance_efficientnet_lite0_edges"
    assert images.protocol["style"] == style
    assert (images.protocol["samples"], images.protocol["images"]) == (4, 3)
    # The same, pair by pair.
    batch = {
        "layout": torch.stack([system.open(dataset, _comparison())[i]["layout"] for i in range(5)]),
        "name": [dataset.source.name(i) for i in range(5)],
    }
    made = system.samples(batch, 4)
    for kind, number in enumerate((images, edges)):
        found = [
            distance(to_signed(a[kind]), to_signed(b[kind]))
            for a, b in itertools.combinations(made, 2)
        ]
        expected = torch.stack(found).mean(0)[[0, 1, 3]].mean().item()  # limit 3 of 5
        assert number.value == pytest.approx(expected, rel=1e-4)
        assert number.value > 0


def _comparison():
    from ecgan.evaluation.systems import Comparison

    return Comparison((20, 30))


def test_no_diversity_without_a_style(dataset):
    generator = Generator(MODEL).eval()
    system = NetworkSystem("plain", "nowhere", generator, "", None, CPU)
    distance = build_distance()
    auto = Evaluator(config(limit=2), dataset, distance=distance).run([system])
    assert auto.systems[1].numbers == []
    cfg = config(limit=2, diversity=DiversityConfig(measure="on", samples=2))
    (images, edges) = Evaluator(cfg, dataset, distance=distance).run([system]).systems[1].numbers
    assert (images.value, edges.value) == (0, 0)


def test_everything_wrong_is_found_before_anything_runs(dataset, tmp_path):
    evaluator = Evaluator(config(), dataset)

    def explode(*_):
        raise AssertionError("something ran")

    evaluator._real = explode
    fine = results(tmp_path / "fine", dataset, perfect)
    few = results(tmp_path / "few", dataset, perfect)
    next((tmp_path / "few").iterdir()).unlink()
    with pytest.raises(DataError, match="results few lack 1 of 5 images"):
        evaluator.run([fine, few])
    torn = results(tmp_path / "torn", dataset, perfect)
    victim = sorted((tmp_path / "torn").iterdir())[3]
    victim.write_bytes(victim.read_bytes()[:-30])
    with pytest.raises(DataError, match=f"{victim.name} cannot be read as an image"):
        evaluator.run([fine, torn])
    with pytest.raises(ConfigError, match="two systems are named 'fine'"):
        evaluator.run([fine, fine])
    other = Generator(ModelConfig(**{**vars(MODEL), "num_classes": 4}))
    with pytest.raises(ConfigError, match="on 4 classes but the data set has 3"):
        evaluator.run([fine, NetworkSystem("n", "", other, "", None, CPU)])
    names = ["class 0", "moon", "class 2"]
    with pytest.raises(ConfigError, match="class 1 is 'moon' there and 'class 1' here"):
        evaluator.run([fine, NetworkSystem("n", "", Generator(MODEL), "", names, CPU)])
    instances = Generator(ModelConfig(**{**vars(MODEL), "instance_edges": True}))
    with pytest.raises(ConfigError, match="takes instance edges"):
        evaluator.run([fine, NetworkSystem("n", "", instances, "", None, CPU)])
    for key, value in (("batch_size", 0), ("limit", -1), ("kid_subset_size", 1)):
        with pytest.raises(ConfigError, match=f"{key} must be at least"):
            Evaluator(config(**{key: value}), dataset)
    with pytest.raises(ConfigError, match="'moon', which is no class"):
        Evaluator(config(small_objects="moon"), dataset)


def test_a_single_image_has_no_distance(dataset, channel_means, tmp_path):
    system = results(tmp_path / "same", dataset, perfect)
    evaluation = Evaluator(config(limit=1), dataset, features=channel_means).run([system])
    assert evaluation.systems[1].numbers == []
    assert "Distances need at least 2 images" in " ".join(evaluation.remarks)


def test_files(dataset, judge, channel_means, tmp_path, monkeypatch):
    painted = results(tmp_path / "painted | 1", dataset, perfect)
    cfg = config(small_objects="class 1, class 2")
    evaluation = Evaluator(cfg, dataset, judge=judge, features=channel_means).run([painted])
    written = write_evaluation(evaluation, tmp_path / "out")
    assert [path.name for path in written] == [
        "evaluation.json", "evaluation.csv", "evaluation.md"
    ]  # fmt: skip
    document = json.loads(written[0].read_text())
    system = document["systems"][1]
    assert [number["name"] for number in system["numbers"]] == [
        "miou", "acc_all", "acc_valid", "small_objects_miou",
        "frechet_efficientnet_lite0", "kernel_distance_efficientnet_lite0",
    ]  # fmt: skip
    assert all(number["protocol"]["size"] == "20x30" for number in system["numbers"])
    assert len(document["table"]["rows"]) == 2
    assert len(document["table"]["columns"]) == len(document["table"]["rows"][0])

    real, row = csv.DictReader(io.StringIO(written[1].read_text()))
    assert (real["system"], row["system"]) == (REAL, "painted | 1")
    assert float(row["miou"]) == system["numbers"][0]["value"]
    assert float(row["iou class 1"]) == system["iou"]["class 1"]
    assert real["frechet_efficientnet_lite0"] == ""
    assert json.loads(row["protocol"])["miou"]["segmenter"] == "by hand"

    lines = written[2].read_text().splitlines()
    assert lines[0].startswith("| system | images | mIoU ↑ | Acc (all) ↑ | Acc (valid) ↑ |")
    assert lines[2].startswith("| real photos | 5 | ")
    assert lines[2].endswith(" | – | – |")
    assert lines[3].startswith("| painted \\| 1 | 5 | ")
    assert "| class 1 * |" in written[2].read_text()
    assert "5 images for 3 features" not in written[2].read_text()
    for text in (to_json(evaluation), to_csv(evaluation), to_markdown(evaluation)):
        # Word by word: no number is called FID or KID without Inception's weights.
        assert '"fid"' not in text
        assert "FID ↓" not in text
        assert "kid" not in text.lower().split()
    (tmp_path / "file").touch()
    with pytest.raises(DataError, match="cannot write the evaluation"):
        write_evaluation(evaluation, tmp_path / "file")


def test_numbers_as_text():
    assert [show(v, "%") for v in (None, 0.0, 41.25, 100.0)] == ["–", "0.0", "41.2", "100.0"]
    assert [show(v, "") for v in (None, 0.01234, -0.5, 273.06)] == [
        "–",
        "0.0123",
        "-0.5000",
        "273.1",
    ]


def test_few_images_are_remarked(dataset, tmp_path, monkeypatch):
    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path))
    system = results(tmp_path / "same", dataset, perfect)
    evaluation = Evaluator(config(limit=2), dataset, features=build_features()).run([system])
    text = " ".join(evaluation.remarks)
    assert "2 images for 1280 features" in text
    assert "no FID" in text
