"""Published generator checkpoints of SPADE and OASIS as baselines."""

from ecgan.models.importers.baselines import (
    BaselineImage,
    OASISBaseline,
    SPADEBaseline,
    load_oasis,
    load_spade,
)
from ecgan.models.importers.state import LabelOrder

__all__ = [
    "BaselineImage",
    "LabelOrder",
    "OASISBaseline",
    "SPADEBaseline",
    "load_oasis",
    "load_spade",
]
