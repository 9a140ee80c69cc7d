"""Running a chain: one plan, one sampler, one batch. What a head does, what the tests do, and what the evaluation does."""

from collections.abc import Callable, Sequence
from itertools import pairwise
from time import perf_counter
from typing import Any

import numpy as np

from diffusion.arrays import ArrayT, like, on_host, steps_like
from diffusion.noise import sampling_noise
from diffusion.plan import check_plan
from diffusion.schedule import NoiseSchedule
from diffusion.steps import StepCoefficients, advance, coefficients, predict_x0


def run(
    schedule: NoiseSchedule,
    predict_eps: Callable[[ArrayT, Any], ArrayT],
    x: ArrayT,
    plan: Sequence[int],
    sampler: str = "ddim",
    *,
    eta: float = 0.0,
    clip: float | None = None,
    seeds: Any = 0,
    samples: Any = None,
    on_step: Callable[[int, int, float], None] | None = None,
    on_state: Callable[[int, Any], None] | None = None,
) -> ArrayT:
    """Denoise `x` from plan[0] to plan[-1].

    predict_eps: (x_t (B, ...), t (B,) int64) → ε̂ (B, ...), labels bound in by the caller;
    x: (B, ...) float at step plan[0], array or tensor;  plan, sampler, eta: see `plan` and `steps`;
    clip: bound on |x̂_0|, or None;  seeds, samples: the address of each sample's noise, int or (B,); samples
    default to 0..B-1;
    on_step: told (t, s, seconds) after every step;  on_state: shown (index, x), the index of the place in the plan
    that the samples have come to, 0 at the start; it must not write to x, and its time is in no step's seconds.

    Returns x at plan[-1], of the kind, dtype and device of `x`.  Raises PlanError for a plan or a sampler
    that cannot be run.
    """
    check_plan(plan, schedule.T)
    batch = _batch_size(x)
    indices = np.arange(batch) if samples is None else on_host(samples)
    x0_prev: ArrayT | None = None
    t_prev = -1
    if on_state is not None:
        on_state(0, x)
    for index, (t, s) in enumerate(pairwise(plan), start=1):
        started = perf_counter()
        factors = coefficients(
            schedule, sampler, np.full(batch, t), np.full(batch, s), eta=eta, t_prev=t_prev
        )
        x0 = predict_x0(schedule, x, predict_eps(x, steps_like(t, x)), t, clip)
        x = advance(x, x0, x0_prev, _noise(factors, seeds, indices, t, x), factors)
        x0_prev, t_prev = x0, t
        if on_step is not None:
            on_step(t, s, perf_counter() - started)
        if on_state is not None:
            on_state(index, x)
    return x


def _noise(factors: StepCoefficients, seeds: Any, samples: Any, t: int, x: ArrayT) -> ArrayT | None:
    """The step's noise in the kind of `x`, or None when the step is deterministic."""
    if not factors.noise.any():
        return None
    batch: Any = x
    return like(sampling_noise(seeds, samples, t, tuple(batch.shape[1:])), x)


def _batch_size(x: Any) -> int:
    return int(x.shape[0])
