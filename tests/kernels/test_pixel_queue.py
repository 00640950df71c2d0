"""The queue of past embeddings against a plain list per class."""

from __future__ import annotations

from collections import deque

import pytest
import torch
import torch.nn.functional as F
from ecgan_kernels import PixelQueue, pixel_contrast

N, D = 5, 4


def queue_of(capacity: int, dtype: torch.dtype = torch.float32) -> PixelQueue:
    queue = PixelQueue(N, D, megabytes=capacity * N * D * dtype.itemsize / 2**20, dtype=dtype)
    assert queue.capacity == capacity
    return queue


def held(queue: PixelQueue, label: int) -> list[list[float]]:
    """Embeddings of a class, oldest first, read as a user would: through contents()."""
    embeddings, labels = queue.contents(ignore_index=255)
    rows = embeddings[labels == label]
    if len(rows) == queue.capacity:  # full: the cursor stands at the oldest
        rows = rows.roll(-int(queue.cursors[label]), 0)
    return rows.tolist()


@pytest.mark.parametrize("capacity", [1, 3, 7])
def test_equals_a_bounded_list_per_class(capacity):
    queue = queue_of(capacity)
    expected = [deque(maxlen=capacity) for _ in range(N)]
    for step in range(12):
        count = [0, 1, 4, 40][step % 4]  # none, one, a few, more than the capacity of a class
        z = torch.randn(count, D)
        labels = torch.randint(-1, N + 1, (count,))  # -1 and N are not stored
        queue.enqueue(z, labels, normalize=False)
        for row, label in zip(z.tolist(), labels.tolist(), strict=True):
            if 0 <= label < N:
                expected[label].append(row)
        for label in range(N):
            assert held(queue, label) == list(expected[label]), (step, label)


def test_empty_slots_take_no_part_and_label_0_is_stored():
    queue = queue_of(4)
    embeddings, labels = queue.contents(ignore_index=255)
    assert (labels == 255).all()
    assert embeddings.shape == (4 * N, D)
    queue.enqueue(torch.randn(3, D), torch.tensor([0, 0, 2]))
    _, labels = queue.contents(ignore_index=255)
    assert labels.bincount(minlength=256)[[0, 2, 255]].tolist() == [2, 1, 4 * N - 3]


def test_as_a_contrast_set_it_equals_its_embeddings_alone():
    queue = queue_of(6)
    past, past_labels = torch.randn(9, D), torch.randint(0, N, (9,))
    queue.enqueue(past, past_labels)
    z, labels = torch.randn(7, D), torch.randint(0, N, (7,))
    found, found_labels = queue.contents()
    loss = pixel_contrast(z, labels, contrast=found, contrast_labels=found_labels)
    expected = pixel_contrast(z, labels, contrast=past, contrast_labels=past_labels)
    torch.testing.assert_close(loss, expected)


def test_anchors_meet_their_own_past_embedding():
    # No self mask: the queue's entry at an anchor's index is another pixel, or this one's past.
    queue = queue_of(2)
    z, labels = torch.randn(2, D), torch.tensor([0, 1])
    queue.enqueue(z, labels)
    found, found_labels = queue.contents()
    loss = pixel_contrast(z, labels, contrast=found, contrast_labels=found_labels, reduction="none")
    assert (loss > 0).all()  # each anchor has one positive, its past self


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16, torch.float64])
def test_rows_are_normalised_before_they_are_stored(dtype):
    queue = queue_of(3, dtype)
    z = torch.randn(2, D, requires_grad=True)
    queue.enqueue(z * 100, torch.tensor([1, 4]))
    embeddings, labels = queue.contents()
    assert embeddings.dtype == dtype
    assert not embeddings.requires_grad
    torch.testing.assert_close(embeddings[labels == 1][0], F.normalize(z[0], dim=0).to(dtype))


def test_goes_on_from_its_state_dict():
    queue, other = queue_of(3), queue_of(3)
    for _ in range(3):
        queue.enqueue(torch.randn(6, D), torch.randint(0, N, (6,)))
    other.load_state_dict(queue.state_dict())
    z, labels = torch.randn(6, D), torch.randint(0, N, (6,))
    queue.enqueue(z, labels)
    other.enqueue(z, labels)
    for label in range(N):
        assert held(queue, label) == held(other, label)


def test_memory_is_within_the_budget():
    queue = PixelQueue(35, 256, megabytes=16)
    assert 15.9 * 2**20 < queue.capacity * 35 * 256 * 4 <= 16 * 2**20
    assert queue.embeddings.nbytes - 256 * 4 <= 16 * 2**20


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        ({"num_classes": 0}, ValueError, "num_classes must be at least 1"),
        ({"dim": 2.0}, TypeError, "dim must be an int"),
        ({"megabytes": 0}, ValueError, "megabytes must be greater than 0"),
        ({"megabytes": 1e-6}, ValueError, "megabytes must be at least .* of 5 classes"),
        ({"dtype": torch.int32}, TypeError, "dtype must be a floating dtype"),
    ],
)
def test_wrong_settings(change, error, message):
    with pytest.raises(error, match=message):
        PixelQueue(**{"num_classes": 5, "dim": 2, "megabytes": 1.0, **change})


@pytest.mark.parametrize(
    ("z", "labels", "error", "message"),
    [
        (torch.zeros(2, D, dtype=torch.int64), torch.zeros(2).long(), TypeError, "embeddings must"),
        (torch.zeros(2, D + 1), torch.zeros(2).long(), ValueError, r"embeddings must have shape"),
        (torch.zeros(2, D), torch.zeros(3).long(), ValueError, "labels must have shape"),
        (torch.zeros(2, D), torch.zeros(2), TypeError, "labels must be uint8"),
        (torch.zeros(2, D, device="meta"), torch.zeros(2).long(), ValueError, "device"),
    ],
)
def test_wrong_rows_change_nothing(z, labels, error, message):
    queue = queue_of(2)
    with pytest.raises(error, match=message):
        queue.enqueue(z, labels)
    assert queue.counts.sum() == 0


def test_ignore_index_must_not_be_a_class():
    with pytest.raises(ValueError, match=r"ignore_index must be outside \[0, 5\)"):
        queue_of(2).contents(ignore_index=0)
