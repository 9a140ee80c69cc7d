"""The image behind one release: what a network adds to the best linear guess, and what the backbone knows by itself."""

import math
from collections.abc import Callable

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.spatial.distance import cdist
from torch import Tensor

from diffusion.objective import Predict
from diffusion.schedule import NoiseSchedule
from diffusion.steps import predict_x0
from evaluation.metrics.disclosure import Prior, reconstruct

BATCH = 256

Correction = Callable[[Tensor, Tensor], Tensor]
"""F: (x_c (B, C, H, W) float32, t_c (B,) int64) → (B, C, H, W), what the linear guess lacks, in units of `left_over`."""


def left_over(alpha_bar: float, prior: Prior) -> float:
    """√ of the mean squared error that the Wiener filter leaves if x_0 ~ N(μ, Σ): mean of λ(1-ᾱ) / (ᾱλ + 1 − ᾱ).

    The scale of what a network can still add; 0 at ᾱ = 1.
    """
    errors = (
        prior.variances * (1.0 - alpha_bar) / np.maximum(alpha_bar * prior.variances + 1.0 - alpha_bar, 1e-30)
    )
    return math.sqrt(float(errors.mean()))


def learned(
    network: Correction, x_c: NDArray[np.float32], t_cut: int, alpha_bar: float, prior: Prior
) -> NDArray[np.float64]:
    """The best linear guess, corrected by a network of the attacker's: x̂_0 = Wiener(x_c) + left_over · F(x_c, t_c).

    x_c: (N, C, H, W) float32;  network: F.  Returns (N, C, H, W) float64 in [-1, 1].
    """
    steps = torch.full((BATCH,), t_cut)
    with torch.inference_mode():
        parts = [
            network(part, steps[: len(part)]).numpy() for part in torch.split(torch.from_numpy(x_c), BATCH)
        ]
    guess = reconstruct(x_c, alpha_bar, prior) + left_over(alpha_bar, prior) * np.concatenate(parts)
    return np.asarray(np.clip(guess, -1.0, 1.0), dtype=np.float64)


def learned_loss(
    network: Correction,
    x_0: NDArray[np.float32],
    t_cut: int,
    alpha_bar: float,
    prior: Prior,
    generator: torch.Generator,
) -> Tensor:
    """Mean squared error of the network's correction, in units of what the Wiener filter leaves over.

    x_0: (B, C, H, W) float32, images of the attacker's own, noised afresh at every call.  Returns () float32.
    """
    noise = torch.randn(x_0.shape, generator=generator)
    x_c = alpha_bar**0.5 * torch.from_numpy(x_0) + (1 - alpha_bar) ** 0.5 * noise
    missing = (x_0 - reconstruct(x_c.numpy(), alpha_bar, prior)) / left_over(alpha_bar, prior)
    found = network(x_c, torch.full((len(x_0),), t_cut))
    return torch.nn.functional.mse_loss(found, torch.from_numpy(missing.astype(np.float32)))


def one_step(
    backbone: Predict,
    schedule: NoiseSchedule,
    x_c: NDArray[np.float32],
    t_cut: int,
    labels: NDArray[np.int32],
) -> NDArray[np.float64]:
    """x̂_0 of the backbone on a release, in one evaluation: by Tweedie's formula the mean of all images behind x_c.

    It needs no image of the attacker's. It is asked one step below those that it was trained on.

    x_c: (N, C, H, W) float32 at t_cut ≥ 1;  labels: (N,) int32, which the server has been told.  Returns (N, C, H, W).
    """
    known = torch.from_numpy(labels.astype(np.int64))
    parts = []
    for x, label in zip(torch.split(torch.from_numpy(x_c), BATCH), torch.split(known, BATCH), strict=True):
        with torch.inference_mode():
            noise = backbone(x, torch.full((len(x),), t_cut), label)
        parts.append(predict_x0(schedule, x, noise, t_cut, clip=1.0).numpy())
    return np.concatenate(parts).astype(np.float64)


def gain_over_blind(errors: NDArray[np.float64], blind: NDArray[np.float64]) -> float:
    """1 − MSE / MSE of a guess that has seen no release: 0 for nothing learned, 1 for the image itself.  (N,), (N,) errors."""
    return 1.0 - float(errors.mean() / blind.mean())


def recognised(estimates: NDArray[np.floating], originals: NDArray[np.floating]) -> float:
    """Share of reconstructions that lie nearer to their own original than to any other of the N: 1/N by luck."""
    a, b = (part.reshape(len(part), -1).astype(np.float64) for part in (estimates, originals))
    squares = cdist(a, b, "sqeuclidean")
    nearest = squares <= squares.min(axis=1, keepdims=True)
    return float((np.diag(nearest) / nearest.sum(axis=1)).mean())
