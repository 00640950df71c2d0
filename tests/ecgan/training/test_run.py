"""Whole tiny runs on the built-in scenes."""

import csv
import dataclasses
import math
import shutil
from pathlib import Path

import pytest
import torch
from PIL import Image
from safetensors.torch import load_file

from ecgan.config import TrainConfig
from ecgan.errors import CheckpointError, ConfigError, WeightsError
from ecgan.training import train
from ecgan.training.run_folder import RunFolder
from ecgan.training.settings import compose, load_config

PICKLE_STARTS = (b"\x80\x02", b"\x80\x03", b"\x80\x04", b"\x80\x05", b"PK\x03\x04")


def metrics(run: Path) -> list[dict[str, str]]:
    with (run / "metrics.csv").open(newline="") as file:
        return list(csv.DictReader(file))


def tensors(checkpoint: Path) -> dict[str, torch.Tensor]:
    files = sorted(checkpoint.glob("*.safetensors"))
    return {f"{f.stem}/{k}": v for f in files for k, v in load_file(f).items()}


def test_b6_fills_its_folder(b6_run: Path, read_json):
    rows = metrics(b6_run)
    assert [row["step"] for row in rows] == ["1", "2", "3", "4"]
    losses = {"gan", "feature_matching", "perceptual", "similarity", "contrast", "class_l1"}
    assert losses | {"d_edge", "d_image", "lr_generator", "images_per_second"} <= set(rows[0])
    assert all(math.isfinite(float(value)) for row in rows for value in row.values())
    assert [p.name for p in sorted((b6_run / "checkpoints").iterdir())] == [
        "step-000002",
        "step-000004",
    ]
    assert len(list((b6_run / "samples").glob("*.png"))) == 2
    assert any((b6_run / "tensorboard").iterdir())

    environment = read_json(b6_run / "environment.json")
    assert environment["perceptual"]["name"] == "efficientnet_lite0"
    assert len(environment["perceptual"]["sha256"]) == 64
    assert 0 <= environment["segmenter"]["pixel_accuracy"] <= 1
    assert environment["segmenter"]["source"].endswith("segmenter")
    assert environment["operators"]["edge_transfer"] in ("cpu", "reference")
    assert environment["parameters"]["generator"] > 0
    assert environment["packages"]["torch"]


def test_its_configuration_can_be_read_back(b6_run: Path):
    cfg = load_config(b6_run / "config.yaml")
    assert (cfg.preset, cfg.size, cfg.out, cfg.optim.steps) == ("B6", "32x64", "", 4)
    assert cfg.model.num_classes > 1
    assert cfg.model.size == "32x64"


def test_the_sheet_shows_all_columns(b6_run: Path):
    with Image.open(b6_run / "samples" / "step-000004.png") as sheet:
        # One validation pair (8 scenes make one), seven columns of at least 192 pixels.
        assert sheet.width >= 7 * 192
        assert sheet.height >= 96


def test_no_file_holds_a_pickle(b6_run: Path):
    files = [path for path in b6_run.rglob("*") if path.is_file()]
    assert len(files) > 10
    for path in files:
        assert path.suffix not in (".pt", ".pth", ".pkl", ".bin"), path
        assert not path.read_bytes().startswith(PICKLE_STARTS), path


def test_weights_load_with_safetensors_alone(b6_run: Path):
    held = tensors(b6_run / "checkpoints" / "step-000004")
    assert {key.split("/")[0] for key in held} == {
        "generator",
        "discriminator",
        "generator_optimizer",
        "discriminator_optimizer",
        "rng",
    }


def test_two_and_two_steps_equal_four(b6_run: Path, tmp_path: Path):
    run = tmp_path / "run"
    shutil.copytree(b6_run, run)
    shutil.rmtree(run / "checkpoints" / "step-000004")
    (run / "samples" / "step-000004.png").unlink()
    assert train(load_config(run / "config.yaml"), resume=run) == run

    expected = tensors(b6_run / "checkpoints" / "step-000004")
    found = tensors(run / "checkpoints" / "step-000004")
    assert found.keys() == expected.keys()
    assert [key for key in found if not torch.equal(found[key], expected[key])] == []
    sheets = [r / "samples" / "step-000004.png" for r in (b6_run, run)]
    assert sheets[0].read_bytes() == sheets[1].read_bytes()
    timed = {"seconds", "images_per_second", "memory_gib"}
    for ours, theirs in zip(metrics(run), metrics(b6_run), strict=True):
        assert {k: v for k, v in ours.items() if k not in timed} == {
            k: v for k, v in theirs.items() if k not in timed
        }


def test_queue_and_drawn_pairs_resume_too(tiny_layer, b6_run: Path, tmp_path: Path):
    layer = {
        **tiny_layer,
        "segmenter.source": str(b6_run / "segmenter"),
        "loss.contrastive.source": "queue",
        "loss.contrastive.queue_mb": 0.05,
        "loss.similarity_resolution": "full",
        "loss.similarity_pairs": "500",
    }
    whole = train(compose([layer, {"out": str(tmp_path / "whole")}], TrainConfig))
    run = tmp_path / "run"
    shutil.copytree(whole, run)
    shutil.rmtree(run / "checkpoints" / "step-000004")
    train(load_config(run / "config.yaml"), resume=run)
    expected = tensors(whole / "checkpoints" / "step-000004")
    found = tensors(run / "checkpoints" / "step-000004")
    assert expected["contrast_queue/counts"].sum() > 0
    assert found.keys() == expected.keys()
    assert [key for key in found if not torch.equal(found[key], expected[key])] == []


def test_a_queue_too_small_for_the_classes_is_said_before_training(tiny_layer, tmp_path: Path):
    layer = {
        **tiny_layer,
        "loss.similarity": 0.0,
        "loss.contrastive.source": "queue",
        "loss.contrastive.queue_mb": 1e-4,
        "out": str(tmp_path / "run"),
    }
    with pytest.raises(ConfigError, match=r"queue_mb: megabytes must be at least"):
        train(compose([layer], TrainConfig))
    assert not (tmp_path / "run").exists()


def test_a_finished_run_stays_as_it_is(b6_run: Path):
    before = {p: p.stat().st_mtime_ns for p in (b6_run / "checkpoints").rglob("*")}
    train(load_config(b6_run / "config.yaml"), resume=b6_run)
    assert {p: p.stat().st_mtime_ns for p in (b6_run / "checkpoints").rglob("*")} == before
    assert len(metrics(b6_run)) == 4


def test_resuming_with_another_network_changes_nothing(b6_run: Path):
    cfg = load_config(b6_run / "config.yaml")
    cfg = dataclasses.replace(cfg, model=dataclasses.replace(cfg.model, ngf=16))
    with pytest.raises(CheckpointError, match="another configuration"):
        train(cfg, resume=b6_run)
    assert len(metrics(b6_run)) == 4
    assert load_config(b6_run / "config.yaml").model.ngf == 8


@pytest.mark.parametrize(
    ("preset", "extra"),
    [
        ("B1", {"optim.reuse_fakes": True}),
        ("B4", {"model.style": "encoder", "dataset.instance_edges": True}),
        ("B2", {"model.style": "noise", "dataset.void_channel": True}),
    ],
)
def test_other_rows_of_table_3(tiny_layer, tmp_path: Path, preset, extra):
    layer = {**tiny_layer, **extra, "preset": preset, "optim.steps": 1, "out": str(tmp_path / "r")}
    run = train(compose([layer], TrainConfig))
    (row,) = metrics(run)
    assert ("d_edge" in row) == (preset != "B1")
    assert ("kld" in row) == (extra.get("model.style") == "encoder")
    assert not {"similarity", "contrast", "class_l1"} & set(row)
    assert not (run / "segmenter").exists()
    names = {p.stem for p in (run / "checkpoints" / "step-000001").glob("*.safetensors")}
    assert ("encoder" in names) == (extra.get("model.style") == "encoder")


@pytest.mark.parametrize(
    ("wrong", "error", "message"),
    [
        ({"loss.perceptual_network.network": "vgg19", "loss.perceptual_network.weights": "no.pth"},
         WeightsError, r"no\.pth"),
        ({"segmenter.source": "./no/such/folder"}, WeightsError, "no/such/folder"),
        ({"dataset.edges.method": "hed", "dataset.edges.hed_weights": "no.pytorch"},
         WeightsError, r"no\.pytorch"),
        ({"size": "33x64"}, ConfigError, "33x64"),
        ({"optim.lr": 0}, ConfigError, r"optim\.lr"),
        ({"model.num_classes": 3, "dataset.num_classes": 5}, ConfigError, "classes"),
    ],
)  # fmt: skip
def test_nothing_is_left_where_a_run_cannot_start(
    tiny_layer, tmp_path: Path, wrong, error, message
):
    out = tmp_path / "run"
    with pytest.raises(error, match=message) as raised:
        train(compose([tiny_layer, wrong, {"out": str(out)}], TrainConfig))
    assert "\n" not in str(raised.value)
    assert not out.exists()


def test_sampling_does_not_change_training(b6_run: Path, tiny_layer, tmp_path: Path, monkeypatch):
    monkeypatch.setattr(RunFolder, "save_sample", lambda *_: None)
    layer = {**tiny_layer, "out": str(tmp_path / "run"), "sample_every": 1, "save_every": 4}
    run = train(compose([layer], TrainConfig))
    found, expected = (tensors(r / "checkpoints" / "step-000004") for r in (run, b6_run))
    assert [key for key in found if not torch.equal(found[key], expected[key])] == []


def test_channels_last_computes_the_same(tiny_layer, b6_run: Path, tmp_path: Path):
    layer = {
        **tiny_layer,
        "segmenter.source": str(b6_run / "segmenter"),
        "channels_last": True,
        "optim.steps": 1,
        "out": str(tmp_path / "run"),
    }
    (row,) = metrics(train(compose([layer], TrainConfig)))
    first = metrics(b6_run)[0]
    for name in ("gan", "feature_matching", "perceptual", "contrast", "class_l1", "d_image"):
        assert float(row[name]) == pytest.approx(float(first[name]), rel=1e-3, abs=1e-4), name


@pytest.mark.slow
def test_compiled_networks_train_alike(tiny_layer, tmp_path: Path, monkeypatch):
    # With TorchDynamo's own backend: Inductor, the default, takes minutes of a CPU for each network
    # and sees only what Dynamo has captured.
    compiled = []

    def capture(self, **_):
        compiled.append(type(self).__name__)
        self._compiled_call_impl = torch.compile(self._call_impl, backend="eager")

    monkeypatch.setattr(torch.nn.Module, "compile", capture)
    rows = []
    for on in (False, True):
        layer = {
            **tiny_layer,
            "preset": "B3",
            "loss.perceptual": 0.0,
            "compile": on,
            "optim.steps": 2,
            "out": str(tmp_path / f"run-{on}"),
        }
        rows.append(metrics(train(compose([layer], TrainConfig))))
    assert compiled == ["Generator", "MultiModalityDiscriminator"]
    for plain, fast in zip(*rows, strict=True):
        for name in ("gan", "feature_matching", "d_edge", "d_image"):
            assert float(fast[name]) == pytest.approx(float(plain[name]), rel=1e-3, abs=1e-4), name
