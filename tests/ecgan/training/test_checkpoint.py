import random
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from ecgan.errors import CheckpointError
from ecgan.training import checkpoint as module
from ecgan.training.checkpoint import (
    TrainingState,
    find_checkpoint,
    list_checkpoints,
    load_checkpoint,
    load_weights,
    save_checkpoint,
)


def make_state(step: int = 0, width: int = 3) -> TrainingState:
    network = nn.Sequential(nn.Linear(2, width), nn.BatchNorm1d(width))
    optimizer = torch.optim.Adam(network.parameters(), lr=0.1)
    return TrainingState({"generator": network}, {"generator_optimizer": optimizer}, step=step)


def take_step(state: TrainingState) -> torch.Tensor:
    network, optimizer = state.networks["generator"], state.optimizers["generator_optimizer"]
    loss = network(torch.randn(4, 2)).square().sum()
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()
    return torch.cat([p.detach().flatten() for p in network.parameters()])


def test_training_goes_on_bit_for_bit(tmp_path: Path):
    state = make_state(step=12)
    take_step(state)
    path = save_checkpoint(tmp_path, state, keep=3)
    drawn = (random.random(), np.random.rand(), torch.rand(1).item())
    expected = take_step(state)

    other = make_state()
    take_step(other)
    assert load_checkpoint(path, other) == 12
    assert (random.random(), np.random.rand(), torch.rand(1).item()) == drawn
    assert torch.equal(take_step(other), expected)


def test_files_stand_beside_the_weights(tmp_path: Path):
    state = make_state(5)
    state.files = {"config.yaml": "data: ä"}
    path = save_checkpoint(tmp_path, state, keep=1)
    assert (path / "config.yaml").read_text(encoding="utf-8") == "data: ä"


def test_the_newest_are_kept(tmp_path: Path):
    for step in (1, 2, 900_000, 1_000_000):
        save_checkpoint(tmp_path, make_state(step), keep=2)
    assert [p.name for p in list_checkpoints(tmp_path)] == ["step-900000", "step-1000000"]
    assert len(list(tmp_path.iterdir())) == 2


@pytest.mark.parametrize("name", ["_save_tensors", "_sync"])
def test_a_failed_write_leaves_the_last_checkpoint(tmp_path: Path, monkeypatch, name):
    first = save_checkpoint(tmp_path, make_state(1), keep=1)

    def fail(*_):
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(module, name, fail)
        with pytest.raises(OSError, match="No space"):
            save_checkpoint(tmp_path, make_state(2), keep=1)
    assert list_checkpoints(tmp_path) == [first]
    assert load_checkpoint(first, make_state()) == 1
    save_checkpoint(tmp_path, make_state(2), keep=1)
    assert [p.name for p in tmp_path.iterdir()] == ["step-000002"]


def test_the_same_step_again_replaces(tmp_path: Path):
    save_checkpoint(tmp_path, make_state(1), keep=1)
    state = make_state(1)
    path = save_checkpoint(tmp_path, state, keep=1)
    other = make_state()
    load_checkpoint(path, other)
    ours = state.networks["generator"].state_dict()
    assert all(torch.equal(v, ours[k]) for k, v in other.networks["generator"].state_dict().items())


def test_another_configuration_is_refused(tmp_path: Path):
    path = save_checkpoint(tmp_path, make_state(1), keep=1)
    with pytest.raises(CheckpointError, match=r"another configuration.*first is 0\.weight"):
        load_checkpoint(path, make_state(width=4))


def test_broken_weights_are_refused(tmp_path: Path):
    path = save_checkpoint(tmp_path, make_state(1), keep=1)
    weights = path / "generator.safetensors"
    weights.write_bytes(weights.read_bytes()[:40])
    with pytest.raises(CheckpointError, match=r"generator\.safetensors cannot be read"):
        load_checkpoint(path, make_state())
    weights.unlink()
    with pytest.raises(CheckpointError, match="cannot be read"):
        load_weights(weights, nn.Linear(1, 1))


@pytest.mark.parametrize("text", ["{", "[]", '{"format": 99}'])
def test_a_broken_document_is_refused(tmp_path: Path, text):
    path = save_checkpoint(tmp_path, make_state(1), keep=1)
    (path / "state.json").write_text(text)
    with pytest.raises(CheckpointError, match="checkpoint"):
        load_checkpoint(path, make_state())


def test_finding(tmp_path: Path):
    with pytest.raises(CheckpointError, match="neither a checkpoint nor a run folder"):
        find_checkpoint(tmp_path)
    (tmp_path / "checkpoints" / ".step-000009.writing").mkdir(parents=True)
    with pytest.raises(CheckpointError):
        find_checkpoint(tmp_path)
    save_checkpoint(tmp_path / "checkpoints", make_state(3), keep=5)
    newest = save_checkpoint(tmp_path / "checkpoints", make_state(20), keep=5)
    assert find_checkpoint(tmp_path) == newest
    assert find_checkpoint(newest) == newest
