"""What an attacker makes of several releases of one image: their mean, and the best linear guess from it.

K releases x_c = √ᾱ x_0 + √(1-ᾱ) ε_k of one image have the mean √ᾱ x_0 + √((1-ᾱ)/K) ε, and nothing else in them depends on x_0.
Divided by √ᾱ it misses x_0 by a mean squared error of σ²/K, σ² = (1-ᾱ)/ᾱ, whatever the image. Scaled to the point of the chain
that has its signal-to-noise ratio, ᾱ' = Kᾱ/(Kᾱ + 1 - ᾱ), it is one release at an earlier step, and is denoised like one.
"""

import math
from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from evaluation.metrics.disclosure import Prior, reconstruct, squared_errors


@dataclass(frozen=True, eq=False)
class Evidence:
    """What several releases of the same images say together: each value's weighted mean, and how much noise is left in it.

    mean: (N, C, H, W) float64, unbiased for x_0;  variance: (N,) float64, of the noise in every value of an image's mean.
    """

    mean: NDArray[np.float64]
    variance: NDArray[np.float64]

    def joined(self, other: "Evidence") -> "Evidence":
        """Both together, weighted by what each is worth: the best unbiased linear combination."""
        weight = wide(other.variance / (self.variance + other.variance))
        return Evidence(
            weight * self.mean + (1 - weight) * other.mean,
            self.variance * other.variance / (self.variance + other.variance),
        )


def of_release(x_c: NDArray[np.floating], alpha_bar: float) -> Evidence:
    """A release as evidence of x_0: x_c/√ᾱ, noise σ².  x_c: (N, C, H, W);  alpha_bar: ᾱ at the cut, in (0, 1)."""
    mean = x_c.astype(np.float64) / np.sqrt(alpha_bar)
    return Evidence(mean, np.full(len(x_c), (1 - alpha_bar) / alpha_bar))


def of_mean(x_c: NDArray[np.float32], alpha_bar: float) -> Evidence:
    """K releases of the same images, averaged: noise σ²/K.  x_c: (K, N, C, H, W) float32, in the same order in each release."""
    one = of_release(x_c.mean(axis=0, dtype=np.float64), alpha_bar)
    return Evidence(one.mean, one.variance / len(x_c))


def together(parts: Iterable[Evidence]) -> Evidence:
    """All of them as one; at least one is needed."""
    joined, *others = parts
    for other in others:
        joined = joined.joined(other)
    return joined


def best_linear(evidence: Evidence, prior: Prior) -> NDArray[np.float64]:
    """The Wiener filter on evidence, with `prior` for what images look like: (N, C, H, W) float64 in [-1, 1]."""
    levels = 1 / (1 + evidence.variance)  # ᾱ' of the point of the chain with this signal-to-noise ratio
    guesses = np.empty_like(evidence.mean)
    for level in np.unique(levels):
        rows = levels == level
        guesses[rows] = reconstruct((np.sqrt(level) * evidence.mean[rows]).astype(np.float32), level, prior)
    return guesses


def mean_errors(evidence: Evidence, x_0: NDArray[np.floating]) -> NDArray[np.float64]:
    """Mean squared error of each image's mean, not clipped: (N,) float64. Expected: `evidence.variance`."""
    return squared_errors(x_0, evidence.mean)


def wide(values: NDArray[np.float64]) -> NDArray[np.float64]:
    """One value per image, (N,), shaped to broadcast over images: (N, 1, 1, 1)."""
    return values[:, None, None, None]


def closed_form_psnr_db(alpha_bar: float, count: int) -> float:
    """10·log₁₀(4K/σ²) dB with σ² = (1-ᾱ)/ᾱ: what the plain average of K releases comes to."""
    return 10.0 * math.log10(4.0 * count * alpha_bar / (1.0 - alpha_bar))


def psnr_db(mean_squared_error: float) -> float:
    """10·log₁₀(2²/MSE) dB, for values in [-1, 1].  mean_squared_error: > 0."""
    return 10.0 * math.log10(4.0 / mean_squared_error)
