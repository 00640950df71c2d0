"""Distances between two sets of images by their features: Frechet's and the kernel distance."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from ecgan.errors import DataError

_SUBSET_SEED = 0
_MERGE = 256
_SHARED = 4


class FeatureStatistics:
    """Mean and covariance of features, gathered batch by batch in float64.

    Merged by Chan's rule, so the mean's size does not eat the covariance's digits. The features
    themselves are kept too, in float32, for the kernel distance: 8 KiB an image of Inception's.

    Args:
        dimension: features D of an image.
    """

    def __init__(self, dimension: int) -> None:
        self.dimension = dimension
        self.count = 0
        self._mean = torch.zeros(dimension, dtype=torch.float64)
        self._scatter = torch.zeros(dimension, dimension, dtype=torch.float64)
        self._merged = 0
        self._pending: list[Tensor] = []
        self._batches: list[Tensor] = []

    def update(self, features: Tensor) -> None:
        """Adds features, float [B, D].

        Raises:
            ValueError: another shape.
            DataError: a feature is not finite.
        """
        if features.dim() != 2 or features.shape[1] != self.dimension:
            raise ValueError(f"features must be [B, {self.dimension}], not {list(features.shape)}")
        if not len(features):
            return
        batch = features.detach().cpu().double()
        if not batch.isfinite().all():
            raise DataError("an image has features that are not finite: its pixels must be numbers")
        self._batches.append(batch.float())
        self._pending.append(batch)
        self.count += len(batch)
        # A matrix of D x D is touched for every merge: not for four images at a time.
        if self.count - self._merged >= _MERGE:
            self._merge()

    def _merge(self) -> None:
        if not self._pending:
            return
        batch = torch.cat(self._pending)
        count, total = len(batch), self._merged + len(batch)
        mean = batch.mean(0)
        centred, shift = batch - mean, mean - self._mean
        self._scatter += centred.T @ centred
        self._scatter += torch.outer(shift, shift) * (self._merged * count / total)
        self._mean += shift * (count / total)
        self._merged, self._pending = total, []

    @property
    def mean(self) -> Tensor:
        """Mean, float64 [D]."""
        self._merge()
        return self._mean

    @property
    def covariance(self) -> Tensor:
        """Unbiased covariance, float64 [D, D].

        Raises:
            DataError: fewer than two images.
        """
        if self.count < 2:
            raise DataError(f"a covariance needs at least 2 images, not {self.count}")
        self._merge()
        return self._scatter / (self.count - 1)

    @property
    def features(self) -> Tensor:
        """All features, float32 [count, D]."""
        return torch.cat(self._batches) if self._batches else torch.zeros(0, self.dimension)


def frechet_distance(one: FeatureStatistics, other: FeatureStatistics) -> float:
    """Frechet's distance of the two normal distributions with these moments.

    ``|m1 - m2|^2 + tr(C1) + tr(C2) - 2 tr((C1 C2)^(1/2))``. With C = L L^T the last trace is the
    sum of the singular values of ``L1^T L2``: no square root of a matrix that rounding has made
    indefinite, and no imaginary part to drop, however few the images. Zero or above.

    Raises:
        DataError: fewer than two images in a set.
    """
    first, second = one.covariance, other.covariance
    shared = torch.linalg.svdvals(_factor(one).T @ _factor(other)).sum()
    shift = (one.mean - other.mean).square().sum()
    distance = shift + first.trace() + second.trace() - 2 * shared
    return max(distance.item(), 0.0)


@dataclass
class KernelDistance:
    """An estimate of the squared maximum mean discrepancy."""

    value: float
    """Mean over the subsets; unbiased, hence perhaps below 0."""
    deviation: float | None
    """Standard deviation over the subsets; None where there is one."""
    subsets: int
    """Subsets drawn."""
    subset_size: int
    """Images in each, of either set."""


def kernel_distance(
    one: FeatureStatistics,
    other: FeatureStatistics,
    *,
    subsets: int = 100,
    subset_size: int = 1000,
) -> KernelDistance:
    """Squared MMD under the kernel ``(x . y / D + 1)^3``, as KID (Binkowski et al., 2018).

    Args:
        one: features of one set.
        other: features of the other.
        subsets: random subsets (without repetition inside) to average over, always the same ones.
        subset_size: images in a subset. Where both sets have no more, they are taken whole, once.

    Raises:
        DataError: fewer than two images in a set.
    """
    x, y = one.features.double(), other.features.double()
    size = min(subset_size, len(x), len(y))
    if size < 2:
        raise DataError(f"a kernel distance needs at least 2 images a set, not {size}")
    if size == len(x) == len(y):
        return KernelDistance(_squared_mmd(*_kernels(x, y)), None, 1, size)
    generator = torch.Generator().manual_seed(_SUBSET_SEED)
    # Subsets of small sets share most products: all of them at once are fewer.
    shared = _kernels(x, y) if max(len(x), len(y)) <= _SHARED * size else None
    values = []
    for _ in range(subsets):
        i, j = (torch.randperm(len(s), generator=generator)[:size] for s in (x, y))
        if shared is None:
            values.append(_squared_mmd(*_kernels(x[i], y[j])))
        else:
            xx, yy, xy = shared
            values.append(_squared_mmd(xx[i][:, i], yy[j][:, j], xy[i][:, j]))
    deviation = torch.tensor(values).std().item() if subsets > 1 else None
    return KernelDistance(sum(values) / subsets, deviation, subsets, size)


def _factor(statistics: FeatureStatistics) -> Tensor:
    """L with L L^T = covariance, with no more columns than images or features."""
    if statistics.count <= statistics.dimension:
        centred = statistics.features.double() - statistics.mean
        return centred.T / (statistics.count - 1) ** 0.5
    values, vectors = torch.linalg.eigh(statistics.covariance)
    # Below rounding, eigenvalues are noise of either sign.
    kept = values > values[-1].clamp_min(0) * len(values) * torch.finfo(values.dtype).eps
    return vectors[:, kept] * values[kept].sqrt()


def _kernels(x: Tensor, y: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """The kernel within x, within y and across."""

    def kernel(a: Tensor, b: Tensor) -> Tensor:
        return (a @ b.T / a.shape[1] + 1) ** 3

    return kernel(x, x), kernel(y, y), kernel(x, y)


def _squared_mmd(xx: Tensor, yy: Tensor, xy: Tensor) -> float:
    def within(products: Tensor) -> Tensor:
        size = len(products)
        return (products.sum() - products.trace()) / (size * (size - 1))

    return (within(xx) + within(yy) - 2 * xy.mean()).item()
