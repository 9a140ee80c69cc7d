"""The denoise workers: evaluations asked for, what one worker does, and how many that takes."""

import math
from dataclasses import dataclass

from collafuse.plan.basis import Basis, Section
from collafuse.plan.item import How, Item
from collafuse.plan.quantity import share
from collafuse.plan.traffic import HOUR_SECONDS, backlog_messages

_SECTION = Section("denoising")


@dataclass(frozen=True)
class Workers:
    """Denoise workers and what they have to do, in network evaluations per second.

    each_per_second: of one worker; None where nobody measured one and none was given.  how, source: where that comes from.
    """

    mean_per_second: float
    peak_per_second: float
    each_per_second: float | None
    count: int | None
    how: How
    source: str


def workers_of(basis: Basis) -> Workers:
    """How many workers a demand takes at its peak."""
    demand = basis.demand
    images = basis.traffic.requests.mean_per_second * demand.images_per_request
    mean = images * demand.server_steps
    peak = mean * demand.peak_factor
    each, how, source = _each(basis)
    count = None if each is None else max(1, math.ceil(peak / (each * demand.utilisation)))
    return Workers(mean, peak, each, count, how, source)


def catch_up_hours(basis: Basis, workers: Workers) -> float | None:
    """Hours after which the workers have done what waited while they were away, beside what comes; None where unknown."""
    if workers.each_per_second is None or workers.count is None:
        return None
    free = workers.each_per_second * workers.count - workers.mean_per_second
    per_message = basis.demand.images_per_request * basis.demand.server_steps
    waiting = backlog_messages(basis.traffic.requests, basis.demand.hours_away) * per_message
    return waiting / free / HOUR_SECONDS if free > 0 else None


def items(basis: Basis, workers: Workers) -> list[Item]:
    """The lines on denoising."""
    demand, of = basis.demand, _SECTION.item
    steps = f"--server-steps {demand.server_steps} for each image"
    runs = f"at the peak and {share(demand.utilisation)} of capacity"
    return [
        of("evaluations, mean", workers.mean_per_second, "evaluations/s", "derived", steps),
        of(
            "evaluations, busiest hour",
            workers.peak_per_second,
            "evaluations/s",
            "derived",
            "times --peak-factor",
        ),
        of(
            "evaluations of one worker", workers.each_per_second, "evaluations/s", workers.how, workers.source
        ),
        of("denoise workers", workers.count, "workers", "derived", runs),
        of(
            "caught up after",
            catch_up_hours(basis, workers),
            "h",
            "derived",
            "what waited, done beside what comes in the mean",
        ),
    ]


def _each(basis: Basis) -> tuple[float | None, How, str]:
    demand = basis.demand
    if demand.step_seconds is not None:
        return demand.step_batch / demand.step_seconds, "given", "--step-seconds and --step-batch"
    figure = basis.figures.denoise_evaluations_per_second(demand.shape)
    if figure is None:
        return None, "measured", "no figure is kept for images of this shape: give --step-seconds"
    about = basis.figures.machines["engine"]
    return figure.value, "measured", f"{figure.source}; {about['cores']} cores, no GPU"
