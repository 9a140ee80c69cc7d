"""Whole chains, run with the oracle of a Gaussian: where they land, cut or not."""

import subprocess
import sys
from functools import partial

import numpy as np
import pytest
import torch

from diffusion.arrays import Float64
from diffusion.errors import PlanError
from diffusion.noise import initial_noise
from diffusion.plan import plan
from diffusion.sampling import run
from diffusion.schedule import SCHEDULES, NoiseSchedule
from diffusion.split import Cut
from tests.diffusion.oracle import example, frechet

TARGET = example()
CUTS = [0.0, 0.2, 0.5, 0.8, 1.0]


def noise_at_the_end(schedule: NoiseSchedule, count: int) -> Float64:
    return initial_noise(11, np.arange(count), schedule.T, (4, 1, 1)).astype(np.float64)


def affine(schedule: NoiseSchedule, plans: list[tuple[int, ...]], sampler: str) -> tuple[Float64, Float64]:
    """Mean and covariance in which a deterministic chain leaves N(0, I).

    With the oracle of a Gaussian every step is affine in x, so following 0 and the unit vectors tells all.
    """
    x = np.concatenate((np.zeros((1, 4)), np.eye(4))).reshape(5, 4, 1, 1)
    for steps in plans:
        x = run(schedule, partial(TARGET.predict, schedule), x, steps, sampler)
    flat = x.reshape(5, 4)
    linear = flat[1:] - flat[0]
    return flat[0], linear.T @ linear


@pytest.mark.parametrize("c", CUTS)
@pytest.mark.parametrize(("sampler", "evaluations", "bound"), [("ddim", 500, 1e-3), ("dpmpp2m", 100, 1e-3)])
@pytest.mark.parametrize("name", SCHEDULES)
def test_a_deterministic_chain_lands_on_the_target_cut_or_not(
    name: str, sampler: str, evaluations: int, bound: float, c: float
) -> None:
    schedule = NoiseSchedule.named(name)
    t_cut = Cut(schedule, c).t_cut
    server = plan(schedule, 1000, t_cut, round(evaluations * (1 - c)) or 1, "log_snr")
    head = plan(schedule, t_cut, 0, round(evaluations * c) or 1, "log_snr")
    assert frechet(*affine(schedule, [server, head], sampler), TARGET) < bound


@pytest.mark.parametrize("c", [0.0, 0.4])
@pytest.mark.parametrize(("sampler", "eta"), [("ddpm", 0.0), ("ddim", 0.5)])
def test_a_noisy_chain_lands_on_the_target_cut_or_not(sampler: str, eta: float, c: float) -> None:
    schedule, count = NoiseSchedule.cosine(100), 2000
    t_cut = Cut(schedule, c).t_cut
    x = noise_at_the_end(schedule, count)
    for steps in (plan(schedule, 100, t_cut, 100), plan(schedule, t_cut, 0, 100)):
        x = run(schedule, partial(TARGET.predict, schedule), x, steps, sampler, eta=eta, seeds=11)
    flat = x.reshape(count, 4)
    truth = TARGET.draw(count, seed=5).reshape(count, 4)
    floor = frechet(truth.mean(axis=0), np.cov(truth.T), TARGET)
    assert frechet(flat.mean(axis=0), np.cov(flat.T), TARGET) < floor + 0.01


def test_a_released_image_is_finished_to_the_target_by_the_head() -> None:
    """What a head makes of real releases follows the data: x_c lies on the chain at the cut."""
    cut = Cut(NoiseSchedule.linear(), 0.4)
    count = 4000
    noise = np.random.default_rng(1).normal(size=(count, 4, 1, 1))
    x_c = cut.release(TARGET.draw(count, seed=2), noise)
    steps = plan(cut.schedule, cut.t_cut, 0, 100, "log_snr")
    flat = run(cut.schedule, partial(TARGET.predict, cut.schedule), x_c, steps).reshape(count, 4)
    assert frechet(flat.mean(axis=0), np.cov(flat.T), TARGET) < 0.01


@pytest.mark.parametrize("c", CUTS)
@pytest.mark.parametrize(("sampler", "eta"), [("ddim", 0.0), ("ddim", 0.7), ("ddpm", 0.0)])
@pytest.mark.parametrize("name", SCHEDULES)
def test_a_cut_chain_is_the_uncut_chain(name: str, sampler: str, eta: float, c: float) -> None:
    schedule = NoiseSchedule.named(name)
    t_cut = Cut(schedule, c).t_cut
    server, head = plan(schedule, 1000, t_cut, 16), plan(schedule, t_cut, 0, 4)
    chain = partial(run, schedule, partial(TARGET.predict, schedule), sampler=sampler, eta=eta, seeds=3)
    x = noise_at_the_end(schedule, 6)
    handed_over = chain(chain(x, plan=server), plan=head)
    np.testing.assert_allclose(handed_over, chain(x, plan=server + head[1:]), rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize(("c", "server_calls", "head_calls"), [(0.0, 20, 0), (1.0, 0, 20), (0.5, 20, 20)])
def test_each_side_computes_its_own_share(c: float, server_calls: int, head_calls: int) -> None:
    schedule = NoiseSchedule.cosine()
    t_cut = Cut(schedule, c).t_cut
    told: list[tuple[int, int]] = []
    x = noise_at_the_end(schedule, 2)
    for steps in (plan(schedule, 1000, t_cut, 20), plan(schedule, t_cut, 0, 20)):
        predict = partial(TARGET.predict, schedule)
        x = run(schedule, predict, x, steps, on_step=lambda t, s, seconds: told.append((t, s)))
    assert sum(s >= t_cut for _, s in told) == server_calls
    assert sum(t <= t_cut for t, _ in told) == head_calls
    assert told[0][0] == 1000
    assert told[-1][1] == 0


@pytest.mark.parametrize("sampler", ["ddim", "ddpm", "dpmpp2m"])
def test_a_sample_comes_out_the_same_in_any_batch(sampler: str) -> None:
    schedule = NoiseSchedule.cosine()
    steps = plan(schedule, 1000, 0, 12)
    chain = partial(run, schedule, partial(TARGET.predict, schedule), plan=steps, sampler=sampler, clip=1.0)
    x = noise_at_the_end(schedule, 6)
    together = chain(x, seeds=11)
    pick = np.array([4, 1])
    np.testing.assert_array_equal(chain(x[pick], seeds=11, samples=pick), together[pick])
    np.testing.assert_array_equal(chain(x[pick], seeds=np.array([11, 11]), samples=pick), together[pick])


@pytest.mark.parametrize("sampler", ["ddim", "ddpm", "dpmpp2m"])
def test_arrays_and_tensors_agree(sampler: str) -> None:
    schedule = NoiseSchedule.linear()
    chain = partial(
        run, schedule, partial(TARGET.predict, schedule), plan=plan(schedule, 1000, 0, 10), seeds=2
    )
    x = noise_at_the_end(schedule, 3)
    tensor = chain(torch.tensor(x), sampler=sampler)
    assert isinstance(tensor, torch.Tensor)
    np.testing.assert_allclose(tensor.numpy(), chain(x, sampler=sampler), rtol=1e-9, atol=1e-9)


def test_the_step_reaches_the_network_as_integers_of_its_kind() -> None:
    seen: list[object] = []

    def predict(x: torch.Tensor, t: torch.Tensor) -> torch.Tensor:
        seen.append((t.dtype, t.tolist()))
        return torch.zeros_like(x)

    run(NoiseSchedule.linear(), predict, torch.zeros((2, 1, 2, 2)), (700, 3))
    assert seen == [(torch.int64, [700, 700])]


def test_every_state_on_the_way_is_shown_the_first_and_the_last_included() -> None:
    schedule = NoiseSchedule.cosine(100)
    x = noise_at_the_end(schedule, 2)
    shown: list[tuple[int, np.ndarray]] = []
    chain = partial(run, schedule, partial(TARGET.predict, schedule))

    end = chain(x, plan=(100, 40, 0), on_state=lambda index, state: shown.append((index, state.copy())))

    assert [index for index, _ in shown] == [0, 1, 2]
    for (_, state), expected in zip(shown, (x, chain(x, plan=(100, 40)), end), strict=True):
        np.testing.assert_array_equal(state, expected)
    np.testing.assert_array_equal(end, chain(x, plan=(100, 40, 0)))


def test_a_plan_outside_the_chain_is_refused_before_anything_runs() -> None:
    schedule = NoiseSchedule.linear(100)
    with pytest.raises(PlanError):
        run(schedule, partial(TARGET.predict, schedule), np.zeros((1, 4, 1, 1)), (200, 100, 0))


def test_the_mathematics_of_a_device_needs_no_torch() -> None:
    modules = "arrays, errors, noise, plan, privacy, sampling, schedule, split, steps"
    code = f"from diffusion import {modules}; import sys; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
