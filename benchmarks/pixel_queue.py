"""PixelQueue.enqueue against a loop over classes: `pytest benchmarks/pixel_queue.py`.

P embeddings of D = 256 numbers go into the ring buffers of N = 183 classes. Eager is the loop of
published pixel queues. The floor is reading the embeddings and writing them.
"""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch
import torch.nn.functional as F
from ecgan_kernels import PixelQueue
from torch import Tensor

from benchmarks.common import DEVICE, Recorder, compare, sweep

CLASSES, DIM, MEGABYTES = 183, 256, 64


@pytest.fixture(scope="module")
def recorder() -> Iterator[Recorder]:
    recorder = Recorder("pixel_queue")
    yield recorder
    recorder.write()


class Loop:
    """One ring buffer a class, written class by class."""

    def __init__(self, capacity: int) -> None:
        self.buffers = torch.zeros(CLASSES, capacity, DIM, device=DEVICE)
        self.cursors = [0] * CLASSES

    def enqueue(self, embeddings: Tensor, labels: Tensor) -> None:
        embeddings = F.normalize(embeddings, dim=1)
        capacity = self.buffers.shape[1]
        for c in labels.unique().tolist():
            rows = embeddings[labels == c][-capacity:]
            places = (self.cursors[c] + torch.arange(len(rows), device=DEVICE)) % capacity
            self.buffers[c, places] = rows
            self.cursors[c] = (self.cursors[c] + len(rows)) % capacity


@pytest.mark.parametrize("pixels", sweep([512, 1024, 2048, 4096, 8192]))
def test_enqueue(pixels, benchmark, recorder):
    torch.manual_seed(0)
    embeddings = torch.randn(pixels, DIM, device=DEVICE)
    labels = torch.randint(0, CLASSES, (pixels,), device=DEVICE)
    queue = PixelQueue(CLASSES, DIM, megabytes=MEGABYTES).to(DEVICE)
    loop = Loop(queue.capacity)

    loop.enqueue(embeddings, labels)
    queue.enqueue(embeddings, labels)
    held = queue.embeddings[:-1].double().sum(0)
    torch.testing.assert_close(held, loop.buffers.double().sum((0, 1)), rtol=1e-5, atol=1e-4)

    def enqueue(target) -> Tensor:
        target.enqueue(embeddings, labels)
        return embeddings

    compare(
        benchmark,
        recorder,
        {"eager": lambda: enqueue(loop), "torch": lambda: enqueue(queue)},
        (),
        None,
        ours="torch",
        elements=pixels,
        floor=2 * embeddings.nbytes / recorder.bandwidth,
        direction="forward",
        case={"classes": CLASSES, "dim": DIM, "capacity": queue.capacity},
    )
