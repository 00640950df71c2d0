"""Batches from data-loading processes, and what those must not do to a training."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from typing import Any

from torch.utils.data import DataLoader

from ecgan.errors import DataError


def batches_of(loader: DataLoader[dict[str, Any]]) -> Iterator[dict[str, Any]]:
    """The loader's batches.

    Raises:
        DataError: a pair cannot be used; the sentence alone, where a data-loading process would
            send its whole traceback.
    """
    try:
        yield from loader
    except DataError as error:
        raise DataError(str(error).rpartition("DataError: ")[2].strip()) from None


def leave_signals_to_main(worker: int) -> None:
    """Start of a data-loading process: requests to stop reach the training process alone.

    A scheduler and a terminal send their signals to every process of the job; a worker that died of
    one would take the training with it before it could save. Workers end with their parent anyway.
    """
    for name in ("SIGTERM", "SIGUSR1", "SIGINT"):
        number = getattr(signal, name, None)
        if number is not None:
            signal.signal(number, signal.SIG_IGN)
