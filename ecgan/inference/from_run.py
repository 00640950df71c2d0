"""A model from a run folder or checkpoint, with what the run knows of itself."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ecgan.config import TrainConfig
from ecgan.models.pretrained import file_sha256
from ecgan.training.checkpoint import read_state
from ecgan.training.checkpoint_folder import generator_weights
from ecgan.training.trained import load_trained

if TYPE_CHECKING:
    from ecgan.inference.model import ECGAN


def load_run(kind: type[ECGAN], path: Path) -> ECGAN:
    """The model of a checkpoint or of a run folder's newest one.

    Raises:
        CheckpointError: there is none, or it is broken.
    """
    found = load_trained(path)
    known = describe(found.checkpoint, found.cfg)
    return kind.from_networks(found.generator, found.image_encoder, found.classes, known)


def describe(checkpoint: Path, cfg: TrainConfig) -> dict[str, Any]:
    """What the model card tells of a checkpoint: data, settings, metrics and environment.

    The names of folders on this machine are left out, but for the last part of the data's.
    """
    folder = checkpoint.resolve().parent
    folder = folder.parent if folder.name == "checkpoints" else folder
    values = read_state(checkpoint)["values"]
    environment = _read_object(folder / "environment.json")
    return {
        "data": _data_name(cfg),
        "training": {
            "preset": cfg.preset,
            "size": cfg.size,
            "steps": values.get("step", 0),
            "images seen": values.get("samples", 0),
            "batch size": cfg.batch_size,
            "precision": cfg.precision,
            "seed": cfg.seed,
            "spectral normalisation": cfg.model.spectral,
            "weights": "moving average"
            if generator_weights(checkpoint).stem.endswith("ema")
            else "of the last step",
        },
        "environment": {
            key: environment[key]
            for key in ("ecgan", "python", "platform", "device", "packages")
            if key in environment
        },
        "evaluation": _evaluation(folder, checkpoint),
    }


def _data_name(cfg: TrainConfig) -> str:
    return cfg.data if cfg.data == "scenes" else Path(cfg.data).name


def _evaluation(folder: Path, checkpoint: Path) -> dict[str, Any]:
    """The numbers of these very weights in the run's evaluation.json, with their protocol."""
    evaluation = _read_object(folder / "evaluation.json")
    systems = [s for s in evaluation.get("systems", []) if isinstance(s, dict)]
    weights = file_sha256(generator_weights(checkpoint)) if systems else ""
    for system in systems:
        if system.get("weights") == weights:
            return {
                "numbers": [
                    {
                        "name": number.get("name"),
                        "value": number.get("value"),
                        "unit": number.get("unit"),
                        "protocol": {k: _public(v) for k, v in number.get("protocol", {}).items()},
                    }
                    for number in system.get("numbers", [])
                ],
                "remarks": evaluation.get("remarks", []),
            }
    return {}


def _public(value: object) -> object:
    """A path on this machine without its folders, anything else as it is."""
    is_path = isinstance(value, str) and " " not in value and Path(value).is_absolute()
    return Path(str(value)).name if is_path else value


def _read_object(path: Path) -> dict[str, Any]:
    """A JSON object; empty where there is none that can be read."""
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError):
        return {}
    return found if isinstance(found, dict) else {}
