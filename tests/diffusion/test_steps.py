"""The one-form samplers: against an independent implementation, against each other, and mixed in one batch."""

from itertools import pairwise
from typing import Any

import diffusers
import numpy as np
import pytest
import torch

from diffusion.errors import PlanError
from diffusion.plan import plan
from diffusion.schedule import SCHEDULES, NoiseSchedule
from diffusion.steps import SAMPLERS, advance, coefficients, predict_x0
from tests.diffusion.oracle import example

T = 1000
TARGET = example()


def start(seed: int = 0) -> torch.Tensor:
    return torch.randn((5, 4, 1, 1), generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def rival(kind: Any, schedule: NoiseSchedule, **settings: Any) -> Any:
    """A scheduler of diffusers on our table, without the float32 it would keep it in. Its t is ours minus 1."""
    betas = 1 - schedule.alpha_bar[1:] / schedule.alpha_bar[:-1]
    scheduler = kind(num_train_timesteps=T, trained_betas=betas, prediction_type="epsilon", **settings)
    scheduler.alphas_cumprod = torch.tensor(schedule.alpha_bar[1:])
    scheduler.alphas = torch.tensor(1 - betas)
    scheduler.betas = torch.tensor(betas)
    return scheduler


def our_step(
    schedule: NoiseSchedule,
    sampler: str,
    x: torch.Tensor,
    steps: tuple[int, int],
    noise: torch.Tensor,
    *,
    eta: float = 0,
) -> tuple[torch.Tensor, torch.Tensor]:
    """One first-order step of ours, and the ε̂ it used."""
    t = torch.full((len(x),), steps[0])
    eps = TARGET.predict(schedule, x, t)
    factors = coefficients(schedule, sampler, t, steps[1], eta=eta)
    return advance(x, predict_x0(schedule, x, eps, t), None, noise, factors), eps


@pytest.mark.parametrize("eta", [0.0, 0.3, 1.0])
@pytest.mark.parametrize("name", SCHEDULES)
def test_ddim_agrees_with_diffusers(name: str, eta: float) -> None:
    schedule = NoiseSchedule.named(name, T)
    scheduler = rival(diffusers.DDIMScheduler, schedule, clip_sample=False, set_alpha_to_one=True)
    scheduler.num_inference_steps = 20
    steps, x = plan(schedule, T, 0, 20), start()
    for i, (t, s) in enumerate(pairwise(steps)):
        noise = start(seed=i + 1)
        ours, eps = our_step(schedule, "ddim", x, (t, s), noise, eta=eta)
        theirs = scheduler.step(eps, t - 1, x, eta=eta, variance_noise=noise).prev_sample
        torch.testing.assert_close(ours, theirs, rtol=1e-5, atol=1e-5)
        x = ours


@pytest.mark.parametrize("evaluations", [1000, 25])
@pytest.mark.parametrize("name", SCHEDULES)
def test_ddpm_agrees_with_diffusers(name: str, evaluations: int) -> None:
    schedule = NoiseSchedule.named(name, T)
    scheduler = rival(diffusers.DDPMScheduler, schedule, clip_sample=False, variance_type="fixed_small")
    steps, x = plan(schedule, T, 0, evaluations), start()
    scheduler.set_timesteps(timesteps=[t - 1 for t in steps[:-1]])
    for i, (t, s) in list(enumerate(pairwise(steps)))[:: max(1, evaluations // 25)]:
        noise = start(seed=i + 1)
        ours, eps = our_step(schedule, "ddpm", x, (t, s), noise)
        drawn = torch.Generator().manual_seed(i + 1)
        theirs = scheduler.step(eps, t - 1, x, generator=drawn).prev_sample
        torch.testing.assert_close(ours, theirs, rtol=1e-5, atol=1e-5)
        x = ours


@pytest.mark.parametrize("evaluations", [10, 20])
@pytest.mark.parametrize("spacing", ["uniform", "log_snr"])
@pytest.mark.parametrize("name", SCHEDULES)
def test_dpm_solver_agrees_with_diffusers(name: str, spacing: str, evaluations: int) -> None:
    schedule = NoiseSchedule.named(name, T)
    scheduler = rival(
        diffusers.DPMSolverMultistepScheduler,
        schedule,
        algorithm_type="dpmsolver++",
        solver_order=2,
        solver_type="midpoint",
        final_sigmas_type="zero",
    )
    steps = plan(schedule, T, 0, evaluations, spacing)
    scheduler.set_timesteps(timesteps=[t - 1 for t in steps[:-1]])
    # In float64, like ours: what is compared is the formula and not the rounding of its inputs.
    scheduler.sigmas = torch.tensor(np.sqrt((1 - schedule.alpha_bar) / schedule.alpha_bar)[list(steps)])
    x = theirs = start()
    x0_prev, t_prev = None, -1
    for t, s in pairwise(steps):
        step = torch.full((len(x),), t)
        x0 = predict_x0(schedule, x, TARGET.predict(schedule, x, step), step)
        x = advance(x, x0, x0_prev, None, coefficients(schedule, "dpmpp2m", step, s, t_prev=t_prev))
        theirs = scheduler.step(TARGET.predict(schedule, theirs, step), t - 1, theirs).prev_sample
        torch.testing.assert_close(x, theirs.to(x), rtol=1e-5, atol=1e-5)
        x0_prev, t_prev = x0, t


def test_ancestral_sampling_is_ddim_with_all_its_noise() -> None:
    schedule = NoiseSchedule.cosine(T)
    t, s = np.array([1000, 700, 2, 1]), np.array([999, 100, 1, 0])
    ddim, ddpm = coefficients(schedule, "ddim", t, s, eta=1.0), coefficients(schedule, "ddpm", t, s)
    for part in ("x", "x0", "x0_prev", "noise"):
        np.testing.assert_array_equal(getattr(ddim, part), getattr(ddpm, part))
    a, b = schedule.alpha_bar[t], schedule.alpha_bar[s]
    np.testing.assert_allclose(ddpm.noise**2, (1 - b) / (1 - a) * (1 - a / b), rtol=1e-9, atol=1e-15)


def test_one_batch_mixes_steps_samplers_and_history() -> None:
    schedule = NoiseSchedule.linear(T)
    samplers = ["ddim", "ddpm", "dpmpp2m", "dpmpp2m", "ddim", "dpmpp2m"]
    t, s = np.array([900, 800, 700, 600, 500, 40]), np.array([850, 700, 650, 0, 0, 20])
    eta, t_prev = np.array([0.5, 0, 0, 0, 0, 0]), np.array([950, 900, 750, 700, -1, -1])
    mixed = coefficients(schedule, samplers, t, s, eta=eta, t_prev=t_prev)
    for i, sampler in enumerate(samplers):
        alone = coefficients(schedule, sampler, t[i], s[i], eta=float(eta[i]), t_prev=int(t_prev[i]))
        for part in ("x", "x0", "x0_prev", "noise"):
            assert getattr(mixed, part)[i] == getattr(alone, part)[0]
    np.testing.assert_array_equal(mixed.x0_prev != 0, [False, False, True, False, False, False])
    np.testing.assert_array_equal(mixed.noise != 0, [True, True, False, False, False, False])


@pytest.mark.parametrize("sampler", SAMPLERS)
def test_arrays_and_tensors_agree(sampler: str) -> None:
    schedule = NoiseSchedule.cosine(T)
    generator = np.random.default_rng(0)
    x, eps, before, noise = generator.normal(size=(4, 3, 1, 2, 2)).astype(np.float32)
    t, s, clips = np.array([900, 500, 2]), np.array([800, 300, 1]), np.array([1.0, np.inf, 0.5])
    factors = coefficients(schedule, sampler, t, s, eta=0.5, t_prev=t + 50)
    x0 = predict_x0(schedule, x, eps, t, clips)
    array = advance(x, x0, before, noise, factors)
    as_tensor = torch.tensor
    x0_tensor = predict_x0(schedule, as_tensor(x), as_tensor(eps), as_tensor(t), as_tensor(clips))
    tensor = advance(as_tensor(x), x0_tensor, as_tensor(before), as_tensor(noise), factors)
    assert array.dtype == np.float32
    assert tensor.dtype == torch.float32
    np.testing.assert_allclose(x0_tensor.numpy(), x0, rtol=1e-5, atol=1e-5)
    np.testing.assert_allclose(tensor.numpy(), array, rtol=1e-5, atol=1e-5)


def test_clipping_holds_per_sample() -> None:
    schedule = NoiseSchedule.linear(T)
    x, eps = np.full((3, 1, 2, 2), 5.0), np.zeros((3, 1, 2, 2))
    t = np.array([10, 10, 10])
    free = predict_x0(schedule, x, eps, t)
    assert free.min() > 5
    np.testing.assert_array_equal(predict_x0(schedule, x, eps, t, 1.0), 1.0)
    per_sample = predict_x0(schedule, x, eps, t, np.array([1.0, 2.0, np.inf]))
    np.testing.assert_array_equal(per_sample[:, 0, 0, 0], [1.0, 2.0, free[0, 0, 0, 0]])


@pytest.mark.parametrize("sampler", SAMPLERS)
def test_the_last_step_is_the_prediction(sampler: str) -> None:
    factors = coefficients(NoiseSchedule.linear(T), sampler, np.array([1, 300]), np.array([0, 0]), t_prev=600)
    np.testing.assert_array_equal(factors.x, 0)
    np.testing.assert_array_equal(factors.x0, 1)
    np.testing.assert_array_equal(factors.x0_prev, 0)
    np.testing.assert_array_equal(factors.noise, 0)


def test_what_a_step_needs_must_be_given() -> None:
    schedule, x = NoiseSchedule.linear(T), np.zeros((1, 1, 2, 2))
    with pytest.raises(PlanError, match="previous prediction"):
        advance(x, x, None, None, coefficients(schedule, "dpmpp2m", 500, 400, t_prev=600))
    with pytest.raises(PlanError, match="noise"):
        advance(x, x, None, None, coefficients(schedule, "ddpm", 500, 400))


@pytest.mark.parametrize(
    ("sampler", "t", "s", "eta"),
    [
        ("euler", 5, 3, 0.0),
        ("ddim", 5, 5, 0.0),
        ("ddim", 1001, 5, 0.0),
        ("ddim", 5, -1, 0.0),
        ("ddim", 5, 3, 1.5),
    ],
)
def test_an_impossible_step_is_refused(sampler: str, t: int, s: int, eta: float) -> None:
    with pytest.raises(PlanError):
        coefficients(NoiseSchedule.linear(T), sampler, t, s, eta=eta)
