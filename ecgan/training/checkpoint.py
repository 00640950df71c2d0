"""Checkpoints: safetensors and JSON only, written beside their place and moved in at once.

A checkpoint is the folder ``step-000300`` with the networks' weights, the optimisers' moments, the
state of the random generators of all processes and ``state.json``, which also holds the size and
the SHA-256 of every other file. It appears under that name only when complete and on the disk, so
whatever happens while one is written, those before it stay as they were.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from ecgan.errors import CheckpointError
from ecgan.models.pretrained import file_sha256
from ecgan.training.checkpoint_folder import list_checkpoints, place
from ecgan.training.rng import set_rng_state

_FORMAT = 2
_LARGEST_DOCUMENT = 16 << 20
"""Bytes of a state.json that is read; a real one has some kilobytes."""


@dataclass
class TrainingState:
    """What a checkpoint holds."""

    networks: Mapping[str, nn.Module]
    """Modules by file name: generator, discriminator and perhaps generator_ema, encoder and
    contrast_queue."""
    optimizers: Mapping[str, torch.optim.Optimizer]
    """Optimisers by file name."""
    rng: Sequence[Mapping[str, Tensor]]
    """States of the random generators of each process; read from here only to be saved."""
    rank: int = 0
    """This process, whose random generators loading puts back."""
    values: dict[str, Any] = field(default_factory=dict)
    """Everything else, as JSON has it: steps and samples done, loss scales, counts."""
    files: Mapping[str, str] = field(default_factory=dict)
    """Further text files, such as config.yaml, that make the checkpoint stand alone."""


def save_checkpoint(folder: Path, state: TrainingState, step: int) -> Path:
    """Writes ``folder/step-NNNNNN``; it appears at once, when it is complete and on the disk.

    Args:
        folder: the run's checkpoints folder.
        state: what to save.
        step: generator steps done.

    Returns:
        The new checkpoint's folder.

    Raises:
        OSError: the disk is full, read-only or gone. Nothing is left of the attempt and the
            checkpoints that were there are untouched.
    """
    final = folder / f"step-{step:06d}"
    with place(final) as temporary:
        document: dict[str, Any] = {"format": _FORMAT, "values": state.values, "optimizers": {}}
        for name, network in state.networks.items():
            _save_tensors(network.state_dict(), temporary / f"{name}.safetensors")
        for name, optimizer in state.optimizers.items():
            tensors, groups = _split_optimizer(optimizer.state_dict())
            _save_tensors(tensors, temporary / f"{name}.safetensors")
            document["optimizers"][name] = groups
        rng = {f"{rank}.{k}": v for rank, own in enumerate(state.rng) for k, v in own.items()}
        _save_tensors(rng, temporary / "rng.safetensors")
        for name, text in state.files.items():
            (temporary / name).write_text(text, encoding="utf-8")
        document["files"] = {
            path.name: {"bytes": path.stat().st_size, "sha256": file_sha256(path)}
            for path in sorted(temporary.iterdir())
        }
        (temporary / "state.json").write_text(json.dumps(document, indent=1), encoding="utf-8")
    return final


def load_checkpoint(checkpoint: Path, state: TrainingState) -> None:
    """Puts a checkpoint into networks, optimisers, this process's random generators and values.

    Random generators of a process that the checkpoint does not know stay as they are.

    Raises:
        CheckpointError: a file is missing or damaged, or does not fit the networks.
    """
    document = verify(checkpoint)
    for name, network in state.networks.items():
        load_weights(checkpoint / f"{name}.safetensors", network)
    for name, optimizer in state.optimizers.items():
        tensors = _load_tensors(checkpoint / f"{name}.safetensors")
        try:
            groups = _checked_groups(optimizer, document["optimizers"][name])
            optimizer.load_state_dict(_join_optimizer(tensors, groups))
        except (KeyError, ValueError, TypeError, IndexError, AttributeError) as error:
            raise CheckpointError(
                f"{checkpoint} does not fit this run's {name.replace('_', ' ')}: {error}"
            ) from None
    prefix = f"{state.rank}."
    rng = _load_tensors(checkpoint / "rng.safetensors")
    own = {key.removeprefix(prefix): v for key, v in rng.items() if key.startswith(prefix)}
    if own:
        try:
            set_rng_state(own)
        except CheckpointError as error:
            raise CheckpointError(f"{checkpoint}: {error}") from None
    state.values.clear()
    state.values.update(document["values"])


def newest_sound(run: Path) -> tuple[Path | None, list[str]]:
    """The newest undamaged checkpoint of a run folder, and what is wrong with newer ones.

    Returns:
        None where the run has not come to its first checkpoint.

    Raises:
        CheckpointError: there are checkpoints and all are damaged.
    """
    found = list_checkpoints(run / "checkpoints")
    problems: list[str] = []
    for checkpoint in reversed(found):
        try:
            verify(checkpoint)
            return checkpoint, problems
        except CheckpointError as error:
            problems.append(str(error))
    if found:
        raise CheckpointError(f"every checkpoint of {run} is damaged: {problems[0]}")
    return None, problems


def verify(checkpoint: Path) -> dict[str, Any]:
    """Checks that every file of a checkpoint is what was written.

    Returns:
        The document ``state.json``.

    Raises:
        CheckpointError: a file is missing, damaged or of another format.
    """
    document = read_state(checkpoint)
    for name, expected in document["files"].items():
        path = checkpoint / name
        try:
            size = path.stat().st_size
            if size != expected["bytes"]:
                raise CheckpointError(
                    f"checkpoint file {path} is damaged: it has {size} bytes, expected "
                    f"{expected['bytes']}"
                )
            if file_sha256(path) != expected["sha256"]:
                raise CheckpointError(f"checkpoint file {path} is damaged: its SHA-256 differs")
        except OSError as error:
            raise CheckpointError(
                f"checkpoint file {path} cannot be read: {error.strerror or error}"
            ) from None
    return document


def read_state(checkpoint: Path) -> dict[str, Any]:
    """The document ``state.json`` of a checkpoint.

    Raises:
        CheckpointError: it is missing, broken or of another format.
    """
    path = checkpoint / "state.json"
    try:
        if path.stat().st_size > _LARGEST_DOCUMENT:
            raise CheckpointError(
                f"{path} has {path.stat().st_size} bytes: expected at most {_LARGEST_DOCUMENT}"
            )
        document = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise CheckpointError(f"{checkpoint} is no readable checkpoint: {error}") from None
    if not isinstance(document, dict) or document.get("format") != _FORMAT:
        raise CheckpointError(f"{checkpoint} is no checkpoint of format {_FORMAT}")
    parts = [document.get(key) for key in ("values", "optimizers", "files")]
    if not all(isinstance(part, dict) for part in parts) or not all(
        # A name with a folder in it would reach outside.
        name == Path(name).name and isinstance(entry, dict) and entry.keys() >= {"bytes", "sha256"}
        for name, entry in document["files"].items()
    ):
        raise CheckpointError(f"{path} is broken: expected values, optimizers and files by name")
    return document


def load_weights(path: Path, network: nn.Module) -> None:
    """Loads a safetensors file into a network, strictly.

    Raises:
        CheckpointError: the file is missing, broken or made for another network.
    """
    check_weights(path, network)
    network.load_state_dict(_load_tensors(path))


def check_weights(path: Path, network: nn.Module) -> None:
    """Compares the header of a safetensors file with a network, which may be on the meta device.

    Raises:
        CheckpointError: the file is missing, broken or made for another network.
    """
    try:
        with safe_open(path, framework="pt") as file:
            shapes = {key: tuple(file.get_slice(key).get_shape()) for key in file.keys()}  # noqa: SIM118
    except (OSError, SafetensorError) as error:
        raise CheckpointError(f"weights file {path} cannot be read: {error}") from None
    own = {key: tuple(value.shape) for key, value in network.state_dict().items()}
    wrong = sorted(own.keys() ^ shapes.keys()) or [k for k in own if own[k] != shapes[k]]
    if wrong:
        raise CheckpointError(
            f"{path} was made for another configuration: {len(wrong)} of {len(own)} tensors do not "
            f"fit, the first is {wrong[0]}"
        )


def _split_optimizer(state: dict[str, Any]) -> tuple[dict[str, Tensor], list[dict[str, Any]]]:
    tensors = {
        f"{index}.{key}": torch.as_tensor(value)
        for index, values in state["state"].items()
        for key, value in values.items()
    }
    return tensors, state["param_groups"]


def _join_optimizer(tensors: dict[str, Tensor], groups: list[dict[str, Any]]) -> dict[str, Any]:
    state: dict[int, dict[str, Tensor]] = {}
    for name, tensor in tensors.items():
        index, key = name.split(".", 1)
        state.setdefault(int(index), {})[key] = tensor
    return {"state": state, "param_groups": groups}


def _checked_groups(optimizer: torch.optim.Optimizer, groups: Any) -> list[dict[str, Any]]:
    """Groups as a file gives them, if they are of the kind that the optimiser has.

    Raises:
        ValueError: they are not.
    """
    own = optimizer.state_dict()["param_groups"]
    if not isinstance(groups, list) or [list(g) for g in groups] != [list(g) for g in own]:
        raise ValueError("its parameter groups differ")
    for theirs, ours in zip(groups, own, strict=True):
        for key, value in ours.items():
            numbers = isinstance(value, float) and isinstance(theirs[key], int)
            same = isinstance(theirs[key], list if isinstance(value, tuple) else type(value))
            if not numbers and not same:
                raise ValueError(f"{key} is {theirs[key]!r}")
    return groups


def _save_tensors(tensors: Mapping[str, Tensor], path: Path) -> None:
    # Copies: safetensors refuses tensors that share memory.
    copies = {k: t.detach().to("cpu", copy=True).contiguous() for k, t in tensors.items()}
    try:
        save_file(copies, path)
    except SafetensorError as error:  # how it tells of a full disk
        raise OSError(f"{path} cannot be written: {error}") from None


def _load_tensors(path: Path) -> dict[str, Tensor]:
    try:
        return load_file(path)
    except (OSError, SafetensorError) as error:
        raise CheckpointError(f"weights file {path} cannot be read: {error}") from None
