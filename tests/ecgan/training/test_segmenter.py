from pathlib import Path

import pytest
import torch

from ecgan.config import SegmenterTrainConfig
from ecgan.errors import ConfigError
from ecgan.models.segmenter import LabelGenerator
from ecgan.training import train_segmenter
from ecgan.training.segmenter import _score, read_score
from ecgan.training.settings import compose


def settings(**values: object) -> SegmenterTrainConfig:
    layer = {"size": "32x64", "batch_size": 4, "dataset.scenes": 12, "dataset.workers": 0}
    return compose([{**layer, **values}], SegmenterTrainConfig)


def test_it_learns_and_serves_as_label_generator(tmp_path: Path, read_json, capsys):
    out = train_segmenter(settings(steps=30, out=str(tmp_path / "segmenter")))
    printed = capsys.readouterr().out
    assert "pixel accuracy" in printed
    assert "mIoU" in printed
    score = read_score(out)
    # Twelve classes: chance is far below.
    assert score["pixel_accuracy"] > 0.3
    assert 0 < score["miou"] < score["pixel_accuracy"]
    assert (out / "model.safetensors").is_file()
    labels = read_json(out / "config.json")["id2label"]
    assert "road" in labels.values()
    network = LabelGenerator.from_pretrained(str(out), len(labels))
    assert network(torch.zeros(1, 3, 32, 64)).shape == (1, len(labels), 8, 16)


def test_the_score_ignores_void():
    class Pairs(list):
        num_classes = 2
        cfg = settings().dataset

    class Model(torch.nn.Module):
        def forward(self, pixel_values):
            from types import SimpleNamespace

            return SimpleNamespace(logits=torch.cat([pixel_values[:, :1], -pixel_values[:, :1]], 1))

    image = torch.tensor([1.0, 1.0, -1.0, -1.0]).view(1, 1, 4).expand(3, 4, 4)
    labels = torch.tensor([0, 1, 1, 2]).view(1, 4).expand(4, 4)
    pairs = Pairs([{"image": image, "labels": labels}])
    score = _score(Model(), torch.nn.Identity(), pairs, 1, 0, torch.device("cpu"))
    assert score.pixel_accuracy == pytest.approx(2 / 3)
    assert score.miou == pytest.approx(0.5)  # both classes: one hit in a union of two columns


@pytest.mark.parametrize(
    ("wrong", "message"),
    [({"steps": 0}, "steps"), ({"size": "big"}, "HEIGHTxWIDTH"), ({"lr": -1.0}, "lr")],
)
def test_wrong_settings_leave_nothing(tmp_path: Path, wrong, message):
    out = tmp_path / "segmenter"
    with pytest.raises(ConfigError, match=message):
        train_segmenter(settings(out=str(out), **wrong))
    assert not out.exists()
