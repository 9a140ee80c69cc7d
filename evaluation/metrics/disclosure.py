"""What a release gives away: how near x_c is to the clean image, and how near a linear guess from it comes.

All mean squared errors are per value, with values in [-1, 1]; PSNR uses the peak-to-peak 2 of that range.
"""

from dataclasses import dataclass as plain_dataclass

import numpy as np
import scipy.linalg
from numpy.typing import NDArray
from pydantic import ConfigDict
from pydantic.dataclasses import dataclass

from evaluation.errors import DataError
from evaluation.metrics.spread import Spread, spread


@dataclass(frozen=True, config=ConfigDict(extra="forbid", allow_inf_nan=False))
class Disclosure:
    """Errors over the released images of one client; larger errors give away less.

    released_mse, released_psnr_db: x_c itself against the clean image (PSNR is None where an image is given
    away whole).
    reconstruction_mse, reconstruction_psnr_db: the best linear reconstruction from x_c against the clean
    image.
    blind_mse: control: the mean of the prior images, a guess made without x_c. A release that gives nothing
    away
        makes the reconstruction no better than this.
    noise_mse: control that must fail: the same reconstruction fed with noise in place of x_c.
    open_mse: control that must succeed: the same reconstruction at client share 0, where x_c is the clean
    image.
    prior_images: how many images of others the reconstruction has learned from.
    """

    t_cut: int
    alpha_bar: float
    released_mse: Spread
    released_psnr_db: Spread | None
    reconstruction_mse: Spread
    reconstruction_psnr_db: Spread | None
    blind_mse: Spread
    noise_mse: Spread
    open_mse: Spread
    prior_images: int


@plain_dataclass(frozen=True, eq=False)
class Prior:
    """A Gaussian fitted to images that the attacker has, kept as eigenvectors of its covariance.

    mean: (d,); variances: (d,) > 0, ascending; directions: (d, d), one per column. All float64, d = C·H·W.
    """

    mean: NDArray[np.float64]
    variances: NDArray[np.float64]
    directions: NDArray[np.float64]
    images: int


def fit_prior(images: NDArray[np.float32]) -> Prior:
    """Fits the prior to (N, C, H, W) images of others, N ≥ 2.

    Variances below a millionth of the mean variance are raised to it: a pixel that never varied among the
    images at hand may vary in the next.
    """
    if len(images) < 2 or images.ndim != 4:
        raise DataError(f"no prior can be fitted to images of shape {images.shape}: give (N, C, H, W), N ≥ 2")
    flat = images.reshape(len(images), -1).astype(np.float64)
    return prior_of(flat.mean(axis=0), np.cov(flat, rowvar=False), len(images))


def prior_of(mean: NDArray[np.float64], covariance: NDArray[np.float64], images: int) -> Prior:
    """A prior from a mean, (d,), and a covariance, (d, d), of so many images; no variance is below a millionth of their mean."""
    variances, directions = scipy.linalg.eigh(np.atleast_2d(covariance))
    least = max(1e-6 * float(variances.mean()), 1e-12)
    return Prior(mean, np.maximum(variances, least), directions, images)


def reconstruct(x_c: NDArray[np.float32], alpha_bar: float, prior: Prior) -> NDArray[np.float64]:
    """The best linear estimate of x_0 from x_c = √ᾱ x_0 + √(1−ᾱ) ε, if x_0 ~ N(μ, Σ): the Wiener filter.

        x̂_0 = μ + √ᾱ Σ (ᾱ Σ + (1−ᾱ) I)⁻¹ (x_c − √ᾱ μ),

    clipped to [-1, 1], which an attacker knows of every image. x_c: (N, C, H, W) → (N, C, H, W) float64.
    """
    if not 0.0 <= alpha_bar <= 1.0:
        raise DataError(f"ᾱ = {alpha_bar} is not between 0 and 1")
    flat = x_c.reshape(len(x_c), -1).astype(np.float64)
    gain = np.sqrt(alpha_bar) * prior.variances / (alpha_bar * prior.variances + (1.0 - alpha_bar))
    along = (flat - np.sqrt(alpha_bar) * prior.mean) @ prior.directions
    guess = prior.mean + (along * gain) @ prior.directions.T
    estimate: NDArray[np.float64] = np.clip(guess, -1.0, 1.0).reshape(x_c.shape)
    return estimate


def disclosure(
    x_0: NDArray[np.float32],
    x_c: NDArray[np.float32],
    *,
    t_cut: int,
    alpha_bar: float,
    prior_images: NDArray[np.float32],
    seed: int = 0,
) -> Disclosure:
    """Measures what the releases x_c of the images x_0 give away.

    Args:
        x_0: (N, C, H, W) clean images in [-1, 1].
        x_c: (N, C, H, W) what the server holds of them, in the same order.
        t_cut: the cut in noise time.
        alpha_bar: ᾱ at the cut.
        prior_images: (M, C, H, W) images of others, from which the attacker learns what images look like.
        seed: of the noise in the control.

    Raises:
        DataError: shapes that do not match, or values that are not finite.
    """
    if x_0.shape != x_c.shape or x_0.shape[1:] != prior_images.shape[1:]:
        raise DataError(
            f"clean {x_0.shape}, released {x_c.shape} and prior {prior_images.shape} images do not match"
        )
    if not (np.isfinite(x_0).all() and np.isfinite(x_c).all()):
        raise DataError("clean or released images hold values that are not finite")
    prior = fit_prior(prior_images)
    noise = np.random.default_rng((seed, 3)).standard_normal(x_c.shape).astype(np.float32)
    released = squared_errors(x_0, x_c)
    reconstructed = squared_errors(x_0, reconstruct(x_c, alpha_bar, prior))
    return Disclosure(
        t_cut=t_cut,
        alpha_bar=alpha_bar,
        released_mse=spread(released),
        released_psnr_db=_psnr_db(released),
        reconstruction_mse=spread(reconstructed),
        reconstruction_psnr_db=_psnr_db(reconstructed),
        blind_mse=spread(squared_errors(x_0, np.broadcast_to(prior.mean.reshape(x_0.shape[1:]), x_0.shape))),
        noise_mse=spread(squared_errors(x_0, reconstruct(noise, alpha_bar, prior))),
        open_mse=spread(squared_errors(x_0, reconstruct(x_0, 1.0, prior))),
        prior_images=prior.images,
    )


def squared_errors(a: NDArray[np.floating], b: NDArray[np.floating]) -> NDArray[np.float64]:
    """Mean squared error of each image against its partner: (N, …), (N, …) → (N,) float64."""
    difference = np.asarray(a, dtype=np.float64) - np.asarray(b, dtype=np.float64)
    return np.asarray((difference.reshape(len(difference), -1) ** 2).mean(axis=1))


def _psnr_db(errors: NDArray[np.float64]) -> Spread | None:
    """Peak signal-to-noise ratio per image, 10 log₁₀(2² / MSE) dB; None where an error is zero."""
    return spread(10.0 * np.log10(4.0 / errors)) if (errors > 0).all() else None
