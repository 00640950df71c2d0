"""Kullback-Leibler divergence of the image encoder's style code."""

from __future__ import annotations

from torch import Tensor

from ecgan.losses.precision import full


def kl_divergence(mu: Tensor, logvar: Tensor) -> Tensor:
    """Divergence of N(mu, exp(logvar)) from N(0, 1): ``-1/2 sum(1 + logvar - mu^2 - exp(logvar))``.

    Summed over the code and averaged over the batch, so that its weight does not depend on the
    batch size.

    Args:
        mu: means, float [B, Z].
        logvar: logarithms of the variances, float [B, Z].

    Returns:
        Scalar, float32 (float64 for float64).
    """
    mu, logvar = full(mu), full(logvar)
    return -0.5 * (1 + logvar - mu.square() - logvar.exp()).sum(1).mean()
