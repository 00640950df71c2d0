from __future__ import annotations

from collections.abc import Callable

import pytest
import torch

from ecgan.config import ModelConfig
from ecgan.data.classes import plain_classes
from ecgan.inference import ECGAN
from ecgan.models import Layout


@pytest.fixture
def make_model() -> Callable[..., ECGAN]:
    """A small model with weights that make lively images, where fresh ones give almost gray."""

    def make(num_classes: int = 5, **changes: object) -> ECGAN:
        settings: dict = {"size": "32x64", "ngf": 8, "spade_hidden": 8, "projection_dim": 8}
        cfg = ModelConfig(num_classes=num_classes, **{**settings, **changes})
        model = ECGAN(cfg, plain_classes(num_classes))
        random = torch.Generator().manual_seed(1)
        for parameter in model.parameters():
            scale = parameter[0].numel() ** -0.5 if parameter.dim() > 1 else 0.1
            parameter.copy_(torch.randn(parameter.shape, generator=random) * scale)
        # Statistics that suit the weights; without them activations run away from block to block.
        norms = [m for m in model.modules() if isinstance(m, torch.nn.modules.batchnorm._BatchNorm)]
        for norm in norms:
            norm.train().momentum = 1.0
        labels = torch.randint(0, num_classes, (4, *model.size), generator=random)
        edges = torch.rand(4, 1, *model.size, generator=random) < 0.1
        layout = Layout(
            labels,
            num_classes,
            void_channel=model.cfg.void_channel,
            instance_edges=edges if model.cfg.instance_edges else None,
        )
        z = model.generator.sample_style(4, generator=random)
        with torch.no_grad():
            model.generator(layout, z)
        for norm in norms:
            norm.eval()
        return model

    return make
