"""Before a network's first request: every batch size once, and what each costs."""

import time
from collections.abc import Callable

import structlog
import torch

from server_worker.denoising.chain import FACTORS
from server_worker.denoising.runner import Execution, Runner
from server_worker.denoising.step_cost import StepCost, batch_sizes
from server_worker.denoising.watchdog import Watchdog

log = structlog.get_logger(__name__)

LARGEST_BATCH = {"cuda": 256, "cpu": 64}
FIRST_CALL_SECONDS = 1800.0
"""How long a first call may take before it counts as stuck: it compiles."""

_PASSES = 2
_CALLS = 3
_ENOUGH_SECONDS = 0.3
_LONG_STEP_SECONDS = 2.0


def warm_up(
    runner: Runner,
    execution: Execution,
    largest: int | None,
    *,
    watchdog: Watchdog,
    stop: Callable[[], bool] = lambda: False,
) -> StepCost | None:
    """Run steps of rising size, compile what is to be compiled, and measure.

    Two passes, and the least of all calls counts: other work on the machine may disturb one of them, and only ever slows down.

    largest: of the batches; None for LARGEST_BATCH, or where a step begins to take seconds.
    stop: looked at between calls.

    Returns None when it was stopped.
    """
    started = time.monotonic()
    sizes = execution.sizes or batch_sizes(largest or LARGEST_BATCH[execution.device.type])
    seconds: dict[int, float] = {}
    for number in range(_PASSES):
        for size in sizes:
            measured = _seconds(runner, execution, size, watchdog, stop, is_new=not number)
            if measured is None:
                return None
            seconds[size] = min(measured, seconds.get(size, measured))
            if largest is None and not execution.sizes and measured > _LONG_STEP_SECONDS:
                sizes = tuple(each for each in sizes if each <= size)
                break
    runner.is_warm = True
    cost = StepCost.measured(seconds)
    log.info(
        "warmed_up",
        device=str(execution.device),
        version=runner.backbone.number,
        seconds=round(time.monotonic() - started, 2),
        step_seconds={str(size): round(value, 5) for size, value in seconds.items()},
        saturating_samples=cost.saturating_samples(),
    )
    return cost


@torch.inference_mode()  # as the engine runs it: what is compiled holds for such tensors alone
def _seconds(
    runner: Runner,
    execution: Execution,
    size: int,
    watchdog: Watchdog,
    stop: Callable[[], bool],
    *,
    is_new: bool,
) -> float | None:
    """The least of a few calls, after those that do not count; None when stopped.

    is_new: whether it is the first time. The first call of a size compiles, allocates and chooses kernels; where CUDA graphs
    are recorded the second does that.
    """
    manifest, device = runner.backbone.manifest, execution.device
    x = torch.randn((size, *manifest.shape), device=device)
    t = torch.full((size,), manifest.schedule_T, device=device)
    label = None if manifest.num_classes is None else torch.zeros_like(t)
    factors = torch.full((size, FACTORS), 0.5, device=device)
    uncounted = 0 if not is_new else 3 if execution.sizes and execution.asynchronous else 1
    times: list[float] = []
    for call in range(uncounted + _CALLS):
        if stop():
            return None
        watchdog.beat(FIRST_CALL_SECONDS if call < uncounted else 0.0)
        began = time.perf_counter()
        runner.step(x, t, label, factors)
        runner.synchronize()
        if call >= uncounted:
            times.append(time.perf_counter() - began)
        if sum(times) > _ENOUGH_SECONDS:
            break
    return min(times)
