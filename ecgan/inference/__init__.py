"""Trained models in use: one object that makes images, its files, tiles, cards and exports."""

from ecgan.data.transforms import to_uint8
from ecgan.inference.model import ECGAN, Synthesized

__all__ = ["ECGAN", "Synthesized", "to_uint8"]
