import pytest

from ecgan.training.sampler import StepSampler


def batches(**options):
    return list(StepSampler(**{"length": 5, "batch_size": 2, "batches": 10, "seed": 7, **options}))


def test_every_epoch_holds_every_pair_once():
    stream = [sample for batch in batches() for sample in batch]
    assert len(stream) == 20
    for epoch in range(4):
        drawn = stream[5 * epoch : 5 * epoch + 5]
        assert sorted(drawn) == list(range(5 * epoch, 5 * epoch + 5))
    orders = {tuple(s % 5 for s in stream[5 * e : 5 * e + 5]) for e in range(4)}
    assert len(orders) > 1


@pytest.mark.parametrize("start", [1, 4, 9, 10])
def test_it_goes_on_at_any_step(start):
    assert batches(start=2 * start, batches=10 - start) == batches()[start:]


def test_processes_share_the_stream():
    whole = batches(batch_size=4)
    shares = [batches(rank=rank, world=2) for rank in range(2)]
    assert [a + b for a, b in zip(*shares, strict=True)] == whole


def test_fewer_processes_go_on_where_more_stopped():
    stream = [sample for batch in batches() for sample in batch]
    before = [batches(rank=rank, world=3, batches=2) for rank in range(3)]
    drawn = [sample for step in zip(*before, strict=True) for batch in step for sample in batch]
    after = [sample for batch in batches(start=len(drawn), batches=4) for sample in batch]
    assert drawn + after == stream


def test_the_seed_rules_the_order():
    assert batches() == batches()
    assert batches() != batches(seed=8)


def test_length():
    assert len(StepSampler(5, 2, 10, seed=0, start=4)) == 10
