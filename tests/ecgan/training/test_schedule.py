import pytest

from ecgan.config import OptimConfig
from ecgan.training.schedule import decay, learning_rates, total_steps


def test_steps_win_over_epochs():
    assert total_steps(OptimConfig(steps=7), pairs=100, batch=10) == 7
    assert total_steps(OptimConfig(epochs=2, decay_epochs=1), pairs=100, batch=10) == 30
    assert total_steps(OptimConfig(epochs=1, decay_epochs=0), pairs=3, batch=10) == 1


@pytest.mark.parametrize("step", [0, 7, 30])
def test_what_is_done_does_not_change_the_length(step):
    cfg = OptimConfig(epochs=2, decay_epochs=1)
    assert total_steps(cfg, pairs=103, batch=10, step=step, samples=10 * step) == 30


def test_fewer_processes_take_more_steps_for_the_rest():
    cfg = OptimConfig(epochs=2, decay_epochs=1)
    assert total_steps(cfg, pairs=100, batch=5, step=10, samples=100) == 10 + 40


def test_constant_then_linear_to_zero():
    cfg = OptimConfig(epochs=1, decay_epochs=1)
    factors = [decay(cfg, step, 8) for step in range(8)]
    assert factors == [1, 1, 1, 1, 1, 0.75, 0.5, 0.25]


def test_two_time_scales():
    assert learning_rates(OptimConfig(lr=2e-4), 0, 10) == pytest.approx((1e-4, 4e-4))
    assert learning_rates(OptimConfig(lr=2e-4, ttur=False), 0, 10) == (2e-4, 2e-4)
    assert learning_rates(OptimConfig(lr=2e-4, lr_discriminator=3e-4), 0, 10) == (1e-4, 3e-4)


def test_without_decay():
    cfg = OptimConfig(epochs=1, decay_epochs=0)
    assert [decay(cfg, step, 3) for step in range(3)] == [1, 1, 1]


def test_decay_only():
    cfg = OptimConfig(epochs=0, decay_epochs=1)
    assert [decay(cfg, step, 2) for step in range(2)] == [1, 0.5]
