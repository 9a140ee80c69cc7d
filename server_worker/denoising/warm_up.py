"""Before the first request: every batch size once, and what each costs."""

import time
from collections.abc import Callable

import structlog
import torch

from server_worker.denoising.chain import FACTORS
from server_worker.denoising.runner import Runner
from server_worker.denoising.step_cost import StepCost, batch_sizes

log = structlog.get_logger(__name__)

LARGEST_BATCH = {"cuda": 256, "cpu": 64}
_TIMED_CALLS = 5
_ENOUGH_SECONDS = 0.3
_FALLING_OFF = 0.9


def warm_up(
    runner: Runner, device: torch.device, largest: int | None, *, beat: Callable[[], None]
) -> StepCost:
    """Run steps of rising size, compile what is to be compiled, and measure.

    largest: of the batches; None for as far as it pays: until larger batches are no faster per sample, or LARGEST_BATCH.
    beat: called between calls, so that whoever watches for a stuck step knows that this one goes on.
    """
    started = time.monotonic()
    seconds: dict[int, float] = {}
    best = 0.0
    for size in batch_sizes(largest or LARGEST_BATCH[device.type]):
        seconds[size] = _seconds(runner, device, size, beat)
        rate = size / seconds[size]
        if largest is None and rate < _FALLING_OFF * best:
            break
        best = max(best, rate)
    cost = StepCost.measured(seconds)
    log.info(
        "warmed_up",
        seconds=round(time.monotonic() - started, 2),
        step_seconds={str(size): round(value, 5) for size, value in seconds.items()},
        saturating_samples=cost.saturating_samples(),
    )
    return cost


def _seconds(runner: Runner, device: torch.device, size: int, beat: Callable[[], None]) -> float:
    """The least of a few calls, after one that does not count: the first of a size compiles, allocates and chooses kernels."""
    manifest = runner.backbone.manifest
    x = torch.randn((size, *manifest.shape), device=device)
    t = torch.full((size,), manifest.schedule_T, device=device)
    label = None if manifest.num_classes is None else torch.zeros_like(t)
    factors = torch.full((size, FACTORS), 0.5, device=device)
    times: list[float] = []
    for _ in range(1 + _TIMED_CALLS):
        beat()
        began = time.perf_counter()
        runner.step(x, t, label, factors)
        runner.synchronize()
        times.append(time.perf_counter() - began)
        if len(times) > 1 and sum(times[1:]) > _ENOUGH_SECONDS:
            break
    return min(times[1:])
