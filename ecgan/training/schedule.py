"""Length of a run and its learning rates, as functions of the step alone."""

from __future__ import annotations

from ecgan.config import OptimConfig


def total_steps(cfg: OptimConfig, pairs: int, batch: int) -> int:
    """Generator steps of a run.

    Args:
        cfg: steps, or epochs where steps is 0.
        pairs: pairs of the data set.
        batch: pairs per step over all processes.
    """
    if cfg.steps:
        return cfg.steps
    return max(1, (cfg.epochs + cfg.decay_epochs) * pairs // batch)


def decay(cfg: OptimConfig, step: int, total: int) -> float:
    """Factor of the learning rates at ``step``: 1, then linearly towards 0 at ``total``."""
    constant = total * cfg.epochs // max(1, cfg.epochs + cfg.decay_epochs)
    return 1.0 if step < constant else (total - step) / max(1, total - constant)


def learning_rates(cfg: OptimConfig, step: int, total: int) -> tuple[float, float]:
    """Learning rates of G and D at ``step``; with ttur half and twice ``lr``.

    ``lr_discriminator`` stands for D's where it is given.
    """
    g, d = (cfg.lr / 2, cfg.lr * 2) if cfg.ttur else (cfg.lr, cfg.lr)
    factor = decay(cfg, step, total)
    return g * factor, (cfg.lr_discriminator or d) * factor
