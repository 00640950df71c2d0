from __future__ import annotations

from pathlib import Path

import pytest

from ecgan.config import TrainConfig
from ecgan.training import train
from ecgan.training.settings import compose


@pytest.fixture(scope="session")
def b6_run(tiny_layer, tmp_path_factory) -> Path:
    """Run folder of four B6 steps on scenes, with checkpoints at steps 2 and 4."""
    out = tmp_path_factory.mktemp("b6") / "run"
    return train(compose([tiny_layer, {"preset": "B6", "out": str(out)}], TrainConfig))
