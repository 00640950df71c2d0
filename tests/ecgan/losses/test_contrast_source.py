"""Contrast with other processes' layouts and with past ones."""

import os
from pathlib import Path

import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as multiprocessing
from ecgan_kernels import PixelQueue, pixel_contrast
from torch import nn

from ecgan.losses import contrast_loss

VOID, C, D = 3, 6, 5


def joined_batch(size: int) -> tuple[torch.Tensor, torch.Tensor, nn.Linear]:
    torch.manual_seed(0)
    features, labels = torch.randn(size, C, 5, 6), torch.randint(0, VOID + 1, (size, 5, 6))
    labels[0, 1:] = VOID  # fewer pixels than elsewhere
    if size == 3:
        labels[1] = VOID  # a process that samples nothing
    return features, labels, nn.Linear(C, D)


def loss_of(features, labels, projection, **more):
    return contrast_loss(
        features, labels, projection, ignore_index=VOID, temperature=0.5, budget=400, **more
    )


def process(rank: int, world: int, layouts: int, folder: str) -> None:
    os.environ |= {"MASTER_ADDR": "127.0.0.1"}
    torch.set_num_threads(1)
    dist.init_process_group("gloo", f"file://{folder}/store", rank=rank, world_size=world)
    features, labels, projection = joined_batch(world)
    queue = PixelQueue(VOID, D, megabytes=0.001)
    own = slice(rank, rank + 1)
    mine = features[own].clone().requires_grad_()
    loss = loss_of(mine, labels[own], projection, across_ranks=True, layouts=layouts)
    loss.backward()
    loss_of(mine.detach(), labels[own], projection, queue=queue)
    torch.save(
        {
            "loss": loss.detach(),
            "features": mine.grad,
            "weight": projection.weight.grad,
            "queue": queue.state_dict(),
        },
        f"{folder}/{rank}.pt",
    )
    dist.destroy_process_group()


def run(world: int, layouts: int, folder: Path) -> list[dict]:
    multiprocessing.spawn(process, (world, layouts, str(folder)), nprocs=world)
    return [torch.load(folder / f"{rank}.pt") for rank in range(world)]


# Two processes as one group; three as groups of two and one.
@pytest.mark.parametrize(("world", "layouts"), [(2, 8), (3, 2)])
def test_processes_average_to_the_joined_batch(world, layouts, tmp_path):
    found = run(world, layouts, tmp_path)
    features, labels, projection = joined_batch(world)
    features.requires_grad_()
    # The groups that one process makes of the joined batch: 2 and 1, or all.
    loss = loss_of(features, labels, projection, layouts=layouts)
    loss.backward()
    groups = -(-world // layouts)
    losses = torch.stack([result["loss"] for result in found])
    weights = torch.tensor([1 / 2, 1 / 2, 1.0] if groups == 2 else [1.0] * world)
    torch.testing.assert_close((losses * weights).sum() / weights.sum(), loss.detach())
    averaged = sum(result["weight"] for result in found) / world
    torch.testing.assert_close(averaged, projection.weight.grad)
    own = torch.cat([result["features"] for result in found]) / world
    torch.testing.assert_close(own, features.grad)
    touched = own.abs().sum((1, 2, 3)) > 0
    assert touched.tolist() == [True, world == 2, *[True] * (world - 2)]


def test_the_queues_of_all_processes_stay_equal(tmp_path):
    first, second = (result["queue"] for result in run(2, 8, tmp_path))
    assert first["counts"].sum() > 0
    for name in ("counts", "cursors"):
        assert torch.equal(first[name], second[name])
    held = slice(0, -1)  # without the scratch row
    assert torch.equal(first["embeddings"][held], second["embeddings"][held])


def test_the_queue_holds_past_layouts_and_counts_half():
    features, labels, projection = joined_batch(4)
    queue = PixelQueue(VOID, D, megabytes=1)
    now, past = (features[2:], labels[2:]), (features[:2], labels[:2])
    with torch.no_grad():
        empty = loss_of(*past, projection, queue=queue, queue_update=100)
        alone = loss_of(*past, projection)
    torch.testing.assert_close(empty, alone / 2)  # an empty queue gives no pairs

    def embedded(part):
        rows = part[0].permute(0, 2, 3, 1).flatten(0, 2)
        return projection(rows), part[1].flatten()

    z, y = embedded(now)
    old, old_labels = embedded(past)
    against_past = pixel_contrast(
        z,
        y,
        contrast=old.detach(),
        contrast_labels=old_labels,
        temperature=0.5,
        ignore_index=VOID,
    )
    loss = loss_of(*now, projection, queue=queue)
    torch.testing.assert_close(loss, (loss_of(*now, projection) + against_past) / 2)
    loss.backward()
    assert projection.weight.grad.abs().sum() > 0


def test_at_most_so_many_of_a_class_enter_the_queue():
    features, labels, projection = joined_batch(4)
    queue = PixelQueue(VOID, D, megabytes=1)
    loss_of(features, labels, projection, queue=queue, queue_update=2)
    assert queue.counts.tolist() == [2, 2, 2]
