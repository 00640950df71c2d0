"""An untrained generator of every part, and what it makes of three built-in scenes."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable

import pytest
import torch

from ecgan.config import DatasetConfig, ModelConfig, preset_values
from ecgan.data import PairDataset, build_dataset
from ecgan.figures import Material, gather
from ecgan.models import Generator

SIZE = (32, 64)


@pytest.fixture(scope="session")
def scenes() -> PairDataset:
    return build_dataset(DatasetConfig(scenes=60), "scenes", SIZE, "val", seed=1)


@pytest.fixture(scope="session")
def make_generator() -> Callable[..., Generator]:
    """A generator of a preset; the pictures that it makes vary and I' leaves [-1, 1]."""

    def make(preset: str = "B6", **changes: object) -> Generator:
        torch.manual_seed(0)
        switches = {
            key.removeprefix("model."): bool(value)
            for key, value in preset_values(preset).items()  # type: ignore[arg-type]
            if key.startswith("model.")
        }
        cfg = ModelConfig(
            num_classes=12, size="32x64", ngf=16, num_upsamples=3, spade_hidden=8, projection_dim=16
        )
        generator = Generator(dataclasses.replace(cfg, **{**switches, **changes}))
        # Xavier's rule with gain 0.02 leaves untrained pictures all but black.
        for module in generator.modules():
            if isinstance(module, torch.nn.Conv2d) and module.weight.is_leaf:
                torch.nn.init.kaiming_normal_(module.weight)
        return generator.eval()

    return make


@pytest.fixture(scope="session")
def gather_scenes(scenes, make_generator) -> Callable[..., Material]:
    """Material of three scenes; ``preset`` and ``model`` change the generator."""

    def run(preset: str = "B6", model: dict | None = None, **options: object) -> Material:
        generator = make_generator(preset, **(model or {}))
        options = {"count": 3, **options}
        return gather(generator, scenes.source.classes, scenes, **options)

    return run


@pytest.fixture(scope="session")
def material(gather_scenes) -> Material:
    return gather_scenes()
