"""``ecgan evaluate`` from the command line, on a run of a few steps."""

import json

import numpy as np
import pytest
import torch
from PIL import Image

from ecgan.cli import main
from ecgan.config import ModelConfig, TrainConfig
from ecgan.data.dataset import SceneSource
from ecgan.evaluation.inception import InceptionV3
from ecgan.models.importers import OASISBaseline, SPADEBaseline
from ecgan.training import train
from ecgan.training.settings import compose


@pytest.fixture(scope="module")
def run(tiny_layer, tmp_path_factory):
    """Run folder of one B5 step on scenes, with a style."""
    out = tmp_path_factory.mktemp("evaluated") / "run"
    layer = {**tiny_layer, "preset": "B5", "optim.steps": 1, "model.style": "noise"}
    return train(compose([layer, {"out": str(out)}], TrainConfig))


@pytest.fixture
def evaluate(tmp_path, monkeypatch, capsys):
    """Runs the command; returns its status and what it printed."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path / "hub"))

    def call(*arguments):
        status = main(["evaluate", *map(str, arguments), "--workers=0"])
        printed = capsys.readouterr()
        return status, printed.out, printed.err

    return call


def numbers(path):
    document = json.loads(path.read_text())
    return {
        system["name"]: {number["name"]: number["value"] for number in system["numbers"]}
        for system in document["systems"]
    }


def test_a_run_and_its_own_images_in_a_folder(run, evaluate, tmp_path):
    labels = tmp_path / "labels"
    labels.mkdir()
    source = SceneSource(8, 3, "train")
    for index in range(8):
        ids = source.load(index, (32, 64)).labels
        Image.fromarray(ids.astype(np.uint8)).save(labels / f"{source.name(index)}.png")
    assert main(["synthesize", str(run), "--labels", str(labels), "--out", "made"]) == 0

    arguments = [
        f"ours={run}", "--results", "folder=made", "--results=again=made/images",
        "--split=train", "--diversity.samples=2", "--out=tables",
    ]  # fmt: skip
    status, out, err = evaluate(*arguments)
    assert status == 0, err
    assert "real photos" in out
    assert "mIoU" in out
    assert "no FID" in out
    assert "FID ↓" not in out
    assert "written: tables/evaluation.json" in out
    assert "ours, 2 styles: 8 label maps" in err
    found = numbers(tmp_path / "tables" / "evaluation.json")
    # The folder holds what the run makes: the numbers are the very same.
    for kind in ("images", "edges"):
        name = f"perceptual_distance_efficientnet_lite0_{kind}"
        assert found["ours"].pop(name) >= 0
    assert len(found["ours"]) == 6
    assert found["ours"] == found["folder"] == found["again"]
    assert found["ours"]["miou"] != found["real photos"]["miou"]

    (tmp_path / "made" / "images" / "scene_train_000005.png").unlink()
    status, out, err = evaluate(*arguments)
    assert (status, out) == (2, "")
    assert "results folder lack 1 of 8 images, the first is that of scene_train_000005" in err


def test_the_run_folder_takes_the_tables(run, evaluate):
    status, out, err = evaluate(run, "--split=train", "--limit=2", "--diversity.measure=off")
    assert status == 0, err
    assert {path.name for path in run.glob("evaluation.*")} == {
        "evaluation.json", "evaluation.csv", "evaluation.md"
    }  # fmt: skip
    assert "trained with it in a loss" in " ".join(out.split())
    (checkpoint,) = (run / "checkpoints").iterdir()
    status, _, err = evaluate(
        checkpoint, "--segmenter.source=none", "--limit=2", "--size=16x32", "--split=train",
        "--diversity.measure=off", "--out=x",
    )  # fmt: skip
    assert status == 0, err


def test_baselines_and_inception(run, evaluate, tmp_path):
    cfg = ModelConfig(
        num_classes=12, instance_edges=True, size="32x64", ngf=8, spade_hidden=4, norm="batch"
    )
    state = SPADEBaseline(cfg).state_dict()
    torch.save({k.removeprefix("encoder."): v for k, v in state.items()}, "spade.pth")
    cfg = ModelConfig(
        num_classes=12, void_channel=True, size="32x64", ngf=8, spade_hidden=4, norm="batch",
        style="noise",
    )  # fmt: skip
    state = OASISBaseline(cfg).state_dict()
    names = {key: key.replace("param_free_norm", "first_norm") for key in state}
    for key, value in state.items():  # there the noise comes first
        if key.endswith(("fc.weight", "mlp_shared.0.weight")):
            state[key] = value.roll(64, 1)
    torch.save({names[key]: value for key, value in state.items()}, "oasis.pth")
    inception = InceptionV3().state_dict()
    torch.save({k: v for k, v in inception.items() if "num_batches" not in k}, "inception.pth")
    shared = ["--split=train", "--limit=2", "--diversity.measure=off", "--out=x"]
    status, _, err = evaluate(
        run, "--spade=spade.pth", "--inception=inception.pth", "--label-order=none", *shared
    )
    assert status == 0, err
    found = numbers(tmp_path / "x" / "evaluation.json")
    assert list(found) == ["real photos", "run", "spade"]
    assert {"fid", "kid", "miou"} <= found["spade"].keys()
    assert not any("lite0" in name for name in found["spade"])

    shared += ["--segmenter.source=none"]
    status, _, err = evaluate(run, "--oasis=O=oasis.pth", "--label-order=unshifted", *shared)
    assert status == 0, err
    assert list(numbers(tmp_path / "x" / "evaluation.json")) == ["real photos", "run", "O"]
    status, out, err = evaluate(run, "--spade=spade.pth", *shared)
    assert (status, out) == (2, "")
    assert "takes 13 label channels and the data set has 12 classes: set label_order" in err


def test_results_alone(pairs_folder, evaluate, tmp_path):
    status, out, err = evaluate(
        "--results=photos=pairs/images", "--data", pairs_folder, "--num_classes=3",
        "--size=20x30", "--segmenter.source=none", "--reference=train", "--split=train",
    )  # fmt: skip
    assert status == 0, err
    (value,) = {
        value
        for name, value in numbers(tmp_path / "evaluation" / "evaluation.json")["photos"].items()
        if name.startswith("frechet")
    }
    assert value < 1e-6
    assert "mIoU" not in out


def test_real_photos_as_results(evaluate, test_data, tmp_path):
    camvid = test_data("camvid")
    status, _, err = evaluate(
        f"--results=photos={camvid / 'val'}", "--data", camvid, "--size=48x64", "--limit=6",
        "--segmenter.source=none", "--reference=train",
    )  # fmt: skip
    assert status == 0, err
    document = json.loads((tmp_path / "evaluation" / "evaluation.json").read_text())
    number = document["systems"][1]["numbers"][0]
    assert 10 < number["value"] < 1000  # other photos of the same streets
    assert number["protocol"]["reference"] == "real photos of camvid (train)"
    assert number["protocol"]["made_at"] == "360x480 (first file)"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "nothing to evaluate"),
        (["--results", "made"], "--results takes NAME=DIR, not 'made'"),
        (["nowhere"], "nowhere is neither a checkpoint nor a run folder"),
        (["--results=a=b"], "give --size HEIGHTxWIDTH"),
        (["--results=a=b", "--size=8x8"], "give --data DIR"),
        (["--results=a=b", "--size=8", "--data=scenes"], "size must be HEIGHTxWIDTH"),
        (["--results=a=b", "--size=8x8", "--data=scenes"], "give --segmenter.source"),
        (["--results=a=b", "--size=8x8", "--data=scenes", "--segmenter.source=none"],
         "results a: b is no folder"),
        (["--results=a=b", "--size=8x8", "--data=scenes", "--segmenter.source=no.onnx"],
         "no.onnx does not exist"),
        (["--results=a=b", "--size=8x8", "--data=scenes", "--segmenter.source=none",
          "--inception=no.pth"], "no.pth"),
        (["--results=a=b", "--size=8x8", "--data=no/where"], "no/where does not exist"),
        (["--filter=magic"], "filter"),
        (["--colour=red"], "--colour"),
        (["=x"], "expected NAME=PATH"),
    ],
)  # fmt: skip
def test_wrong_arguments(evaluate, tmp_path, arguments, message):
    status, out, err = evaluate(*arguments)
    assert (status, out) == (2, "")
    assert message in err
    assert err.count("\n") == 1
    assert list(tmp_path.iterdir()) == []


def test_a_run_without_a_segmenter(run, evaluate, tmp_path):
    import shutil

    copy = tmp_path / "copy"
    shutil.copytree(run, copy)
    shutil.rmtree(copy / "segmenter")
    status, _, err = evaluate(copy)
    assert status == 2
    assert "holds no segmenter: make one with ecgan train-segmenter" in err


def test_help(capsys):
    with pytest.raises(SystemExit):
        main(["evaluate", "--help"])
    text = capsys.readouterr().out
    assert "usage: ecgan evaluate [RUN|CHECKPOINT ...]" in text
    assert "--diversity.samples" in text
