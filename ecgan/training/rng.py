"""State of every random generator that training draws from, as tensors."""

from __future__ import annotations

import random
from collections.abc import Mapping

import numpy as np
import torch
from torch import Tensor

from ecgan.errors import CheckpointError


def rng_state() -> dict[str, Tensor]:
    """State of this process's generators: torch's, this device's, numpy's and Python's."""
    state = {"torch": torch.get_rng_state()}
    if torch.cuda.is_available():
        state["cuda"] = torch.cuda.get_rng_state()
    numpy = np.random.get_state(legacy=False)
    assert isinstance(numpy, dict)
    state["numpy.key"] = torch.from_numpy(numpy["state"]["key"].astype(np.int64))
    state["numpy.more"] = torch.tensor(
        [numpy["state"]["pos"], numpy["has_gauss"], numpy["gauss"]], dtype=torch.float64
    )
    version, internal, gauss = random.getstate()
    state["python.state"] = torch.tensor([version, *internal], dtype=torch.int64)
    state["python.gauss"] = torch.tensor([] if gauss is None else [gauss], dtype=torch.float64)
    return state


def set_rng_state(state: Mapping[str, Tensor]) -> None:
    """Puts back what :func:`rng_state` gave.

    Raises:
        CheckpointError: it is no such state.
    """
    try:
        torch.set_rng_state(state["torch"])
        if torch.cuda.is_available() and "cuda" in state:
            torch.cuda.set_rng_state(state["cuda"])
        position, has_gauss, gauss = state["numpy.more"].tolist()
        np.random.set_state(
            (
                "MT19937",
                state["numpy.key"].numpy().astype(np.uint32),
                int(position),
                int(has_gauss),
                gauss,
            )
        )
        version, *internal = state["python.state"].tolist()
        normal = state["python.gauss"].tolist()
        random.setstate((version, tuple(internal), normal[0] if normal else None))
    except (KeyError, ValueError, TypeError, RuntimeError, OverflowError) as error:
        raise CheckpointError(f"its random state cannot be used: {error}") from None
