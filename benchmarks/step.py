"""The whole training step of B6, ours against eager: `pytest benchmarks/step.py`.

256x256, N = 183, batch 1, the paper's networks. Each candidate runs in child processes of its own,
in turn with the others; a child builds the networks, takes one step to warm up and times the rest.
torch.compile is left out: Inductor needs longer for these networks than all else takes.
"""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from benchmarks.b6 import CANDIDATES, measure
from benchmarks.common import DEVICE, QUICK, Recorder

SIZE, CLASSES = (64, 5) if QUICK else (256, 183)
# Children, and steps that each one times: on a GPU starting one takes as long as many steps.
ROUNDS, STEPS = (1, 1) if QUICK else (2, 1) if DEVICE.type == "cpu" else (1, 10)


@pytest.fixture(scope="module")
def recorder() -> Iterator[Recorder]:
    recorder = Recorder("step")
    yield recorder
    recorder.write()


@pytest.mark.timeout(3600)
def test_step_of_b6(recorder):
    found: dict[str, list[dict]] = {name: [] for name in CANDIDATES}
    for _ in range(ROUNDS):
        for name, runs in found.items():
            measured = measure(name, SIZE, CLASSES, steps=STEPS)
            assert measured is not None, f"{name} does not fit into this machine's memory"
            runs.append(measured)
    recorder.add(
        {name: [s for run in runs for s in run["seconds"]] for name, runs in found.items()},
        {name: max(run["peak_bytes"] for run in runs) for name, runs in found.items()},
        None,
        SIZE * SIZE,
        case={"size": SIZE, "classes": CLASSES, "batch": 1},
    )
