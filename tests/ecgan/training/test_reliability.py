"""Runs that are killed, told to stop, or out of disk."""

from __future__ import annotations

import dataclasses
import json
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from PIL import Image
from safetensors.torch import load_file

from benchmarks import kill_points
from ecgan.config import TrainConfig
from ecgan.errors import CheckpointError, ConfigError
from ecgan.training import train
from ecgan.training import trainer as trainer_module
from ecgan.training.run_folder import RunFolder, check_free
from ecgan.training.settings import compose, load_config


def tensors(run: Path, step: int) -> dict[str, torch.Tensor]:
    files = sorted((run / "checkpoints" / f"step-{step:06d}").glob("*.safetensors"))
    # Copies: safetensors maps the file, which a test may damage.
    return {f"{f.stem}/{k}": v.clone() for f in files for k, v in load_file(f).items()}


def differing(first: dict[str, torch.Tensor], second: dict[str, torch.Tensor]) -> list[str]:
    return sorted(first.keys() ^ second.keys()) + [
        key for key in first.keys() & second.keys() if not torch.equal(first[key], second[key])
    ]


@pytest.mark.slow
def test_a_killed_training_ends_like_the_unbroken_one(tmp_path: Path, monkeypatch):
    # One point of what benchmarks/kill_points.py does at twenty: while a checkpoint is written.
    monkeypatch.setattr(kill_points, "STEPS", 8)
    monkeypatch.setitem(kill_points.SETTINGS, "optim.steps", 8)
    seed = int(os.environ.get("ECGAN_KILL_SEED", "0")) or int(time.time())
    print(f"ECGAN_KILL_SEED={seed}")
    (point,), _ = kill_points.measure(tmp_path, 1, random.Random(seed))
    assert point.differences == [], f"ECGAN_KILL_SEED={seed}"
    assert point.kills


def settings(tiny_layer, tmp_path: Path, **more) -> TrainConfig:
    layer = {**tiny_layer, "preset": "B1", "sample_every": 9, "out": str(tmp_path / "run")}
    return compose([layer, more], TrainConfig)


@pytest.mark.parametrize(
    ("name", "status"), [("SIGTERM", 0), ("SIGUSR1", 0), ("SIGINT", 130)], ids=str
)
def test_a_request_to_stop_saves_and_a_resume_goes_on(
    tiny_layer, tiny_arguments, tmp_path, name, status
):
    run = tmp_path / "run"
    command = [sys.executable, "-m", "ecgan", "train", *tiny_arguments, "--preset=B1"]
    more = ["--optim.steps=500", "--save_every=1000", "--sample_every=1000", "--resume=auto"]
    process = subprocess.Popen(
        [*command, *more, f"--out={run}", "--dataset.workers=1"],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    try:
        end = time.monotonic() + 120
        while not (run / "metrics.csv").exists():
            assert process.poll() is None, process.stderr.read()
            assert time.monotonic() < end
            time.sleep(0.02)
        # As schedulers and terminals do it: to the data-loading processes as well.
        os.killpg(process.pid, getattr(signal, name))
        _, errors = process.communicate(timeout=120)
    finally:
        process.kill()
    assert process.returncode == status, errors
    assert f"stopped by {name} after step" in errors
    (checkpoint,) = (run / "checkpoints").iterdir()
    step = int(checkpoint.name.removeprefix("step-"))
    assert step < 500
    event = json.loads((run / "events.jsonl").read_text().splitlines()[-1])
    assert (event["step"], event["level"]) == (step, "info")

    cfg = load_config(run / "config.yaml")
    cfg = dataclasses.replace(cfg, optim=dataclasses.replace(cfg.optim, steps=step + 2))
    train(cfg, resume=run)
    assert (run / "checkpoints" / f"step-{step + 2:06d}").is_dir()


def test_a_run_killed_before_its_first_checkpoint_starts_over(tiny_layer, tmp_path):
    cfg = settings(tiny_layer, tmp_path)
    whole = train(cfg)
    begun = tmp_path / "begun"
    folder = RunFolder(begun)
    folder.begin(load_config(whole / "config.yaml"))
    folder.close()
    train(load_config(begun / "config.yaml"), resume=begun)
    assert differing(tensors(whole, 4), tensors(begun, 4)) == []


def test_a_damaged_checkpoint_is_passed_over(tiny_layer, tmp_path, capfd):
    run = train(settings(tiny_layer, tmp_path))
    expected = tensors(run, 4)
    weights = run / "checkpoints" / "step-000004" / "generator.safetensors"
    content = bytearray(weights.read_bytes())
    content[len(content) // 2] ^= 1
    weights.write_bytes(content)
    train(load_config(run / "config.yaml"), resume=run)
    assert "generator.safetensors is damaged" in capfd.readouterr().err
    assert differing(tensors(run, 4), expected) == []


def test_a_torn_row_of_metrics_is_dropped(tiny_layer, tmp_path):
    run = train(settings(tiny_layer, tmp_path))
    path = run / "metrics.csv"
    rows = path.read_bytes().splitlines(keepends=True)
    # A row of step 40 cut down to "4" would look like one of step 4.
    path.write_bytes(b"".join(rows[:3]) + b"4")
    folder = RunFolder(run)
    folder.start(4)
    folder.close()
    assert path.read_bytes().splitlines() == [row.rstrip(b"\r\n") for row in rows[:3]]


def test_two_trainings_cannot_share_a_folder(tiny_layer, tiny_arguments, tmp_path):
    cfg = settings(tiny_layer, tmp_path)
    run = train(cfg)
    holder = subprocess.Popen(
        [
            sys.executable,
            "-c",
            "import fcntl, sys, time; f = open(sys.argv[1], 'w'); fcntl.lockf(f, fcntl.LOCK_EX);"
            " print('held', flush=True); time.sleep(60)",
            str(run / ".lock"),
        ],
        stdout=subprocess.PIPE,
        text=True,
    )
    try:
        assert holder.stdout.readline() == "held\n"
        with pytest.raises(ConfigError, match="in use: another process trains there"):
            train(load_config(run / "config.yaml"), resume=run)
    finally:
        holder.kill()
        holder.wait()
    train(load_config(run / "config.yaml"), resume=run)


def full(*_: object) -> None:
    raise OSError(28, "No space left on device")


@pytest.mark.parametrize(
    "error", [(28, "No space left on device"), (30, "Read-only file system")], ids=str
)
def test_a_full_disk_costs_a_checkpoint_not_the_training(tiny_layer, tmp_path, monkeypatch, error):
    original, tried = trainer_module.save_checkpoint, []

    def save(folder, state, step):
        tried.append(step)
        if step == 2:
            raise OSError(*error)
        return original(folder, state, step)

    monkeypatch.setattr(trainer_module, "save_checkpoint", save)
    run = train(settings(tiny_layer, tmp_path, save_every=1))
    assert tried == [1, 2, 3, 4]
    (event,) = [json.loads(line) for line in (run / "events.jsonl").read_text().splitlines()]
    assert error[1] in event["message"]
    assert "step 2 cannot be written" in event["message"]
    assert "newest is step-000001" in event["message"]


def test_older_checkpoints_make_room_and_the_last_failure_is_an_error(
    tiny_layer, tmp_path, monkeypatch
):
    original, tried = trainer_module.save_checkpoint, []

    def save(folder, state, step):
        tried.append(step)
        if step == 4:
            full()
        return original(folder, state, step)

    monkeypatch.setattr(trainer_module, "save_checkpoint", save)
    cfg = settings(tiny_layer, tmp_path, save_every=1, keep=3)
    with pytest.raises(CheckpointError, match=r"step 4 cannot be written.*newest is step-000003"):
        train(cfg)
    assert tried == [1, 2, 3, 4, 4, 4]
    run = Path(cfg.out)
    assert [path.name for path in (run / "checkpoints").iterdir()] == ["step-000003"]
    monkeypatch.undo()
    train(load_config(run / "config.yaml"), resume=run)
    assert (run / "checkpoints" / "step-000004").is_dir()


def test_logs_that_cannot_be_written_are_said_once(tiny_layer, tmp_path, capfd):
    folder = RunFolder(tmp_path / "run")
    folder.begin(settings(tiny_layer, tmp_path))
    # Folders in the place of files: no user, not even root, can write them.
    for name in ("metrics.csv", "events.jsonl", "environment.json", "bad-step.json"):
        (folder.path / name).mkdir()
    (folder.samples / "step-000001.png").mkdir()
    folder.start(0)
    for step in (1, 2):
        folder.log({"step": step, "gan": 1.0})
        folder.event(step, "something")
    folder.write_environment({})
    folder.save_report("{}")
    folder.save_sample(Image.new("RGB", (2, 2)), 1)
    folder.save_sample(Image.new("RGB", (2, 2)), 2)
    folder.close()
    said = capfd.readouterr().out.splitlines()
    failed = [line for line in said if "training goes on" in line]
    assert len(failed) == 5
    assert (folder.samples / "step-000002.png").is_file()


def test_what_a_killed_start_left_is_no_run(tmp_path):
    folder = tmp_path / "run"
    for name in ("samples", "checkpoints"):
        (folder / name).mkdir(parents=True)
    (folder / ".lock").touch()
    (folder / ".config.yaml.writing").touch()
    check_free(folder)
    (folder / "notes.txt").touch()
    with pytest.raises(ConfigError, match="exists already"):
        check_free(folder)
