import json
import os
import random
import resource
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from torch import nn

from ecgan.errors import CheckpointError
from ecgan.training import checkpoint_folder
from ecgan.training.checkpoint import (
    TrainingState,
    load_checkpoint,
    load_weights,
    newest_sound,
    read_state,
    save_checkpoint,
    verify,
)
from ecgan.training.checkpoint_folder import find_checkpoint, list_checkpoints, prune, tidy
from ecgan.training.rng import rng_state, set_rng_state


def make_state(width: int = 3, rank: int = 0) -> TrainingState:
    network = nn.Sequential(nn.Linear(2, width), nn.BatchNorm1d(width))
    optimizer = torch.optim.Adam(network.parameters(), lr=0.1)
    return TrainingState(
        {"generator": network}, {"generator_optimizer": optimizer}, [rng_state()], rank
    )


def save(folder: Path, step: int, state: TrainingState | None = None) -> Path:
    return save_checkpoint(folder, state or make_state(), step)


def take_step(state: TrainingState) -> torch.Tensor:
    network, optimizer = state.networks["generator"], state.optimizers["generator_optimizer"]
    loss = network(torch.randn(4, 2)).square().sum()
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()
    return torch.cat([p.detach().flatten() for p in network.parameters()])


def draw() -> tuple[float, ...]:
    return (random.random(), random.gauss(0, 1), np.random.randn(), torch.rand(1).item())


def test_training_goes_on_bit_for_bit(tmp_path: Path):
    state = make_state()
    take_step(state)
    state.values["step"] = 12
    draw()  # an odd number of normal variates: one waits in each generator
    state.rng = [rng_state()]
    path = save(tmp_path, 12, state)
    drawn = draw()
    expected = take_step(state)

    other = make_state()
    take_step(other)
    load_checkpoint(path, other)
    assert other.values == {"step": 12}
    assert draw() == drawn
    assert torch.equal(take_step(other), expected)


def test_each_process_gets_its_own_random_state_back(tmp_path: Path):
    state, drawn = make_state(), []
    states = []
    for seed in range(3):
        torch.manual_seed(seed)
        random.seed(seed)
        np.random.seed(seed)
        states.append(rng_state())
        drawn.append(draw())
    state.rng = states
    path = save(tmp_path, 1, state)
    for rank in range(3):
        load_checkpoint(path, make_state(rank=rank))
        assert draw() == drawn[rank]
    # A process that was not there before draws what it would have drawn.
    before = rng_state()
    load_checkpoint(path, make_state(rank=3))
    set_rng_state(before)


def test_files_stand_beside_the_weights(tmp_path: Path):
    state = make_state()
    state.files = {"config.yaml": "data: ä"}
    path = save(tmp_path, 5, state)
    assert (path / "config.yaml").read_text(encoding="utf-8") == "data: ä"


def test_the_newest_are_kept(tmp_path: Path):
    for step in (1, 2, 900_000, 1_000_000):
        save(tmp_path, step)
        prune(tmp_path, keep=2)
    assert [p.name for p in list_checkpoints(tmp_path)] == ["step-900000", "step-1000000"]
    assert len(list(tmp_path.iterdir())) == 2


def test_they_keep_within_a_budget_but_for_the_newest(tmp_path: Path):
    sizes = []
    for step in (1, 2, 3, 4):
        path = save(tmp_path, step)
        sizes.append(checkpoint_folder.folder_bytes(path))
    prune(tmp_path, keep=10, budget=sum(sizes[1:]) + 1)
    assert [p.name for p in list_checkpoints(tmp_path)] == [
        "step-000002",
        "step-000003",
        "step-000004",
    ]
    prune(tmp_path, keep=10, budget=1)
    assert [p.name for p in list_checkpoints(tmp_path)] == ["step-000004"]


def test_a_failed_sync_leaves_the_last_checkpoint(tmp_path: Path, monkeypatch):
    first = save(tmp_path, 1)

    def fail(*_):
        raise OSError(5, "Input/output error")

    with monkeypatch.context() as patch:
        patch.setattr(checkpoint_folder, "_sync", fail)
        with pytest.raises(OSError, match="Input/output"):
            save(tmp_path, 2)
    assert list(tmp_path.iterdir()) == [first]
    load_checkpoint(first, make_state())


FULL_DISK = """
import resource, sys
from pathlib import Path
import test_checkpoint as t
folder = Path(sys.argv[1])
t.save(folder, 1)
resource.setrlimit(resource.RLIMIT_FSIZE, (int(sys.argv[2]),) * 2)
try:
    t.save(folder, 2, t.make_state(width=4000))
except OSError as error:
    print("refused:", error)
"""


@pytest.mark.skipif(not hasattr(resource, "RLIMIT_FSIZE"), reason="needs file size limits")
@pytest.mark.parametrize("limit", [0, 100, 40_000])
def test_a_disk_that_takes_no_more_leaves_the_last_checkpoint(tmp_path: Path, limit):
    # A limit on the size of files makes real writes fail part of the way.
    environment = {
        **os.environ,
        "PYTHONPATH": os.pathsep.join([str(Path(__file__).parent), *sys.path]),
    }
    result = subprocess.run(
        [sys.executable, "-c", FULL_DISK, str(tmp_path), str(limit)],
        env=environment,
        capture_output=True,
        text=True,
        check=True,
    )
    assert result.stdout.startswith("refused:")
    assert [path.name for path in tmp_path.iterdir()] == ["step-000001"]
    load_checkpoint(tmp_path / "step-000001", make_state())


@pytest.mark.parametrize("step", range(3))
def test_a_kill_between_the_renames_loses_nothing(tmp_path: Path, monkeypatch, step):
    old = save(tmp_path, 1)
    document = (old / "state.json").read_bytes()
    renames = []
    original = Path.rename

    class Killed(BaseException):
        pass

    def rename(self, target):
        if len(renames) == step:
            raise Killed
        renames.append(target)
        return original(self, target)

    with monkeypatch.context() as patch:
        patch.setattr(Path, "rename", rename)
        # A kill runs no handlers, so none may tidy up here either.
        patch.setattr(checkpoint_folder.shutil, "rmtree", lambda *_, **__: None)
        if step < 2:
            with pytest.raises(Killed):
                save(tmp_path, 1, make_state())
        else:
            save(tmp_path, 1, make_state())
    tidy(tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["step-000001"]
    verify(tmp_path / "step-000001")
    if step < 2:
        assert (tmp_path / "step-000001" / "state.json").read_bytes() == document


def test_the_same_step_again_replaces(tmp_path: Path):
    save(tmp_path, 1)
    state = make_state()
    path = save(tmp_path, 1, state)
    other = make_state()
    load_checkpoint(path, other)
    ours = state.networks["generator"].state_dict()
    assert all(torch.equal(v, ours[k]) for k, v in other.networks["generator"].state_dict().items())
    assert len(list(tmp_path.iterdir())) == 1


def test_another_configuration_is_refused(tmp_path: Path):
    path = save(tmp_path, 1)
    with pytest.raises(CheckpointError, match=r"another configuration.*first is 0\.weight"):
        load_checkpoint(path, make_state(width=4))


FILES = ["generator.safetensors", "generator_optimizer.safetensors", "rng.safetensors"]


@pytest.mark.parametrize("name", FILES)
@pytest.mark.parametrize("damage", ["shorter", "flipped", "gone"])
def test_damage_is_seen_and_the_one_before_taken(tmp_path: Path, name, damage):
    older = save(tmp_path / "checkpoints", 1)
    newest = save(tmp_path / "checkpoints", 2)
    assert newest_sound(tmp_path) == (newest, [])
    file = newest / name
    content = bytearray(file.read_bytes())
    if damage == "shorter":
        file.write_bytes(content[:-1])
    elif damage == "flipped":
        content[-1] ^= 1
        file.write_bytes(content)
    else:
        file.unlink()
    with pytest.raises(CheckpointError, match=name):
        load_checkpoint(newest, make_state())
    found, problems = newest_sound(tmp_path)
    assert found == older
    assert name in problems[0]
    (older / "state.json").write_text("{")
    with pytest.raises(CheckpointError, match="every checkpoint"):
        newest_sound(tmp_path)


def test_weights_that_are_gone_are_said(tmp_path: Path):
    with pytest.raises(CheckpointError, match="cannot be read"):
        load_weights(tmp_path / "no.safetensors", nn.Linear(1, 1))


def entry(**more) -> str:
    return json.dumps({"format": 2, "values": {}, "optimizers": {}, "files": {}, **more})


@pytest.mark.parametrize(
    "text",
    [
        "{",
        "[]",
        '{"format": 99}',
        "[" * 100_000,
        entry(files={"../../secret": {"bytes": 1, "sha256": "0"}}),
        entry(files={"/etc/passwd": {"bytes": 1, "sha256": "0"}}),
        entry(files={"generator.safetensors": 3}),
        entry(values=[]),
        " " * (17 << 20),
    ],
    ids=["cut", "list", "format", "deep", "upwards", "absolute", "entry", "values", "huge"],
)
def test_a_broken_or_hostile_document_is_refused(tmp_path: Path, text):
    path = save(tmp_path, 1)
    (path / "state.json").write_text(text)
    with pytest.raises(CheckpointError, match=r"checkpoint|state\.json"):
        load_checkpoint(path, make_state())


@pytest.mark.parametrize(
    "change",
    [{"lr": "0.1"}, {"params": [0, 1, 2]}, {"betas": None}, {"params": "all"}, {"more": 1}],
    ids=str,
)
def test_hostile_optimiser_groups_are_refused(tmp_path: Path, change):
    path = save(tmp_path, 1)
    document = read_state(path)
    document["optimizers"]["generator_optimizer"][0].update(change)
    (path / "state.json").write_text(json.dumps(document))
    with pytest.raises(CheckpointError, match="generator optimizer"):
        load_checkpoint(path, make_state())


def test_a_pickle_in_the_place_of_weights_is_refused(tmp_path: Path):
    path = save(tmp_path, 1)
    torch.save(nn.Linear(2, 3).state_dict(), path / "generator.safetensors")
    with pytest.raises(CheckpointError, match="damaged"):
        load_checkpoint(path, make_state())
    with pytest.raises(CheckpointError, match="cannot be read"):
        load_weights(path / "generator.safetensors", nn.Linear(2, 3))


def test_random_states_of_another_kind_are_refused(tmp_path: Path):
    state = rng_state()
    for key in state:
        with pytest.raises(CheckpointError, match="random state"):
            set_rng_state({k: v for k, v in state.items() if k != key})
    with pytest.raises(CheckpointError, match="random state"):
        set_rng_state({**state, "torch": torch.zeros(3, dtype=torch.uint8)})


def test_finding(tmp_path: Path):
    with pytest.raises(CheckpointError, match="neither a checkpoint nor a run folder"):
        find_checkpoint(tmp_path)
    (tmp_path / "checkpoints" / ".step-000009.writing").mkdir(parents=True)
    with pytest.raises(CheckpointError):
        find_checkpoint(tmp_path)
    save(tmp_path / "checkpoints", 3)
    newest = save(tmp_path / "checkpoints", 20)
    assert find_checkpoint(tmp_path) == newest
    assert find_checkpoint(newest) == newest


def test_nothing_in_it_is_a_pickle(tmp_path: Path):
    for file in save(tmp_path, 1).iterdir():
        if file.suffix == ".safetensors":
            load_file(file)
        else:
            json.loads(file.read_text())
