"""A process group that does not meet the ghosts of an earlier attempt.

torchrun keeps one key-value store for a training and all its restarts, and torch gives its
processes no part of their own in it. The addresses that dead processes wrote there are still there
when their successors look for each other: who comes first reads the ghost's address instead of
waiting for its peer, and fails or hangs. Seen with torch 2.13 and gloo, whichever rank came late.
"""

from __future__ import annotations

import hashlib
import time
import uuid
from datetime import timedelta

import torch.distributed as dist


def join(backend: str, timeout: timedelta) -> None:
    """Makes the default process group of the processes that torchrun started together.

    Args:
        backend: ``gloo`` or ``nccl``.
        timeout: how long to wait for the others, here and in every collective.

    Raises:
        TimeoutError: another process did not come.
    """
    store, rank, count = next(iter(dist.rendezvous("env://", timeout=timeout)))
    part = dist.PrefixStore(agree(store, rank, count, timeout), store)
    dist.init_process_group(backend, store=part, rank=rank, world_size=count, timeout=timeout)


def agree(store: dist.Store, rank: int, count: int, timeout: timedelta) -> str:
    """A name that exactly the processes of this attempt share.

    Each writes a token drawn afresh, then what it reads of all tokens, until all have read the
    same. Nothing a ghost wrote can hold a fresh token, so what agrees was written by the living.
    torchrun's count of restarts would not do: nodes count for themselves.

    Args:
        store: one that may hold the keys of earlier attempts.
        rank: this process among them.
        count: how many they are.
        timeout: how long to wait for the others.

    Raises:
        TimeoutError: another process did not come.
    """
    tokens = [f"ecgan/token/{r}" for r in range(count)]
    seen = [f"ecgan/seen/{r}" for r in range(count)]
    store.set(tokens[rank], uuid.uuid4().hex)
    end = time.monotonic() + timeout.total_seconds()
    pause = 0.01
    while time.monotonic() < end:
        if store.check(tokens):
            ours = hashlib.sha256(b" ".join(store.multi_get(tokens))).hexdigest()
            store.set(seen[rank], ours)
            if store.check(seen) and {s.decode() for s in store.multi_get(seen)} == {ours}:
                return ours
        time.sleep(pause)
        pause = min(2 * pause, 0.5)
    raise TimeoutError(
        f"process {rank} of {count} waited {timeout.total_seconds():.0f} s for the others to start"
    )
