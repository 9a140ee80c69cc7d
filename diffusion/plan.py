"""Step plans: at which t the network is evaluated, on either side of the cut.

A plan is the strictly decreasing tuple of the t's a sample passes, its end included: (1000, 600, 200) is two
evaluations, at 1000 and at 600, and leaves the sample at 200. The cut decides what is disclosed; the plan
decides what is computed.
"""

from collections.abc import Sequence
from itertools import pairwise

import numpy as np

from diffusion.errors import PlanError
from diffusion.schedule import NoiseSchedule

SPACINGS = ("uniform", "log_snr")


def plan(
    schedule: NoiseSchedule, start: int, stop: int, evaluations: int, spacing: str = "uniform"
) -> tuple[int, ...]:
    """A plan of `evaluations` network calls from `start` down to `stop`.

    spacing: "uniform" takes equal strides in t, "log_snr" equal strides in log-SNR (Lu et al. 2022, §5).
    There cannot be more evaluations than steps, so more than start - stop means exactly that many. `start ==
    stop` is the plan (start,), which evaluates nothing.

    Returns evaluations + 1 integers.  Raises PlanError when the request makes no sense.
    """
    if spacing not in SPACINGS:
        raise PlanError(f"no spacing is called {spacing!r}: choose one of {', '.join(SPACINGS)}")
    if not 0 <= stop <= start <= schedule.T:
        raise PlanError(f"cannot step from {start} to {stop}: a plan falls within [0, {schedule.T}]")
    if start == stop:
        return (start,)
    if evaluations < 1:
        raise PlanError(f"{evaluations} evaluations cannot step from {start} to {stop}: ask for at least 1")
    count = min(evaluations, start - stop)
    if spacing == "uniform":
        return _uniform(start, stop, count)
    return _log_snr(schedule, start, stop, count)


def check_plan(plan: Sequence[int], T: int) -> None:
    """Raise PlanError unless `plan` is a non-empty, strictly decreasing sequence of ints within [0, T]."""
    if not plan:
        raise PlanError("an empty step plan leads nowhere: name at least the step the sample is at")
    if any(isinstance(t, bool) or not isinstance(t, int | np.integer) for t in plan):
        raise PlanError("a step plan holds whole numbers only")
    if not 0 <= plan[-1] <= plan[0] <= T or any(s >= t for t, s in pairwise(plan)):
        raise PlanError(f"a step plan must fall strictly within [0, {T}]")


def _uniform(start: int, stop: int, count: int) -> tuple[int, ...]:
    """Equal strides, rounded to the nearest step in whole numbers so that every machine agrees."""
    width = start - stop
    return tuple(start - (2 * i * width + count) // (2 * count) for i in range(count + 1))


def _log_snr(schedule: NoiseSchedule, start: int, stop: int, count: int) -> tuple[int, ...]:
    """Equal strides in log-SNR; the stride to t = 0, where log-SNR is infinite, starts at t = 1."""
    if stop == 0:
        return (*(_log_snr(schedule, start, 1, count - 1) if count > 1 else (start,)), 0)
    log_snr = schedule.log_snr
    wanted = np.linspace(log_snr[start], log_snr[stop], count + 1)
    # np.interp wants rising abscissae, and log-SNR falls with t.
    nearest = np.rint(np.interp(wanted, log_snr[:0:-1], np.arange(schedule.T, 0, -1))).astype(int)
    steps = [start]
    for i in range(1, count + 1):
        # Neighbours may round to one step: give way downwards, but leave a step for each that follows.
        steps.append(max(min(int(nearest[i]), steps[-1] - 1), stop + count - i))
    return tuple(steps)
