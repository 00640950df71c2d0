"""Order in which training pairs are drawn: a function of the seed and the position alone."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch.utils.data import Sampler


class StepSampler(Sampler[list[int]]):
    """Batches of data set indices, shuffled anew each epoch, that can start anywhere.

    The training stream is the concatenation of one permutation per epoch. Sample ``k`` of the
    stream is pair ``permutation(k // length)[k % length]``; batch ``t`` of ``world`` processes
    takes samples ``start + t * batch_size * world`` onwards and each process its own share of them.
    So no sampler state has to be saved: the number of samples drawn says where to go on, on any
    number of processes and with any batch size, and no pair is dropped at the end of an epoch.

    What is yielded is ``epoch * length + index``, from which the data set derives the augmentation.

    Args:
        length: number of pairs of the data set.
        batch_size: pairs per batch and process.
        batches: number of batches to yield.
        seed: seed of the permutations.
        start: samples of the stream to pass over.
        rank: this process.
        world: number of processes.
    """

    def __init__(
        self,
        length: int,
        batch_size: int,
        batches: int,
        *,
        seed: int,
        start: int = 0,
        rank: int = 0,
        world: int = 1,
    ) -> None:
        self.length = length
        self.batch_size = batch_size
        self.batches = batches
        self.seed = seed
        self.start = start
        self.rank = rank
        self.world = world

    def __len__(self) -> int:
        return self.batches

    def __iter__(self) -> Iterator[list[int]]:
        epoch, permutation = -1, []
        for number in range(self.batches):
            first = self.start + (number * self.world + self.rank) * self.batch_size
            batch = []
            for sample in range(first, first + self.batch_size):
                if sample // self.length != epoch:
                    epoch = sample // self.length
                    permutation = self._permutation(epoch)
                batch.append(epoch * self.length + permutation[sample % self.length])
            yield batch

    def _permutation(self, epoch: int) -> list[int]:
        # A large odd factor keeps (seed, epoch) pairs of neighbouring seeds apart.
        generator = torch.Generator().manual_seed(self.seed * 1_000_003 + epoch)
        return torch.randperm(self.length, generator=generator).tolist()
