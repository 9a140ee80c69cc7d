"""Every sampler in one data-prediction form.

    x_s = k_x·x_t + k_0·x̂_0 + k_p·x̂_0^prev + k_z·z

The four factors are numbers per sample, so one batch may hold samples at different t, going to different s,
by different samplers:

- "ddim" with η (Song et al. 2021, eq. 12 and 16); η = 0 draws no noise;
- "ddpm", ancestral sampling with the posterior's variance (Ho et al. 2020, eq. 6 and 7), which is DDIM at η
  = 1;
- "dpmpp2m", DPM-Solver++(2M) (Lu et al. 2022, algorithm 2), whose first-order step is DDIM at η = 0.

So one formula serves all three: the noise scale σ and the use of the previous prediction are all that differ.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from diffusion.arrays import ArrayT, Float64, Int64, column, gather, is_tensor, on_host
from diffusion.errors import PlanError
from diffusion.schedule import NoiseSchedule

SAMPLERS = ("ddim", "ddpm", "dpmpp2m")


@dataclass(frozen=True, eq=False)
class StepCoefficients:
    """The factors of one step, (B,) float64 each."""

    x: Float64
    """k_x, of the current x_t."""
    x0: Float64
    """k_0, of the current prediction x̂_0."""
    x0_prev: Float64
    """k_p, of the prediction at the evaluation before; 0 for every sample that has none or needs none."""
    noise: Float64
    """k_z, of fresh standard normal noise; 0 for a deterministic step."""


def coefficients(
    schedule: NoiseSchedule,
    sampler: str | Sequence[str],
    t: Any,
    s: Any,
    *,
    eta: float | npt.ArrayLike = 0.0,
    t_prev: Any = -1,
) -> StepCoefficients:
    """The factors of a step from t to s for every sample.

    sampler: one of SAMPLERS, for all or per sample;  t, s: (B,) integers, 0 ≤ s < t ≤ T;
    eta: η in [0, 1], for all or per sample, read by "ddim" alone;
    t_prev: the t of the evaluation before this one, or -1 for none; int or (B,), read by "dpmpp2m" alone.

    The last step of "dpmpp2m" to s = 0 is first order, since log-SNR is infinite there.
    Raises PlanError for an unknown sampler or steps outside the chain.
    """
    t, s = np.broadcast_arrays(np.atleast_1d(on_host(t)), np.atleast_1d(on_host(s)))
    names = np.broadcast_to(np.asarray(sampler), t.shape)
    _check_step(schedule.T, names, t, s)
    before = np.broadcast_to(on_host(t_prev), t.shape)
    eta_used = np.where(
        names == "ddim", np.asarray(eta, dtype=np.float64), (names == "ddpm").astype(np.float64)
    )
    if bool(((eta_used < 0) | (eta_used > 1)).any()):
        raise PlanError("eta is out of range: choose one in [0, 1]")

    a_t, a_s = schedule.alpha_bar[t], schedule.alpha_bar[s]
    variance = eta_used**2 * (1 - a_s) / (1 - a_t) * (1 - a_t / a_s)
    k_x = np.sqrt(np.maximum(1 - a_s - variance, 0) / (1 - a_t))
    k_first = np.sqrt(a_s) - k_x * np.sqrt(a_t)
    half = _extrapolation(schedule, t, s, np.where(names == "dpmpp2m", before, -1))
    return StepCoefficients(x=k_x, x0=k_first * (1 + half), x0_prev=-k_first * half, noise=np.sqrt(variance))


def predict_x0(
    schedule: NoiseSchedule, x: ArrayT, eps: ArrayT, t: Any, clip: float | npt.ArrayLike | None = None
) -> ArrayT:
    """x̂_0 = (x_t − √(1-ᾱ_t)·ε̂)/√ᾱ_t, clipped to [-clip, clip].

    A clipped prediction also changes the direction of the step, since the steps are written in x̂_0 alone
    (improved-diffusion does the same; diffusers calls it `use_clipped_model_output`).

    x, eps: (B, ...) float;  t: int or (B,) integers in [1, T];  clip: None, a bound, or (B,) bounds with inf
    for "no bound".
    """
    alpha_bar = gather(schedule.alpha_bar, t)
    noisy: Any = x
    x0 = (noisy - column((1 - alpha_bar) ** 0.5, x) * eps) / column(alpha_bar**0.5, x)
    if clip is not None:
        bound = column(clip, x)
        x0 = x0.clamp(-bound, bound) if is_tensor(x) else np.clip(x0, -bound, bound)
    result: ArrayT = x0
    return result


def advance(
    x: ArrayT, x0: ArrayT, x0_prev: ArrayT | None, noise: ArrayT | None, coefficients: StepCoefficients
) -> ArrayT:
    """x_s = k_x·x_t + k_0·x̂_0 + k_p·x̂_0^prev + k_z·z.

    x, x0, x0_prev, noise: (B, ...) float. x0_prev and noise may be None when no sample of the batch uses
    them.
    """
    now: Any = x
    result = column(coefficients.x, x) * now + column(coefficients.x0, x) * x0
    if x0_prev is not None:
        result = result + column(coefficients.x0_prev, x) * x0_prev
    elif coefficients.x0_prev.any():
        raise PlanError("a second-order step needs the previous prediction: pass x0_prev, or t_prev=-1")
    if noise is not None:
        result = result + column(coefficients.noise, x) * noise
    elif coefficients.noise.any():
        raise PlanError("this step draws noise: pass it, or choose a deterministic sampler")
    x_s: ArrayT = result
    return x_s


def _extrapolation(schedule: NoiseSchedule, t: Int64, s: Int64, t_prev: Int64) -> Float64:
    """h/(2·h_prev) in λ = ½·log-SNR where the step is second order, 0 elsewhere: (B,) float64."""
    second_order = (t_prev > t) & (s > 0)
    log_snr = schedule.log_snr
    h = log_snr[np.maximum(s, 1)] - log_snr[t]
    h_prev = log_snr[t] - log_snr[np.where(second_order, t_prev, t - 1)]
    half: Float64 = np.where(second_order, h / (2 * np.where(second_order, h_prev, 1)), 0.0)
    return half


def _check_step(T: int, names: npt.NDArray[np.str_], t: Int64, s: Int64) -> None:
    unknown = sorted(set(names.tolist()) - set(SAMPLERS))
    if unknown:
        raise PlanError(f"no sampler is called {unknown[0]!r}: choose one of {', '.join(SAMPLERS)}")
    if bool((s < 0).any()) or bool((s >= t).any()) or bool((t > T).any()):
        raise PlanError(f"a step must go from t to a smaller s, both within [0, {T}]")
