"""Processes that start again on the store of dead ones."""

from __future__ import annotations

import subprocess
import sys
import threading
import time
from datetime import timedelta

import pytest
import torch.distributed as dist

from ecgan.training import rendezvous


def attempt(store: dist.Store, count: int, late: int) -> list[str]:
    names: list[str] = [""] * count

    def join(rank: int) -> None:
        if rank == late:
            time.sleep(0.2)
        names[rank] = rendezvous.agree(store, rank, count, timedelta(seconds=20))

    threads = [threading.Thread(target=join, args=(rank,)) for rank in range(count)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return names


@pytest.mark.parametrize("late", range(3))
def test_attempts_on_one_store_agree_each_on_its_own_name(late):
    store = dist.HashStore()
    names = [attempt(store, 3, late) for _ in range(3)]
    for name in names:
        assert len(set(name)) == 1
        assert name[0]
    assert len({name[0] for name in names}) == 3


def test_who_waits_for_a_process_that_never_comes_says_so():
    store = dist.HashStore()
    attempt(store, 2, 0)
    with pytest.raises(TimeoutError, match="process 0 of 2 waited 1 s"):
        rendezvous.agree(store, 0, 2, timedelta(seconds=1))


# The first attempt and the second die; the process that comes late finds the others waiting.
SCRIPT = """
import os, time
import torch
from ecgan.training.processes import Processes
rank, attempt = int(os.environ["RANK"]), int(os.environ["TORCHELASTIC_RESTART_COUNT"])
if attempt and rank == {late}:
    time.sleep(2)
processes = Processes("cpu", timeout=30)
assert processes.mean(torch.tensor(float(rank))) == 0.5
if attempt < 2:
    if rank == 1:
        os.kill(os.getpid(), 9)
    time.sleep(60)
processes.close()
print("ended")
"""


@pytest.mark.slow
@pytest.mark.parametrize("late", [0, 1])
def test_restarted_processes_meet_each_other_and_not_the_dead(tmp_path, late):
    script = tmp_path / "script.py"
    script.write_text(SCRIPT.format(late=late))
    launcher = [sys.executable, "-m", "torch.distributed.run", "--standalone"]
    result = subprocess.run(
        [*launcher, "--nproc-per-node", "2", "--max-restarts", "2", str(script)],
        capture_output=True,
        text=True,
        timeout=200,
    )
    assert result.returncode == 0, result.stderr[-3000:]
    assert result.stdout.count("ended") == 2
