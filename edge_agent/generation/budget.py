"""How many steps of the head a picture gets: as many as its budget of time and of energy pays for."""

import math
from dataclasses import dataclass
from typing import Any

import structlog

from edge_agent.generation.jobs import Job
from edge_agent.heads.calibration import StepMeter
from edge_agent.heads.facts import HeadFacts
from edge_agent.settings import EdgeSettings

log = structlog.get_logger(__name__)


@dataclass(frozen=True)
class Budget:
    """What the head may take for an image; None for no bound."""

    seconds: float | None = None
    joules: float | None = None


@dataclass(frozen=True)
class Choice:
    """So many evaluations of the head, and why; `enough` is False when the budget does not pay for one."""

    head_steps: int
    why: str
    enough: bool = True


def most_steps(budget: float, cost: float, limit: int) -> int:
    """The largest s in 0..limit with s·cost ≤ budget. budget, cost: above 0, in one unit."""
    steps = min(limit, math.floor(min(budget / cost, float(limit))))
    # The quotient is rounded, and the product is what counts.
    while steps > 0 and steps * cost > budget:
        steps -= 1
    while steps < limit and (steps + 1) * cost <= budget:
        steps += 1
    return steps


def choose(budget: Budget, seconds: float, joules: float | None, t_cut: int) -> Choice:
    """Choose the steps of a budget that bounds at least one of time and energy.

    seconds, joules: of one step for one image, joules None where nobody knows.  t_cut: there are no more steps than that.
    """
    bounds: list[tuple[int, str]] = []
    if budget.seconds is not None:
        words = f"{1000 * budget.seconds:g} ms for an image, at {1000 * seconds:.3g} ms a step"
        bounds.append((most_steps(budget.seconds, seconds, t_cut), words))
    if budget.joules is not None and joules is not None and joules > 0:
        words = f"{budget.joules:g} J for an image, at {joules:.3g} J a step"
        bounds.append((most_steps(budget.joules, joules, t_cut), words))
    if not bounds:
        return Choice(t_cut, "no step costs anything of the budget")
    steps, words = min(bounds)
    if steps == 0:
        return Choice(1, f"the budget does not pay for a single step: {words}", enough=False)
    return Choice(steps, words)


class Planner:
    """Chooses the head's steps for each job: the job's own wish first, then a budget, then the settings' number.

    settings: of the agent.  meter: knows what a step costs, once a head is loaded.
    """

    def __init__(self, settings: EdgeSettings, meter: StepMeter) -> None:
        self._settings = settings
        self._meter = meter
        self._told: str | None = None

    def head_steps(self, job: Job, head: HeadFacts | None) -> int:
        """Evaluations of the head for each image of a job."""
        if job.head_steps is not None:
            return job.head_steps
        budget = self._budget if job.budget_ms is None else Budget(seconds=job.budget_ms / 1000)
        choice = self._choose(budget, head, job.count)
        if not choice.enough:
            log.warning("budget_too_small", job_id=job.job_id, error=choice.why)
        return choice.head_steps

    def facts(self, head: HeadFacts | None) -> dict[str, Any]:
        """What the status says: milliseconds of a step of one image, and the steps that a single image gets."""
        choice = self._choose(self._budget, head, 1)
        if not choice.enough and choice.why != self._told:
            self._told = choice.why
            log.warning("budget_too_small", error=choice.why)
        cost = self._meter.cost
        return {
            "step_ms": None if cost is None else round(1000 * cost.seconds_one, 3),
            "step_joules": None if cost is None or cost.joules_one is None else round(cost.joules_one, 6),
            "joules_are": None if cost is None else cost.kind,
            "head_steps": choice.head_steps,
            "why": choice.why,
        }

    @property
    def _budget(self) -> Budget:
        budget_ms = self._settings.budget_ms
        return Budget(None if budget_ms is None else budget_ms / 1000, self._settings.budget_joules)

    def _choose(self, budget: Budget, head: HeadFacts | None, count: int) -> Choice:
        cost = self._meter.cost
        if budget == Budget():
            return Choice(self._settings.head_steps, "the settings say so")
        if head is None or cost is None:
            return Choice(self._settings.head_steps, "the settings say so, for no head has been measured yet")
        return choose(budget, cost.seconds(count), cost.joules(count), head.t_cut)
