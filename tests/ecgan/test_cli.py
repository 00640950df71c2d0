"""The command line: what a user gets wrong is told in one sentence, before anything is done."""

import os
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import yaml
from PIL import Image

from ecgan.cli import main


@pytest.fixture
def fails(capsys, tmp_path: Path, monkeypatch):
    """Runs a command that must fail with status 2 and one sentence, leaving no run behind."""
    monkeypatch.chdir(tmp_path)

    def run(*arguments: str) -> str:
        assert main(arguments) == 2
        printed = capsys.readouterr()
        assert printed.out == ""
        (line,) = printed.err.splitlines()
        assert line.startswith("ecgan: ")
        assert not (tmp_path / "runs").exists()
        return line

    return run


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["train", "--optim.stepz", "3"], "'optim.stepz' in the command line; did you mean"),
        (["train", "--learning-rate", "3"], "unknown configuration key 'learning_rate'"),
        (["train", "--steps", "many"], '"optim.steps": expected int, got many'),
        (["train", "--preset", "B7"], "'B7' (choose from"),
        (["train", "--size", "96"], "size must be HEIGHTxWIDTH in pixels"),
        (["train", "--size", "95x128"], "95x128"),
        (["train", "--recipe", "moon"], "there is no recipe 'moon'"),
        (["train", "--config", "nope.yaml"], "nope.yaml cannot be read"),
        (["train", "--resume", "nope"], "nope is no run folder"),
        (["train", "--resume", "a", "--config", "b"], "--resume takes the run's own settings"),
        (["train", "--resume", "auto"], "--resume auto goes on with the run of --out: give --out"),
        (["train", "--optim.ema", "1"], "optim.ema must be at least 0 and below 1"),
        (["train", "--optim.accumulate", "0"], "optim.accumulate must be at least 1"),
        (["train", "--keep_gib", "-1"], "keep_gib must be a number of at least 0"),
        (["train", "--data", "no/such/data"], "no/such/data does not exist"),
        (["train", "--batch-size", "0"], "batch_size must be at least 1, not 0"),
        (["train", "--loss.perceptual_network.weights=no.pth",
          "--loss.perceptual_network.network=vgg19"], "no.pth"),
        (["train", "photos"], "unrecognized arguments: photos"),
        (["train", "--preset"], "expected one argument"),
        (["train-segmenter", "--stepz", "3"], "--stepz"),
        (["train-segmenter", "--steps", "0"], "steps must be at least 1"),
        (["synthesize"], "required: RUN|MODEL"),
        (["synthesize", "run", "--labels", "x"], "required: --out"),
        (["synthesize", "run", "--labels", "x", "--out", "y"], "run is neither a checkpoint"),
        (["synthesize", "r", "--labels", "x", "--out", "y", "--k", "1"], "unrecognized arguments"),
        (["info", "more"], "unrecognized arguments: more"),
        (["trian"], "there is no command 'trian'"),
        ([], "required: command"),
        (["plan", "--budget", "lots"], "--budget takes numbers of GiB such as 16 or 16,32"),
        (["plan", "--data", "nowhere"], "nowhere is no folder: give dataset.num_classes"),
    ],
)  # fmt: skip
def test_wrong_arguments(fails, arguments, message):
    assert message in fails(*arguments)


def test_an_unknown_key_in_a_file(fails, tmp_path: Path):
    (tmp_path / "my.yaml").write_text("model: {ngff: 3}")
    line = fails("train", "--config", "my.yaml")
    assert "unknown configuration key 'model.ngff' in configuration file my.yaml" in line


def wrong_id(root: Path) -> str:
    Image.fromarray(np.full((40, 60), 9, np.uint8)).save(root / "labels" / "pair_2.png")
    return "9"


def unreadable_image(root: Path) -> str:
    path = root / "images" / "pair_2.png"
    path.write_bytes(path.read_bytes()[:300])
    return "cannot be read"


def missing_label(root: Path) -> str:
    (root / "labels" / "pair_2.png").unlink()
    return "label"


def other_size(root: Path) -> str:
    Image.fromarray(np.zeros((40, 50), np.uint8)).save(root / "labels" / "pair_2.png")
    return "40 pixels high and 50 wide: expected 40 and 60"


@pytest.mark.parametrize("spoil", [wrong_id, unreadable_image, missing_label, other_size])
@pytest.mark.parametrize("command", ["train", "train-segmenter"])
def test_a_faulty_data_set(fails, pairs_folder: Path, command, spoil):
    message = spoil(pairs_folder)
    line = fails(command, "--data", str(pairs_folder), "--dataset.num_classes=3", "--size=32x64")
    assert "pair_2" in line
    assert message in line


def test_training_on_a_folder(
    pairs_folder: Path, tiny_arguments, tmp_path: Path, monkeypatch, capfd
):
    monkeypatch.chdir(tmp_path)
    arguments = [*tiny_arguments, "--preset=B1", "--dataset.num_classes=3", "--steps", "1"]
    assert main(["train", "--data", "pairs", *arguments]) == 0
    (run,) = (tmp_path / "runs").iterdir()
    assert run.name.startswith("pairs-B1-")
    written = yaml.safe_load((run / "config.yaml").read_text())
    assert (written["data"], written["optim"]["steps"]) == (str(pairs_folder), 1)
    printed = capfd.readouterr().out
    assert "training 1/1" in printed
    assert "img/s" in printed
    assert str(run.relative_to(tmp_path)) in printed

    # From there on: one more step, then pictures for the label maps alone.
    assert main(["train", "--resume", str(run), "--steps", "2"]) == 0
    assert (run / "checkpoints" / "step-000002" / "state.json").is_file()
    labels = str(pairs_folder / "labels")
    assert main(["synthesize", str(run), "--labels", labels, "--out", "made"]) == 0
    assert len(list((tmp_path / "made" / "images").iterdir())) == 6
    assert "6 images in made" in capfd.readouterr().out


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        ([], {"preset": "B6", "size": "96x128", "lr": 1e-3, "similarity": 1.0, "ngf": 16}),
        (["--preset", "B2", "--lr", "0.5"], {"preset": "B2", "similarity": 0.0, "lr": 0.5}),
        (["--config", "my.yaml"], {"preset": "B4", "size": "64x64", "similarity": 0.5, "ngf": 64}),
        (["--config", "my.yaml", "--recipe", "quickstart"], {"size": "64x64", "ngf": 16}),
        (["--config=my.yaml", "--preset=B5", "--size=32x32"], {"size": "32x32", "similarity": 1.0}),
        (["--config", "my.yaml", "--loss.similarity", "2"], {"preset": "B4", "similarity": 2.0}),
    ],
)
def test_precedence(arguments, expected, tmp_path: Path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    Path("my.yaml").write_text("{preset: B4, size: 64x64, loss: {similarity: 0.5}}")
    assert main(["train", *arguments, "--show-config"]) == 0
    shown = yaml.safe_load(capsys.readouterr().out)
    flat = {**shown["optim"], **shown["loss"], **shown["model"], **shown}
    assert {key: flat[key] for key in expected} == expected


@pytest.mark.parametrize("command", ["train", "train-segmenter", "synthesize", "info"])
def test_help(command, capsys):
    with pytest.raises(SystemExit) as stop:
        main([command, "--help"])
    assert stop.value.code == 0
    text = capsys.readouterr().out
    assert f"usage: ecgan {command}" in text
    if command == "train":
        assert "Row of the paper's Table 3" in text
        assert "--loss.contrastive.temperature" in text


def test_info(capsys):
    assert main(["info"]) == 0
    text = capsys.readouterr().out
    for word in ("torch", "edge_transfer", "similarity_bce", "_C", "transformers", "Ampere"):
        assert word in text


def run_python(code: str) -> subprocess.CompletedProcess:
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120)


def test_info_needs_no_extra():
    blocked = "('accelerate', 'jsonargparse', 'rich', 'transformers', 'yaml', 'PIL', 'cv2')"
    done = run_python(
        f"import sys; sys.modules.update(dict.fromkeys({blocked}))\n"
        "from ecgan.cli import main; sys.exit(main(['info']))"
    )
    assert done.returncode == 0, done.stderr
    assert "edge_transfer" in done.stdout


def test_a_missing_extra_is_named():
    done = run_python(
        "import sys; sys.modules['yaml'] = None\n"
        "from ecgan.cli import main; sys.exit(main(['train']))"
    )
    assert done.returncode == 2
    assert "pip install 'ecgan[train]'" in done.stderr


def test_plan_tells_what_fits(capsys, tiny_arguments):
    lean = ["--preset=B1", "--model.encoder=vgg", "--loss.perceptual=0", "--budget=0.2"]
    assert main(["plan", *tiny_arguments, *lean]) == 0
    text = capsys.readouterr().out
    assert "12 classes; label maps are the data set's" in text
    assert re.search(r"peak +0\.\d+ GiB at 32x64 with batch 2, in the \w+'s \w+", text)
    assert re.search(r"0\.2 GiB +up to \d+x\d+ with batch 2: 0\.\d+ GiB", text)


def test_help_and_wrong_keys_need_no_torch():
    done = run_python(
        "import sys; sys.modules['torch'] = None\n"
        "from ecgan.cli import main; sys.exit(main(['train', '--nope', '1']))"
    )
    assert (done.returncode, done.stderr.count("\n")) == (2, 1)
    assert "'nope'" in done.stderr


def test_python_m_ecgan():
    done = subprocess.run(
        [sys.executable, "-m", "ecgan", "--version"], capture_output=True, text=True, timeout=60
    )
    assert (done.returncode, done.stdout.split()[0]) == (0, "ecgan")


def test_a_fault_of_ours_shows_its_traceback(monkeypatch):
    def crash(_):
        raise RuntimeError("ours")

    monkeypatch.setattr("ecgan.cli.info.main", crash)
    with pytest.raises(RuntimeError, match="ours"):
        main(["info"])


def test_one_command_starts_a_run_and_goes_on_with_it(
    tiny_arguments, tmp_path, capsys, monkeypatch
):
    run = tmp_path / "run"
    command = ["train", "--recipe", "quickstart", *tiny_arguments, "--preset=B1", f"--out={run}"]
    assert main([*command, "--optim.steps=1", "--resume=auto"]) == 0
    assert main([*command, "--optim.steps=2", "--resume=auto"]) == 0
    steps = [row.split(",")[0] for row in (run / "metrics.csv").read_text().splitlines()]
    assert steps == ["step", "1", "2"]
    assert main([*command, "--optim.steps=3"]) == 2
    assert "exists already" in capsys.readouterr().err
    # torchrun starts the same command line again after a fault.
    monkeypatch.setenv("TORCHELASTIC_RESTART_COUNT", "1")
    assert main([*command, "--optim.steps=3"]) == 0
    assert len((run / "metrics.csv").read_text().splitlines()) == 4


def test_a_run_that_torchrun_may_restart_needs_a_name(tiny_arguments, fails, monkeypatch):
    monkeypatch.setenv("TORCHELASTIC_MAX_RESTARTS", "3")
    assert "give --out" in fails("train", *tiny_arguments)


@pytest.mark.parametrize("number", [28, 30, 13])
def test_a_disk_that_cannot_be_written_is_one_sentence(fails, monkeypatch, number):
    def refuse(*_):
        raise OSError(number, os.strerror(number), "runs/x")

    monkeypatch.setattr("ecgan.cli.train.main", refuse)
    assert fails("train") == f"ecgan: runs/x cannot be written: {os.strerror(number)}"
