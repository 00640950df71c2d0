"""ECGAN: edge guided GANs with contrastive learning for semantic image synthesis."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from ecgan.inference import ECGAN, Synthesized, to_uint8

__version__ = "0.2.0"
__all__ = ["ECGAN", "Synthesized", "__version__", "to_uint8"]


def __getattr__(name: str) -> object:
    # On demand: the command line imports this package long before it needs torch.
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from ecgan import inference

    return getattr(inference, name)
