"""The optimal noise predictor of a Gaussian, against which cuts and samplers are judged."""

from dataclasses import dataclass
from typing import Any

import numpy as np

from diffusion.arrays import Float64, gather, is_tensor
from diffusion.schedule import NoiseSchedule


@dataclass(frozen=True, eq=False)
class Gaussian:
    """x_0 ~ N(mean, covariance) over (C, 1, 1) "images"; mean (C,), covariance (C, C)."""

    mean: Float64
    covariance: Float64

    def draw(self, count: int, seed: int) -> Float64:
        generator = np.random.default_rng(seed)
        flat = generator.multivariate_normal(self.mean, self.covariance, count)
        return flat.reshape(count, -1, 1, 1)

    def gain(self, alpha_bar: float) -> Float64:
        """√(1-ᾱ)·(ᾱΣ + (1-ᾱ)I)⁻¹."""
        spread = alpha_bar * self.covariance + (1 - alpha_bar) * np.eye(len(self.mean))
        gain: Float64 = np.sqrt(1 - alpha_bar) * np.linalg.inv(spread)
        return gain

    def predict(self, schedule: NoiseSchedule, x: Any, t: Any) -> Any:
        """ε*(x_t, t), the t of every sample its own. Arrays and tensors."""
        alpha_bar = np.asarray(gather(schedule.alpha_bar, t))
        levels, which = np.unique(alpha_bar, return_inverse=True)
        gains = np.stack([self.gain(float(level)) for level in levels])[which]
        means = np.sqrt(alpha_bar)[:, None] * self.mean
        if is_tensor(x):
            gains, means = x.new_tensor(gains), x.new_tensor(means)
        centred = x.reshape(len(x), -1) - means
        return (gains @ centred[:, :, None]).reshape(x.shape)


def example(size: int = 4, seed: int = 3) -> Gaussian:
    """A Gaussian with some correlation and variances from about 0.05 to 1."""
    generator = np.random.default_rng(seed)
    basis, _ = np.linalg.qr(generator.normal(size=(size, size)))
    return Gaussian(
        mean=generator.uniform(-0.5, 0.5, size),
        covariance=basis @ np.diag(np.geomspace(0.05, 1.0, size)) @ basis.T,
    )


def frechet(mean: Float64, covariance: Float64, target: Gaussian) -> float:
    """The squared Fréchet distance of N(mean, covariance) to the target."""
    values, vectors = np.linalg.eigh(target.covariance)
    root = vectors @ np.diag(np.sqrt(values)) @ vectors.T
    cross = np.linalg.eigvalsh(root @ covariance @ root)
    traces = np.trace(covariance) + np.trace(target.covariance) - 2 * np.sqrt(np.maximum(cross, 0)).sum()
    return float(np.sum((mean - target.mean) ** 2) + traces)
