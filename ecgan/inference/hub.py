"""Reading of a model's folder or hub repository: checked settings and safetensors, no pickles."""

from __future__ import annotations

import contextlib
import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from huggingface_hub import hf_hub_download
from torch import nn

from ecgan.config import ModelConfig
from ecgan.data.classes import ClassTable
from ecgan.errors import CheckpointError, ConfigError, ECGANError, WeightsError
from ecgan.training import checkpoint
from ecgan.training.settings import compose

_WEIGHTS = "model.safetensors"
_LARGEST_CONFIG = 16 << 20


@contextlib.contextmanager
def one_sentence(source: object) -> Iterator[None]:
    """Turns what huggingface_hub and damaged files raise into a WeightsError."""
    try:
        yield
    except ECGANError:
        raise
    except (OSError, ValueError, RecursionError) as error:
        reason = str(error).strip().partition("\n")[0] or type(error).__name__
        raise WeightsError(
            f"no model can be loaded from {str(source)!r}: expected a run, a checkpoint, a folder "
            f"of save_pretrained or a hub id ({reason})"
        ) from error


def check_source(source: str) -> None:
    """Refuses a path where nothing is before the hub is asked for it, which retries for long.

    Raises:
        WeightsError: the source is no folder and cannot be a repository's name.
    """
    path = Path(source)
    named = re.fullmatch(r"[\w.-]+/[\w.-]+", source) and not source.startswith(".")
    beside = path.parent != Path(".") and path.parent.is_dir()
    if not path.is_dir() and (beside or path.exists() or not named):
        raise WeightsError(
            f"{source} is neither a checkpoint, a run folder, a folder of save_pretrained nor "
            "USER/NAME on the hub"
        )


def check_config(path: Path) -> None:
    """Refuses a config.json, if there is one, that is no JSON object: the mixin takes it for one.

    Raises:
        ValueError: it is none, or is far too large.
    """
    if not path.is_file():
        return
    if path.stat().st_size > _LARGEST_CONFIG:
        raise ValueError(f"config.json has more than {_LARGEST_CONFIG} bytes")
    if not isinstance(json.loads(path.read_text(encoding="utf-8")), dict):
        raise ValueError("config.json is no JSON object")


def read_settings(model: Any, classes: Any, source: str) -> tuple[ModelConfig, ClassTable]:
    """The parts of config.json that say what to build.

    Raises:
        WeightsError: they are missing, or not of the kind that :meth:`ECGAN.save_pretrained`
            writes.
    """
    try:
        if not isinstance(model, dict):
            raise ValueError("it has no model settings")
        return compose([model], ModelConfig), ClassTable.from_values(classes)
    except (ConfigError, ValueError) as error:
        raise WeightsError(f"config.json of {source} cannot be used: {error}") from None


def weights_file(source: str, options: dict[str, Any]) -> Path:
    """The safetensors file of a folder, or of a hub repository, which is downloaded."""
    if Path(source).is_dir():
        return Path(source) / _WEIGHTS
    return Path(hf_hub_download(source, _WEIGHTS, **options))


def check_weights(path: Path, network: nn.Module) -> None:
    """Compares the file's header with a network, which may be on the meta device.

    Raises:
        WeightsError: the file is missing, broken or made for another network.
    """
    with _as_weights_error():
        checkpoint.check_weights(path, network)


def load_weights(path: Path, network: nn.Module) -> None:
    """Loads the file, strictly; raises as :func:`check_weights`."""
    with _as_weights_error():
        checkpoint.load_weights(path, network)


@contextlib.contextmanager
def _as_weights_error() -> Iterator[None]:
    try:
        yield
    except CheckpointError as error:
        raise WeightsError(str(error)) from None
