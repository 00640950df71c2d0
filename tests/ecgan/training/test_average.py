"""Moving average of the generator."""

from pathlib import Path

import pytest
import torch
from ecgan_kernels.nn import LabelSPADE
from safetensors.torch import load_file

from ecgan.config import ModelConfig, TrainConfig
from ecgan.models import Generator, Layout
from ecgan.training import load_generator, train
from ecgan.training.average import GeneratorAverage
from ecgan.training.processes import Processes
from ecgan.training.settings import compose

N = 4


def small(**more) -> Generator:
    torch.manual_seed(0)
    cfg = ModelConfig(num_classes=N, size="16x16", ngf=8, num_upsamples=2, spade_hidden=4, **more)
    return Generator(cfg)


def layouts(count: int, size: int = 16) -> list[Layout]:
    generator = torch.Generator().manual_seed(1)
    maps = [torch.randint(0, N, (2, size, size), generator=generator) for _ in range(count)]
    return [Layout(labels, N) for labels in maps]


def test_it_forgets_the_start_quickly_and_then_as_asked():
    generator = small()
    average = GeneratorAverage(generator, decay=0.5)
    expected = [p.clone() for p in generator.parameters()]
    for step in range(12):
        with torch.no_grad():
            for parameter in generator.parameters():
                parameter += torch.randn(parameter.shape)
        average.update(generator)
        kept = min(0.5, (1 + step) / (10 + step))
        expected = [
            kept * old + (1 - kept) * new
            for old, new in zip(expected, generator.parameters(), strict=True)
        ]
    for ours, theirs in zip(average.module.parameters(), expected, strict=True):
        torch.testing.assert_close(ours, theirs)
    assert not any(p.requires_grad for p in average.module.parameters())
    assert average.updates == 12


def test_statistics_are_those_of_the_layouts_and_of_its_own_weights():
    generator = small(norm="batch", spectral="none")
    average = GeneratorAverage(generator, decay=0.9)
    with torch.no_grad():
        for parameter in generator.parameters():
            parameter.zero_()  # what G does is not what counts
    inputs: dict[LabelSPADE, list[torch.Tensor]] = {}
    for module in average.module.modules():
        if isinstance(module, LabelSPADE):
            inputs[module] = []
            module.register_forward_pre_hook(lambda m, args: inputs[m].append(args[0]))
    state = torch.get_rng_state()
    average.reestimate(iter(layouts(3)), Processes())
    assert torch.equal(torch.get_rng_state(), state)
    assert not average.module.training
    assert len(inputs) > 5
    for module, found in inputs.items():
        assert len(found) == 3
        means = torch.stack([x.mean((0, 2, 3)) for x in found]).mean(0)
        variances = torch.stack([x.var((0, 2, 3)) for x in found]).mean(0)
        norm = module.param_free_norm
        torch.testing.assert_close(norm.running_mean, means, rtol=1e-4, atol=0)
        torch.testing.assert_close(norm.running_var, variances, rtol=1e-4, atol=0)
        assert norm.momentum == 0.1


def test_noise_does_not_touch_the_random_generators():
    average = GeneratorAverage(small(norm="batch", style="noise", z_dim=2), decay=0.9)
    state = torch.get_rng_state()
    average.reestimate(layouts(2), Processes())
    assert torch.equal(torch.get_rng_state(), state)


@pytest.fixture(scope="module")
def runs(tiny_layer, tmp_path_factory) -> dict[str, Path]:
    made = {}
    for name, more in (("plain", {}), ("average", {"optim.ema": 0.5, "optim.ema_batches": 2})):
        out = str(tmp_path_factory.mktemp(name) / "run")
        layer = {
            **tiny_layer,
            "preset": "B1",
            "model.norm": "batch",
            "optim.lr": 0.01,
            **more,
            "out": out,
        }
        made[name] = train(compose([layer], TrainConfig))
    return made


def test_it_does_not_change_the_training(runs):
    last = [run / "checkpoints" / "step-000004" for run in runs.values()]
    for name in ("generator", "discriminator", "generator_optimizer", "rng"):
        plain, averaged = (load_file(folder / f"{name}.safetensors") for folder in last)
        assert [key for key in plain if not torch.equal(plain[key], averaged[key])] == []


def test_it_is_what_a_checkpoint_gives(runs):
    run = runs["average"]
    folder = run / "checkpoints" / "step-000004"
    expected = load_file(folder / "generator_ema.safetensors")
    raw = load_file(folder / "generator.safetensors")
    found = load_generator(run, torch.device("cpu"))[0].state_dict()
    assert all(torch.equal(found[key], expected[key]) for key in expected)
    assert any(not torch.equal(raw[key], expected[key]) for key in expected)
    sheets = [(r / "samples" / "step-000004.png").read_bytes() for r in runs.values()]
    assert sheets[0] != sheets[1]
