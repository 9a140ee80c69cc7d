"""Whether two releases are of one image: how near they lie to each other, beside all other pairs."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.spatial.distance import cdist

from evaluation.attacks.roc import delong
from evaluation.errors import DataError
from evaluation.metrics.disclosure import Prior, reconstruct


@dataclass(frozen=True)
class Linkage:
    """How well partners were found.

    auc: chance that a pair of one image is rated above a pair of two;  rank_1: share of first releases whose best rated
    partner is the right one, among `images` candidates (1/images by luck).
    """

    auc: float
    rank_1: float
    images: int


def linkage(similarity: NDArray[np.float64]) -> Linkage:
    """How well a similarity of first with second releases finds the partners, which stand on its diagonal.

    similarity: (N, N) float64, N ≥ 2, larger for more alike. A tie counts as its share.
    """
    n = len(similarity)
    if similarity.shape != (n, n) or n < 2:
        raise DataError(f"a similarity of shape {similarity.shape} links nothing: expected (N, N), N ≥ 2")
    own = np.diag(similarity)
    others = similarity[~np.eye(n, dtype=bool)]
    best = similarity >= similarity.max(axis=1, keepdims=True)
    return Linkage(delong(own, others)[0], float((np.diag(best) / best.sum(axis=1)).mean()), n)


def by_pixels(first: NDArray[np.float32], second: NDArray[np.float32]) -> NDArray[np.float64]:
    """Minus the squared distance of every pair: (N, …), (M, …) → (N, M) float64."""
    return -np.asarray(cdist(_flat(first), _flat(second), "sqeuclidean"), dtype=np.float64)


def by_wiener(
    first: NDArray[np.float32], second: NDArray[np.float32], alpha_bar: float, prior: Prior
) -> NDArray[np.float64]:
    """The same between their best linear reconstructions."""
    a, b = (reconstruct(x_c, alpha_bar, prior).astype(np.float32) for x_c in (first, second))
    return by_pixels(a, b)


def by_likelihood(
    first: NDArray[np.float32], second: NDArray[np.float32], alpha_bar: float, prior: Prior
) -> NDArray[np.float64]:
    """The log of p(x_c, x_c' | one image) / p(x_c, x_c' | two images), if x_0 ~ N(μ, Σ): no test does better there.

    Along each eigenvector of Σ two releases of one image correlate with ρ = ᾱλ / (ᾱλ + 1 − ᾱ), and for standardised
    coordinates a, b the ratio is Σ −½ log(1−ρ²) − (ρ²(a²+b²) − 2ρab) / (2(1−ρ²))  (Neyman & Pearson 1933).
    """
    total = alpha_bar * prior.variances + (1.0 - alpha_bar)
    # Two releases at ᾱ = 1 are equal, and the ratio infinite: kept a hair below.
    rho = np.minimum(alpha_bar * prior.variances / total, 1.0 - 1e-6)
    a, b = (
        (_flat(x_c) - np.sqrt(alpha_bar) * prior.mean) @ prior.directions / np.sqrt(total)
        for x_c in (first, second)
    )
    even, mixed = rho**2 / (2.0 * (1.0 - rho**2)), rho / (1.0 - rho**2)
    constant = float(-0.5 * np.log1p(-(rho**2)).sum())
    return np.asarray(
        constant - ((a**2) @ even)[:, None] - ((b**2) @ even)[None, :] + (a * mixed) @ b.T, dtype=np.float64
    )


def _flat(images: NDArray[np.floating]) -> NDArray[np.float64]:
    return images.reshape(len(images), -1).astype(np.float64)
