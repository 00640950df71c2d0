"""Several processes: the same training as one, on CPU through torchrun and gloo."""

from __future__ import annotations

import csv
import os
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

import psutil
import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as multiprocessing
from safetensors.torch import load_file

from ecgan.config import TrainConfig
from ecgan.training.settings import compose

STEPS = 5


def torchrun(arguments: Sequence[str], *options: str) -> list[str]:
    launcher = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", "2"]
    return [*launcher, "--standalone", *options, "-m", "ecgan", "train", *arguments]


def run(command: Sequence[str], **more) -> subprocess.CompletedProcess[str]:
    return subprocess.run(command, capture_output=True, text=True, timeout=550, **more)


def metrics(folder: Path) -> list[dict[str, str]]:
    with (folder / "metrics.csv").open(newline="") as file:
        return list(csv.DictReader(file))


def saved(folder: Path, step: int) -> dict[str, torch.Tensor]:
    files = sorted((folder / "checkpoints" / f"step-{step:06d}").glob("*.safetensors"))
    return {f"{f.stem}/{key}": v for f in files for key, v in load_file(f).items()}


# Runs in a process of its own: the process group, and double precision, stay there.
def follow(rank: int, world: int, layer: dict, folder: str) -> None:
    from ecgan.training import run as module
    from ecgan.training import trainer

    torch.set_num_threads(1)
    if world > 1:
        os.environ |= {
            "RANK": str(rank),
            "LOCAL_RANK": str(rank),
            "WORLD_SIZE": str(world),
            "LOCAL_WORLD_SIZE": str(world),
            "MASTER_ADDR": "127.0.0.1",
            "MASTER_PORT": layer["port"],
            "OMP_NUM_THREADS": "1",
        }
    layer = {key: value for key, value in layer.items() if key != "port"}

    # A GAN's training is chaotic: in float32 rounding alone grows fivefold a step. In float64 it
    # stays far below the differences that a wrong gradient would make.
    build = module.build_networks

    def doubled(cfg):
        networks = build(cfg)
        for network in networks.items().values():
            network.double()
        return networks

    collate = trainer.CollateWithLayout.__call__

    def doubled_batch(self, items):
        batch = collate(self, items)
        for key in ("image", "edge"):
            batch[key] = batch[key].double()
        return batch

    perceptual = module.build_perceptual
    segmenter = module.load_label_generator
    module.build_networks = doubled
    module.build_perceptual = lambda cfg: perceptual(cfg).double()
    module.load_label_generator = lambda *a: segmenter(*a).double()
    trainer.CollateWithLayout.__call__ = doubled_batch
    module.train(compose([layer, {"out": f"{folder}/run"}], TrainConfig))
    assert not dist.is_initialized()


@pytest.mark.slow
@pytest.mark.parametrize("split", ["two processes", "two batches"])
def test_they_follow_one_process_with_the_joined_batch(tiny_layer, b6_run, tmp_path, split):
    steps = STEPS if split == "two processes" else 4
    layer = {
        **tiny_layer,
        "preset": "B6",
        "segmenter.source": str(b6_run / "segmenter"),
        "model.norm": "instance",
        "model.num_upsamples": 2,
        "size": "32x32",
        "optim.steps": steps,
        "optim.lr": 1e-5,
        "sample_every": 100,
        "save_every": 100,
        "loss.contrastive.source": "ranks",
        # Every pixel, so that no process draws.
        "loss.contrastive.budget": 2 * 32 * 32,
    }
    if split == "two batches":
        # The contrastive loss looks at one batch at a time, whose pairs are not those of two.
        layer["loss.contrast"] = 0.0
        # Each forward pass takes a step of the spectral norms' power iteration.
        layer["model.spectral"] = "none"
    one, other = tmp_path / "one", tmp_path / "other"
    for folder in (one, other):
        folder.mkdir()
    port = str(20_000 + os.getpid() % 20_000)
    multiprocessing.spawn(follow, (1, {**layer, "batch_size": 2, "port": port}, str(one)))
    more = {"batch_size": 1, "port": port}
    if split == "two processes":
        multiprocessing.spawn(follow, (2, {**layer, **more}, str(other)), nprocs=2)
    else:
        more["optim.accumulate"] = 2
        multiprocessing.spawn(follow, (1, {**layer, **more}, str(other)))
    expected, found = metrics(one / "run"), metrics(other / "run")
    assert len(expected) == len(found) == steps
    timed = {"seconds", "images_per_second", "memory_gib"}
    for ours, theirs in zip(found, expected, strict=True):
        for name in theirs.keys() - timed:
            # The file holds six digits.
            assert float(ours[name]) == pytest.approx(float(theirs[name]), rel=3e-6), name
    theirs, ours = saved(one / "run", steps), saved(other / "run", steps)
    moved = 0
    for name, weight in theirs.items():
        if name.startswith(("generator/", "discriminator/")):
            torch.testing.assert_close(ours[name], weight, rtol=1e-6, atol=1e-9, msg=name)
            moved += weight.numel()
    assert moved > 10_000


@pytest.mark.slow
def test_torchrun_trains_b6_on_camvid(tiny_arguments, test_data, tmp_path):
    out = tmp_path / "run"
    arguments = [
        *tiny_arguments,
        "--preset=B6",
        f"--data={test_data('camvid')}",
        "--loss.contrastive.source=ranks",
        "--batch_size=1",
        "--optim.ema=0.9",
        "--optim.ema_batches=2",
        f"--out={out}",
    ]
    result = run(torchrun(arguments))
    assert result.returncode == 0, result.stderr[-3000:]
    assert [row["step"] for row in metrics(out)] == ["1", "2", "3", "4"]
    state = saved(out, 4)
    assert {"generator", "generator_ema", "discriminator"} <= {key.split("/")[0] for key in state}
    # Random states of both processes, which differ.
    assert not torch.equal(state["rng/0.torch"], state["rng/1.torch"])
    assert all(torch.isfinite(v).all() for k, v in state.items() if v.is_floating_point()), "finite"


@pytest.mark.slow
def test_after_the_death_of_a_process_torchrun_goes_on(tiny_arguments, b6_run, tmp_path):
    def arguments(name: str) -> list[str]:
        return [
            *tiny_arguments,
            "--preset=B1",
            "--loss.perceptual=0",
            "--batch_size=1",
            "--optim.steps=12",
            "--save_every=2",
            "--sample_every=100",
            f"--out={tmp_path / name}",
        ]

    whole = run(torchrun(arguments("whole")))
    assert whole.returncode == 0, whole.stderr[-3000:]
    launcher = subprocess.Popen(
        torchrun(arguments("broken"), "--max-restarts", "2"),
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        checkpoint = tmp_path / "broken" / "checkpoints" / "step-000004"
        wait_for(checkpoint.exists, launcher)
        (victim,) = [
            child
            for child in psutil.Process(launcher.pid).children()
            if child.environ().get("RANK") == "1"
        ]
        victim.kill()
        _, errors = launcher.communicate(timeout=500)
    finally:
        launcher.kill()
    assert launcher.returncode == 0, errors[-3000:]
    expected, found = saved(tmp_path / "whole", 12), saved(tmp_path / "broken", 12)
    assert [key for key in expected if not torch.equal(expected[key], found[key])] == []
    assert victim.pid not in psutil.pids()


def wait_for(condition, process: subprocess.Popen, seconds: float = 200) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert process.poll() is None, process.stderr.read()[-3000:]
        assert time.monotonic() < end, "the run is too slow"
        time.sleep(0.02)


@pytest.mark.slow
def test_sigterm_saves_on_all_processes(tiny_arguments, b6_run, tmp_path):
    out = tmp_path / "run"
    arguments = [
        *tiny_arguments,
        "--preset=B6",
        f"--segmenter.source={b6_run / 'segmenter'}",
        "--batch_size=1",
        "--optim.steps=1000",
        "--save_every=1000",
        "--sample_every=1000",
        f"--out={out}",
    ]
    launcher = subprocess.Popen(
        torchrun(arguments), stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True
    )
    try:
        wait_for(lambda: (out / "metrics.csv").exists(), launcher)
        workers = psutil.Process(launcher.pid).children()
        # To one process only: the others learn of it.
        workers[-1].send_signal(signal.SIGTERM)
        _, errors = launcher.communicate(timeout=120)
    finally:
        launcher.kill()
    assert launcher.returncode == 0, errors[-3000:]
    assert "stopped by SIGTERM after step" in errors
    (checkpoint,) = (out / "checkpoints").iterdir()
    assert 1 <= int(checkpoint.name[5:]) < 1000
