"""What an attacker knows of images beforehand: a Gaussian fitted to some of its own."""

import numpy as np
from numpy.typing import NDArray
from sklearn.covariance import ledoit_wolf

from evaluation.errors import DataError
from evaluation.metrics.disclosure import Prior, prior_of


def shrunk_prior(images: NDArray[np.floating]) -> Prior:
    """A Gaussian whose covariance is shrunk towards a round one as far as the number of images asks for.

    Ledoit & Wolf (2004). An attacker often has fewer images than an image has pixels; the plain covariance then holds
    directions of no variance, in which a reconstruction would throw away what the release shows.

    images: (N, C, H, W), N ≥ 2.
    """
    if images.ndim != 4 or len(images) < 2:
        raise DataError(f"no prior can be fitted to images of shape {images.shape}: give (N, C, H, W), N ≥ 2")
    flat = images.reshape(len(images), -1).astype(np.float64)
    covariance, _ = ledoit_wolf(flat)
    return prior_of(flat.mean(axis=0), covariance, len(images))


def log_density(images: NDArray[np.floating], prior: Prior) -> NDArray[np.float64]:
    """The log density of every image under the Gaussian, (N,) float64.  images: (N, …), d values each."""
    along = (images.reshape(len(images), -1).astype(np.float64) - prior.mean) @ prior.directions
    constant = float(np.log(2.0 * np.pi * prior.variances).sum())
    return np.asarray(-0.5 * ((along**2 / prior.variances).sum(axis=1) + constant), dtype=np.float64)
