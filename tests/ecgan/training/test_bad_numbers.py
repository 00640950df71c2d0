"""Losses and gradients that are not finite."""

import csv
import json
import math
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from torch import nn

from ecgan.config import TrainConfig
from ecgan.training import train
from ecgan.training.guard import Guard, NonFiniteLossError
from ecgan.training.precision import Precision
from ecgan.training.processes import Processes
from ecgan.training.settings import compose, load_config
from ecgan.training.step import TrainingStep


def rows(run: Path, name: str) -> list[str]:
    """A column of metrics.csv; empty cells where a step was skipped, or all were."""
    with (run / "metrics.csv").open(newline="") as file:
        return [row.get(name, "") for row in csv.DictReader(file)]


def events(run: Path) -> list[dict]:
    return [json.loads(line) for line in (run / "events.jsonl").read_text().splitlines()]


def weights(run: Path, step: int, file: str = "generator") -> dict[str, torch.Tensor]:
    return load_file(run / "checkpoints" / f"step-{step:06d}" / f"{file}.safetensors")


@pytest.fixture
def settings(tiny_layer, tmp_path: Path):
    """Settings of a B1 run that saves each step."""

    def make(**more) -> TrainConfig:
        layer = {**tiny_layer, "preset": "B1", "save_every": 1, "keep": 9, "sample_every": 9}
        return compose([layer, more, {"out": str(tmp_path / "run")}], TrainConfig)

    return make


def poison(monkeypatch, steps: set[int], value: float = math.nan) -> None:
    """Makes G's features, and so its running statistics and losses, ``value`` in some steps."""
    original, call = TrainingStep.__call__, [0]

    def step(self, batches, rates, number):
        call[0] = number + 1
        return original(self, batches, rates, number)

    synthesize = TrainingStep.synthesize

    def poisoned(self, batch):
        if call[0] not in steps:
            return synthesize(self, batch)
        first = next(p for p in self.networks.generator.encoder.parameters())
        with torch.no_grad():
            kept = first.clone()
            first.fill_(value)
        try:
            out, style = synthesize(self, batch)
        finally:
            first.data.copy_(kept)
        return out, style

    monkeypatch.setattr(TrainingStep, "__call__", step)
    monkeypatch.setattr(TrainingStep, "synthesize", poisoned)


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_a_bad_step_is_left_out_and_told(settings, monkeypatch, value):
    poison(monkeypatch, {2}, value)
    run = train(settings())
    assert rows(run, "skipped") == ["0", "1", "1", "1"]
    assert rows(run, "gan")[1] == ""
    (event,) = events(run)
    assert event["step"] == 2
    assert event["level"] == "warning"
    assert "step 2 skipped, generator: loss gan is nan" in event["message"]
    assert "scene_train_" in event["message"]
    for file in ("generator", "discriminator", "generator_optimizer"):
        before, after = weights(run, 1, file), weights(run, 2, file)
        assert [key for key in before if not torch.equal(before[key], after[key])] == []
    last = weights(run, 4)
    assert any("running_mean" in key for key in last)
    assert all(torch.isfinite(tensor).all() for tensor in last.values())
    assert any(not torch.equal(last[key], before) for key, before in weights(run, 2).items())


def test_a_bad_gradient_names_its_parameter(settings, monkeypatch):
    original = TrainingStep._backward

    def backward(self, network, found, terms, batches):
        original(self, network, found, terms, batches)
        if network == "discriminator":
            _, parameter = list(self.networks.discriminator.named_parameters())[-1]
            parameter.grad[0] = math.inf

    monkeypatch.setattr(TrainingStep, "_backward", backward)
    run = train(settings(**{"optim.steps": 1}))
    (event,) = events(run)
    assert "discriminator: the gradient of discriminator." in event["message"]
    assert rows(run, "skipped") == ["1"]


def test_too_many_in_a_row_end_the_run_with_a_report(settings, monkeypatch):
    poison(monkeypatch, {2, 4, 5, 6})
    with pytest.raises(NonFiniteLossError, match=r"3 steps in a row.*step 6.*gan is nan.*bad-step"):
        train(settings(**{"optim.steps": 9, "max_bad_steps": 3}))
    run = Path(settings().out)
    report = json.loads((run / "bad-step.json").read_text())
    assert (report["step"], report["skipped"], report["in_row"]) == (6, 4, 3)
    (process,) = report["processes"]
    assert process["losses"]["gan"] == "nan"
    assert len(process["files"]) == 2
    assert all(name.startswith("scene_train_") for name in process["files"])
    statistics = process["statistics"]
    assert statistics["image"]["not_finite"] == 0
    assert -1 <= statistics["image"]["least"] < statistics["image"]["largest"] <= 1
    assert statistics["gradient of generator.encoder"]["not_finite"] > 0
    assert events(run)[-1]["level"] == "error"
    newest = max((run / "checkpoints").iterdir())
    assert newest.name == "step-000005"
    assert all(torch.isfinite(tensor).all() for tensor in weights(run, 5).values())


def test_the_count_goes_on_after_a_resume(settings, monkeypatch):
    with monkeypatch.context() as patch:
        poison(patch, {2, 3})
        run = train(settings(**{"optim.steps": 3, "max_bad_steps": 3}))
    poison(monkeypatch, {4})
    cfg = load_config(run / "config.yaml")
    cfg.optim.steps = 5
    with pytest.raises(NonFiniteLossError, match="3 steps in a row"):
        train(cfg, resume=run)


def test_the_queue_takes_nothing_from_a_bad_step(settings, monkeypatch, b6_run: Path):
    poison(monkeypatch, {2})
    more = {
        "preset": "B6",
        "segmenter.source": str(b6_run / "segmenter"),
        "loss.contrastive.source": "queue",
        "loss.contrastive.queue_mb": 0.05,
        "optim.steps": 2,
    }
    run = train(settings(**more))
    first, second = (weights(run, step, "contrast_queue") for step in (1, 2))
    assert first["counts"].sum() > 0
    assert [key for key in first if not torch.equal(first[key], second[key])] == []


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["bf16", "fp16"])
def test_half_precision_trains(settings, kind):
    # Features this small: a CPU computes convolutions in float16 as slowly as can be.
    run = train(settings(precision=kind, **{"optim.steps": 2, "loss.perceptual": 0.0}))
    skipped = [int(value) for value in rows(run, "skipped")]
    for value, before, after in zip(rows(run, "gan"), [0, *skipped], skipped, strict=False):
        assert (value == "") == (after > before)
    state = json.loads((run / "checkpoints" / "step-000002" / "state.json").read_text())
    scalers = state["values"]["scalers"]
    if kind == "bf16":
        assert scalers == {}
        assert skipped == [0, 0]
    else:
        assert set(scalers) == {"generator", "discriminator"}
        assert scalers["generator"]["scale"] == 2.0 ** (16 - skipped[-1])


def test_a_scale_that_overflows_is_halved_until_it_fits():
    precision, guard = Precision("fp16"), Guard([], 20, Processes())
    layer = nn.Linear(4, 1)
    optimizer = torch.optim.SGD(layer.parameters(), lr=1.0)
    before, sound = layer.weight.clone(), []
    for _ in range(6):
        with precision.autocast():
            loss = 20 * layer(torch.ones(1, 4)).sum()  # the gradient's scale fits up to 2**11
        precision.scale(loss.float(), "discriminator").backward()
        precision.unscale(optimizer, "discriminator")
        terms = {"gan": loss.detach().float()}
        sound.append(guard.sound("discriminator", terms, layer.named_parameters(), []))
        precision.step(optimizer, "discriminator", sound[-1])
        optimizer.zero_grad()
    assert sound == [False] * 5 + [True]
    assert precision.scales == {"generator": 2.0**16, "discriminator": 2.0**11}
    torch.testing.assert_close(before - layer.weight, torch.full((1, 4), 20.0))

    other = Precision("fp16")
    other.load_state_dict(precision.state_dict())
    assert other.scales == precision.scales
