"""The networks of a trained run, as others than the trainer want them."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

import torch

from ecgan.config import TrainConfig
from ecgan.data.classes import ClassTable
from ecgan.models import Generator, ImageEncoder
from ecgan.training.build import read_classes
from ecgan.training.checkpoint import check_weights, load_weights
from ecgan.training.checkpoint_folder import find_checkpoint, generator_weights
from ecgan.training.settings import load_config

Network = TypeVar("Network", Generator, ImageEncoder)


@dataclass
class Trained:
    """What a checkpoint holds for use, in evaluation mode, on the CPU."""

    checkpoint: Path
    cfg: TrainConfig
    classes: ClassTable
    generator: Generator
    """The moving average of the weights, where the run kept one."""
    image_encoder: ImageEncoder | None
    """Of ``style: encoder``."""


def load_trained(path: Path) -> Trained:
    """Loads a checkpoint, or a run folder's newest one.

    Raises:
        CheckpointError: there is none, or it is broken.
    """
    checkpoint = find_checkpoint(path)
    cfg = load_config(checkpoint / "config.yaml")
    classes = read_classes(checkpoint / "classes.json")
    generator = _load(Generator, cfg, generator_weights(checkpoint))
    encoder = None
    if cfg.model.style == "encoder":
        encoder = _load(ImageEncoder, cfg, checkpoint / "encoder.safetensors")
    return Trained(checkpoint, cfg, classes, generator, encoder)


def load_generator(path: Path, device: torch.device) -> tuple[Generator, ClassTable]:
    """The generator alone, on a device, and its classes; see :func:`load_trained`."""
    found = load_trained(path)
    return found.generator.to(device), found.classes


def _load(kind: type[Network], cfg: TrainConfig, weights: Path) -> Network:
    with torch.device("meta"):  # a hostile configuration may ask for any amount of memory
        check_weights(weights, kind(cfg.model))
    network = kind(cfg.model)
    load_weights(weights, network)
    return network.eval()
