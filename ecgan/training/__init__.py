"""Training: the loop, run folders, checkpoints, the small segmenter, and what a run has trained."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from ecgan.training.run import train
    from ecgan.training.segmenter import train_segmenter
    from ecgan.training.trained import load_generator
    from ecgan.training.trainer import Trainer

__all__ = ["Trainer", "load_generator", "train", "train_segmenter"]

_HOMES = {
    "Trainer": "trainer",
    "load_generator": "trained",
    "train": "run",
    "train_segmenter": "segmenter",
}


def __getattr__(name: str) -> object:
    # On demand: the command line reads settings long before it needs torch.
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from importlib import import_module

    value = getattr(import_module(f"{__name__}.{_HOMES[name]}"), name)
    globals()[name] = value
    return value
