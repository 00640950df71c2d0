"""Checkpoints: safetensors and JSON only, written beside their place and moved in at once.

A checkpoint is the folder ``step-000300`` with the networks' weights, the optimisers' moments, the
state of the random generators and ``state.json``. It appears under that name only when complete.
"""

from __future__ import annotations

import json
import os
import random
import re
import shutil
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from ecgan.errors import CheckpointError

_NAME = re.compile(r"step-(\d{6,})")
_FORMAT = 1


@dataclass
class TrainingState:
    """What a checkpoint holds besides the random generators."""

    networks: Mapping[str, nn.Module]
    """Modules by file name: generator, discriminator and perhaps encoder and contrast_queue."""
    optimizers: Mapping[str, torch.optim.Optimizer]
    """Optimisers by file name."""
    scaler: torch.amp.GradScaler | None = None
    """Loss scaling of fp16."""
    step: int = 0
    """Generator steps done."""
    files: Mapping[str, str] = field(default_factory=dict)
    """Further text files, such as config.yaml, that make the checkpoint stand alone."""


def save_checkpoint(folder: Path, state: TrainingState, *, keep: int) -> Path:
    """Writes ``folder/step-NNNNNN`` atomically, then drops all but the ``keep`` newest.

    Args:
        folder: the run's checkpoints folder.
        state: what to save.
        keep: checkpoints to keep, at least one.

    Returns:
        The new checkpoint's folder.
    """
    final = folder / f"step-{state.step:06d}"
    temporary = folder / f".{final.name}.writing"
    _remove(temporary)
    temporary.mkdir(parents=True)
    document: dict[str, Any] = {"format": _FORMAT, "step": state.step, "optimizers": {}}
    for name, network in state.networks.items():
        _save_tensors(network.state_dict(), temporary / f"{name}.safetensors")
    for name, optimizer in state.optimizers.items():
        tensors, groups = _split_optimizer(optimizer.state_dict())
        _save_tensors(tensors, temporary / f"{name}.safetensors")
        document["optimizers"][name] = groups
    tensors, document["rng"] = _rng_state()
    _save_tensors(tensors, temporary / "rng.safetensors")
    if state.scaler is not None:
        document["scaler"] = state.scaler.state_dict()
    for name, text in state.files.items():
        (temporary / name).write_text(text, encoding="utf-8")
    (temporary / "state.json").write_text(json.dumps(document, indent=1), encoding="utf-8")
    _sync(temporary)
    if final.exists():  # a resumed run that reaches the same step again
        _remove(final)
    temporary.rename(final)
    for old in list_checkpoints(folder)[: -max(1, keep)]:
        _remove(old)
    return final


def load_checkpoint(checkpoint: Path, state: TrainingState) -> int:
    """Puts a checkpoint into the networks, optimisers, scaler and random generators.

    Returns:
        The number of generator steps that it had done.

    Raises:
        CheckpointError: a file is missing or broken, or does not fit the networks.
    """
    document = read_state(checkpoint)
    for name, network in state.networks.items():
        load_weights(checkpoint / f"{name}.safetensors", network)
    for name, optimizer in state.optimizers.items():
        tensors = _load_tensors(checkpoint / f"{name}.safetensors")
        try:
            groups = document["optimizers"][name]
            optimizer.load_state_dict(_join_optimizer(tensors, groups))
        except (KeyError, ValueError) as error:
            raise CheckpointError(
                f"{checkpoint} does not fit this run's {name.replace('_', ' ')}: {error}"
            ) from None
    if state.scaler is not None and "scaler" in document:
        state.scaler.load_state_dict(document["scaler"])
    _set_rng_state(_load_tensors(checkpoint / "rng.safetensors"), document["rng"])
    return document["step"]


def load_weights(path: Path, network: nn.Module) -> None:
    """Loads a safetensors file into a network, strictly.

    Raises:
        CheckpointError: the file is missing, broken or made for another network.
    """
    tensors = _load_tensors(path)
    own = network.state_dict()
    wrong = sorted(own.keys() ^ tensors.keys()) or [
        key for key in own if own[key].shape != tensors[key].shape
    ]
    if wrong:
        raise CheckpointError(
            f"{path} was made for another configuration: {len(wrong)} of {len(own)} tensors do not "
            f"fit, the first is {wrong[0]}"
        )
    network.load_state_dict(tensors)


def read_state(checkpoint: Path) -> dict[str, Any]:
    """The document ``state.json`` of a checkpoint.

    Raises:
        CheckpointError: it is missing, broken or of another format.
    """
    try:
        document = json.loads((checkpoint / "state.json").read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise CheckpointError(f"{checkpoint} is no readable checkpoint: {error}") from None
    if not isinstance(document, dict) or document.get("format") != _FORMAT:
        raise CheckpointError(f"{checkpoint} is no checkpoint of format {_FORMAT}")
    return document


def list_checkpoints(folder: Path) -> list[Path]:
    """Complete checkpoints of a folder, oldest first."""
    if not folder.is_dir():
        return []
    found = [path for path in folder.iterdir() if path.is_dir() and _NAME.fullmatch(path.name)]
    return sorted(found, key=lambda path: int(path.name.removeprefix("step-")))


def find_checkpoint(path: Path) -> Path:
    """The checkpoint that a user means: the folder itself, or the newest of a run folder.

    Raises:
        CheckpointError: there is none.
    """
    if (path / "state.json").is_file():
        return path
    found = list_checkpoints(path / "checkpoints") or list_checkpoints(path)
    if not found:
        raise CheckpointError(f"{path} is neither a checkpoint nor a run folder that holds one")
    return found[-1]


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


def _rng_state() -> tuple[dict[str, Tensor], dict[str, Any]]:
    tensors = {"torch": torch.get_rng_state()}
    if torch.cuda.is_available():
        tensors |= {f"cuda.{i}": s for i, s in enumerate(torch.cuda.get_rng_state_all())}
    numpy = np.random.get_state(legacy=False)
    assert isinstance(numpy, dict)
    tensors["numpy"] = torch.from_numpy(numpy["state"]["key"].astype(np.int64))
    return tensors, {
        "python": random.getstate(),
        "numpy": {k: v for k, v in numpy.items() if k != "state"} | {"pos": numpy["state"]["pos"]},
    }


def _set_rng_state(tensors: dict[str, Tensor], document: dict[str, Any]) -> None:
    torch.set_rng_state(tensors["torch"])
    if torch.cuda.is_available():
        cuda = [tensors[key] for key in sorted(tensors) if key.startswith("cuda.")]
        if len(cuda) == torch.cuda.device_count():
            torch.cuda.set_rng_state_all(cuda)
    version, internal, gauss = document["python"]
    random.setstate((version, tuple(internal), gauss))
    numpy = dict(document["numpy"])
    key = tensors["numpy"].numpy().astype(np.uint32)
    np.random.set_state(numpy | {"state": {"key": key, "pos": numpy.pop("pos")}})


def _save_tensors(tensors: Mapping[str, Tensor], path: Path) -> None:
    # Copies: safetensors refuses tensors that share memory.
    save_file({k: t.detach().to("cpu", copy=True).contiguous() for k, t in tensors.items()}, path)


def _load_tensors(path: Path) -> dict[str, Tensor]:
    try:
        return load_file(path)
    except (OSError, SafetensorError) as error:
        raise CheckpointError(f"weights file {path} cannot be read: {error}") from None


def _sync(folder: Path) -> None:
    for path in _with_folder(folder):
        descriptor = os.open(path, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


def _with_folder(folder: Path) -> Iterable[Path]:
    yield from folder.iterdir()
    yield folder


def _remove(folder: Path) -> None:
    if folder.exists():
        # Renamed first, so that a kill while deleting leaves no half checkpoint under its name.
        doomed = folder.with_name(f".{folder.name.lstrip('.')}.deleting")
        shutil.rmtree(doomed, ignore_errors=True)
        folder.rename(doomed)
        shutil.rmtree(doomed)
