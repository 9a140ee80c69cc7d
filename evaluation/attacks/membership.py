"""Whether an image was among those trained on: asked of the backbone by its loss and by its steps, and of the store itself.

Scores are larger for what looks more like a member. An attacker holds the candidates in the clear.
"""

from collections.abc import Callable, Sequence
from itertools import pairwise

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.spatial.distance import cdist
from scipy.special import logsumexp
from torch import Tensor

from diffusion.network import UNet
from diffusion.schedule import NoiseSchedule
from diffusion.steps import predict_x0
from evaluation.attacks.prior import log_density, shrunk_prior

BATCH = 256
LOSS_SHARES = (0.02, 0.06, 0.12, 0.2, 0.32, 0.48)
"""Where the loss is asked for, as shares of the server's part of the chain; late steps tell images apart little."""
START_SHARE, STRIDE_SHARE, STRIDES = 0.15, 0.1, 2
"""Of SecMI's path, in shares of the server's part of the chain; chosen on overfitted networks, as an attacker would choose."""
STORE_VARIANCE_LEAST = 1e-6

Predict = Callable[[Tensor, int], Tensor]
"""(x_t (N, C, H, W) float32, t) → ε̂ of all candidates, their labels bound in."""


def predictor(network: UNet, labels: NDArray[np.int32]) -> Predict:
    """The network on all candidates, batch by batch.  labels: (N,) int32, which the attacker knows of its candidates."""
    known = torch.from_numpy(labels.astype(np.int64))

    def predict(x_t: Tensor, t: int) -> Tensor:
        with torch.inference_mode():
            return torch.cat(
                [
                    network(part, torch.full((len(part),), t), label)
                    for part, label in zip(torch.split(x_t, BATCH), torch.split(known, BATCH), strict=True)
                ]
            )

    return predict


def loss_steps(t_cut: int, T: int) -> tuple[int, ...]:
    """At which t the loss is asked for: ascending, all above the cut."""
    return tuple(sorted({max(t_cut + 1, round(t_cut + share * (T - t_cut))) for share in LOSS_SHARES}))


def by_loss(
    predict: Predict,
    schedule: NoiseSchedule,
    images: NDArray[np.float32],
    steps: Sequence[int],
    *,
    draws: int = 3,
    seed: int = 0,
) -> NDArray[np.float64]:
    """Minus the loss on every candidate, averaged over steps and draws of noise; a loss threshold (Carlini et al. 2023, §5).

    All candidates meet the same noise, and every (t, ε) counts alike: see `standardised`.

    images: (N, C, H, W) float32;  steps: t > t_cut;  draws: of noise at each.  Returns (N,) float64.
    """
    generator = torch.Generator().manual_seed(seed)
    x_0 = torch.from_numpy(images)
    errors = []
    for t in steps:
        a = float(schedule.alpha_bar[t])
        for _ in range(draws):
            noise = torch.randn(x_0.shape[1:], generator=generator)
            found = predict(a**0.5 * x_0 + (1 - a) ** 0.5 * noise, t)
            errors.append(_mean_square(found - noise))
    return -standardised(np.stack(errors))


def secmi_path(t_cut: int, T: int) -> tuple[int, ...]:
    """The steps that SecMI climbs: ascending, two or more, none below the cut."""
    start, stride = (t_cut + round(START_SHARE * (T - t_cut)), max(1, round(STRIDE_SHARE * (T - t_cut))))
    return tuple(range(start, min(start + STRIDES * stride, T) + 1, stride))


def by_steps(
    predict: Predict,
    schedule: NoiseSchedule,
    images: NDArray[np.float32],
    path: Sequence[int],
    *,
    draws: int = 4,
    seed: int = 0,
) -> NDArray[np.float64]:
    """Minus the t-error of SecMI: how far a deterministic step up and back down misses where it began.

    Duan et al. (2023), eq. 9, with DDIM steps. Two things are done otherwise. The path begins on the candidate with noise of
    the attacker's own: a deterministic one from the clean image would cross the steps below the cut, of which the backbone
    knows nothing, and even at a cut of 0 it leads where small networks have never looked. And the error of every stride
    counts, averaged over several such draws.

    images: (N, C, H, W) float32;  path: ascending, two steps or more;  draws: of noise.  Returns (N,) float64.
    """
    generator = torch.Generator().manual_seed(seed)
    a = float(schedule.alpha_bar[path[0]])
    errors = []
    for _ in range(draws):
        noise = torch.randn(images.shape[1:], generator=generator)
        x = a**0.5 * torch.from_numpy(images) + (1 - a) ** 0.5 * noise
        errors += step_errors(predict, schedule, x, path)
    return -standardised(np.stack(errors))


def step_errors(
    predict: Predict, schedule: NoiseSchedule, x: Tensor, path: Sequence[int]
) -> list[NDArray[np.float64]]:
    """The t-error of every stride of the path, (N,) float64 each.

    One evaluation at every step serves twice: to come back to the step before and to climb to the next.
    x: (N, C, H, W) float32 at path[0].
    """
    errors = []
    # A network is never asked at t = 0, where there is no noise to predict.
    noise = predict(x, max(path[0], 1))
    for t, later in pairwise(path):
        climbed = ddim(schedule, x, noise, t, later)
        noise = predict(climbed, later)
        errors.append(_mean_square(ddim(schedule, climbed, noise, later, t) - x))
        x = climbed
    return errors


def ddim(schedule: NoiseSchedule, x: Tensor, noise: Tensor, t: int, s: int) -> Tensor:
    """A deterministic step from t to s, up or down (Song et al. 2021, eq. 13).  x, noise: (N, C, H, W) float32."""
    x_0 = predict_x0(schedule, x, noise, t)
    a = float(schedule.alpha_bar[s])
    x_s: Tensor = a**0.5 * x_0 + (1 - a) ** 0.5 * noise
    return x_s


def by_store(images: NDArray[np.float32], x_c: NDArray[np.float32], alpha_bar: float) -> NDArray[np.float64]:
    """How much likelier the store is if it holds a release of the candidate: needs no network at all.

    log Σ_j p(x_c^j | candidate) / p(x_c^j), with p(· | x_0) = N(√ᾱ x_0, (1-ᾱ)I) below and a Gaussian fitted to all releases.

    images: (N, C, H, W) candidates;  x_c: (M, C, H, W), all that the server holds.  Returns (N,) float64.
    """
    density = log_density(x_c, shrunk_prior(x_c))
    # At ᾱ = 1 the releases are the images, and every likelihood a spike: kept a hair wide.
    variance = max(1.0 - alpha_bar, STORE_VARIANCE_LEAST)
    flat, held = (part.reshape(len(part), -1).astype(np.float64) for part in (images, x_c))
    squares = cdist(np.sqrt(alpha_bar) * flat, held, "sqeuclidean")
    constant = 0.5 * flat.shape[1] * np.log(2.0 * np.pi * variance)
    ratios = -0.5 * squares / variance - constant - density[None, :]
    return np.asarray(logsumexp(ratios, axis=1), dtype=np.float64)


def standardised(errors: NDArray[np.float64]) -> NDArray[np.float64]:
    """Every row brought to mean 0 and deviation 1 over the candidates, then the mean over rows: (R, N) → (N,) float64.

    Errors of different steps differ by orders of magnitude; without this the largest alone would decide.
    """
    deviation = errors.std(axis=1, keepdims=True)
    scaled = (errors - errors.mean(axis=1, keepdims=True)) / np.where(deviation > 0, deviation, 1.0)
    return np.asarray(scaled.mean(axis=0), dtype=np.float64)


def _mean_square(difference: Tensor) -> NDArray[np.float64]:
    squares: NDArray[np.float64] = difference.double().flatten(1).pow(2).mean(dim=1).numpy()
    return squares
