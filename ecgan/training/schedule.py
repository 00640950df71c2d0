"""Length of a run and its learning rates, as functions of the position alone."""

from __future__ import annotations

from ecgan.config import OptimConfig


def total_samples(cfg: OptimConfig, pairs: int) -> int:
    """Pairs that a run of epochs draws in all."""
    return (cfg.epochs + cfg.decay_epochs) * pairs


def total_steps(cfg: OptimConfig, pairs: int, batch: int, step: int = 0, samples: int = 0) -> int:
    """Generator steps of a run.

    Args:
        cfg: steps, or epochs where steps is 0.
        pairs: pairs of the data set.
        batch: pairs per step over all processes.
        step: steps done already, perhaps with another ``batch``.
        samples: pairs drawn already.
    """
    if cfg.steps:
        return cfg.steps
    return max(1, step + max(0, total_samples(cfg, pairs) - samples) // batch)


def decay(cfg: OptimConfig, done: int, total: int) -> float:
    """Factor of the learning rates: 1, then linearly towards 0.

    Args:
        cfg: epochs and decay_epochs, whose share of the whole counts.
        done: steps or pairs done.
        total: steps or pairs in all.
    """
    constant = total * cfg.epochs // max(1, cfg.epochs + cfg.decay_epochs)
    return 1.0 if done < constant else (total - done) / max(1, total - constant)


def learning_rates(cfg: OptimConfig, done: int, total: int) -> tuple[float, float]:
    """Learning rates of G and D after ``done`` of ``total``; with ttur half and twice ``lr``.

    ``lr_discriminator`` stands for D's where it is given.
    """
    g, d = (cfg.lr / 2, cfg.lr * 2) if cfg.ttur else (cfg.lr, cfg.lr)
    factor = decay(cfg, done, total)
    return g * factor, (cfg.lr_discriminator or d) * factor
