"""The predicted peak against the allocator's record of a real step."""

import gc
import json
from pathlib import Path

import pytest
import torch
from torch.profiler import ProfilerActivity, profile

from ecgan.config import TrainConfig
from ecgan.errors import ConfigError
from ecgan.models import Layout
from ecgan.training.build import build_networks, build_optimizers, fill_model
from ecgan.training.plan import Layouts, LiveBytes, _objective, _run_empty, largest, plan
from ecgan.training.settings import compose
from ecgan.training.step import TrainingStep

SMALL = {
    "size": "64x64",
    "batch_size": 2,
    "dataset.scenes": 4,
    "dataset.num_classes": 12,
    "model.ngf": 16,
    "model.ndf": 16,
    "model.spade_hidden": 32,
    "model.projection_dim": 32,
    "loss.contrastive.budget": 512,
    "loss.perceptual_network.network": "efficientnet_lite0",
}


def settings(**more) -> TrainConfig:
    return compose([SMALL, more], TrainConfig)


def allocator_peak(run, folder: Path) -> int:
    """Most bytes that torch's CPU allocator handed out at once during a call."""
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as record:
        run()
    record.export_chrome_trace(str(folder / "trace.json"))
    events = json.loads((folder / "trace.json").read_text())["traceEvents"]
    changes = sorted((e for e in events if e.get("name") == "[memory]"), key=lambda e: e["ts"])
    now = peak = 0
    for event in changes:
        now += event["args"]["Bytes"]
        peak = max(peak, now)
    return peak


@pytest.mark.parametrize(
    "more",
    [
        {"preset": "B6"},
        {"preset": "B6", "model.checkpointing": True, "optim.reuse_fakes": True},
        {"preset": "B6", "loss.contrastive.source": "queue", "model.style": "encoder"},
    ],
    ids=["B6", "checkpointing", "queue and style"],
)
def test_is_right_within_a_tenth(more, tmp_path):
    cfg = settings(**more)
    predicted = plan(cfg)

    torch.manual_seed(0)
    layouts = Layouts(cfg)
    model = fill_model(cfg, layouts.num_classes)
    objective, networks = _objective(cfg, model), build_networks(model)
    optimizers = build_optimizers(cfg.optim, networks)
    step = TrainingStep(
        cfg.optim,
        networks,
        (networks.generator, networks.discriminator, networks.encoder),
        objective,
        optimizers,
    )
    for optimizer in optimizers:
        _run_empty(optimizer)
    labels, _ = layouts.draw((64, 64), cfg.batch_size)
    batch = {"image": torch.rand(2, 3, 64, 64), "edge": torch.rand(2, 1, 64, 64)}
    batch["layout"] = Layout(labels, 12)
    gc.collect()
    before = predicted.weights + predicted.moments
    peak = allocator_peak(lambda: step([batch], (1e-4, 1e-4), 0), tmp_path)
    assert predicted.peak == pytest.approx(before + peak, rel=0.1)
    # The activations alone must be right too, not hidden behind weights and moments.
    fixed = predicted.weights + predicted.moments
    assert predicted.peak - fixed == pytest.approx(before + peak - fixed, rel=0.2)


def test_the_largest_size_fits_and_the_next_does_not():
    lean = {"preset": "B1", "loss.perceptual": 0.0, "model.encoder": "vgg", "size": "16x32"}
    cfg = settings(**lean)
    layouts = Layouts(cfg)
    small = plan(cfg, layouts)
    budget = small.weights + small.moments + 5 * (small.peak - small.weights - small.moments)
    found = largest(cfg, budget, layouts, start=small)
    height, width = found.size
    assert width == 2 * height > 32
    assert found.peak <= budget
    larger = settings(**{**lean, "size": f"{height + 16}x{2 * (height + 16)}"})
    assert plan(larger, layouts).peak > budget
    assert largest(cfg, 1000, layouts, start=small) is None


def test_the_average_costs_a_generator_more():
    lean = {"preset": "B1", "loss.perceptual": 0.0, "model.encoder": "vgg", "size": "16x32"}
    without, averaged = plan(settings(**lean)), plan(settings(**lean, **{"optim.ema": 0.999}))
    cfg = settings(**lean)
    generator = build_networks(fill_model(cfg, 12)).generator
    size = sum(parameter.nbytes for parameter in generator.parameters())
    assert averaged.weights - without.weights == size
    assert averaged.peak - without.peak == pytest.approx(size, rel=0.01)


def test_without_data_the_number_of_classes_is_needed():
    assert not Layouts(settings(data="nowhere")).own
    with pytest.raises(ConfigError, match=r"nowhere is no folder: give dataset\.num_classes"):
        Layouts(settings(data="nowhere", **{"dataset.num_classes": 0}))


def test_bytes_are_counted_once_and_given_back():
    with LiveBytes() as live:
        x = torch.zeros(100)
        view = x[10:]
        assert live.now == 400
        del x
        assert live.now == 400
        y = view + 1
        assert (live.now, live.peak) == (760, 760)
        del view, y
        assert (live.now, live.peak) == (0, 760)
