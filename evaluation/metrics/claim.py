"""What may be said of two set-ups that were each trained several times: which is better, and by how much, or that it is open.

`comparison` serves the demo, whose values are draws of images from one training and therefore not independent: no interval of
their mean may be had from them, so it asks for twice the combined spread. Here every value is a training of its own seed, and
Welch's interval of the difference of the means (Welch 1947, with the degrees of freedom of Satterthwaite 1946) errs at a
known rate, whatever the number of seeds and however unlike the spreads. The fixed factor does not: for two sets of three seeds
it errs in 2.6 % of the cases where the spreads are alike and in 7.4 % where one is nil, and with more seeds it finds nothing.
"""

import math

from pydantic import ConfigDict
from pydantic.dataclasses import dataclass
from scipy import stats

from evaluation.errors import MeasurementsError
from evaluation.metrics.comparison import Unit
from evaluation.metrics.spread import Spread

LEAST_RUNS = 3
"""Trainings of each set-up below which nothing is claimed."""
_ERROR_RATE = 0.05


@dataclass(frozen=True, config=ConfigDict(extra="forbid", allow_inf_nan=False))
class Claim:
    """One metric of two set-ups over trainings.

    advantage: how much better the first of `names` is, in the metric's unit; negative where the second is.
    low, high: Welch's interval of it.  error_rate: how often such an interval misses the true difference.
    better: the name that the interval allows to call better, or None.  runs: trainings of each.
    """

    metric: str
    unit: Unit
    names: tuple[str, str]
    advantage: float
    low: float
    high: float
    error_rate: float
    better: str | None
    runs: tuple[int, int]


def better(metric: str, unit: Unit, a: Spread, b: Spread, names: tuple[str, str], *, among: int = 1) -> Claim:
    """Judge a difference of means over trainings.

    Args:
        metric: its name, for people.
        unit: of a distance less is better, of a share more.
        a: over the trainings of the first, one value for each seed.
        b: likewise of the second.
        names: of the two.
        among: comparisons in the same table; each is allowed its part of an error rate of 5 % for all (Bonferroni).

    Raises:
        MeasurementsError: `among` is below 1.
    """
    if among < 1:
        raise MeasurementsError(f"{among} comparisons: count this one and those beside it")
    rate = _ERROR_RATE / among
    difference = b.mean - a.mean if unit is Unit.DISTANCE else a.mean - b.mean
    reach = _welch_reach(a, b, rate)
    told = min(a.n, b.n) >= LEAST_RUNS and abs(difference) > reach
    winner = names[0 if difference > 0 else 1] if told else None
    return Claim(
        metric, unit, names, difference, difference - reach, difference + reach, rate, winner, (a.n, b.n)
    )


def claim_in_words(claim: Claim) -> str:
    """The claim as one plain sentence, or that there is none."""
    metric = claim.metric[:1].upper() + claim.metric[1:]
    first, second = claim.names
    if min(claim.runs) < LEAST_RUNS:
        return (
            f"{metric}: {first} and {second} were trained {claim.runs[0]} and {claim.runs[1]} times; "
            f"nothing is claimed of fewer than {LEAST_RUNS} trainings."
        )
    if claim.better is None:
        interval = f"{_number(claim.low, claim.unit)} and {_number(claim.high, claim.unit)}"
        return (
            f"{metric}: the advantage of {first} over {second} lies between {interval}{_noun(claim.unit)}, "
            "so these trainings do not tell which is better."
        )
    ends = sorted((abs(claim.low), abs(claim.high)))
    return (
        f"{metric}: {claim.better} is better by {_number(abs(claim.advantage), claim.unit)}{_noun(claim.unit)} "
        f"({_number(ends[0], claim.unit)} to {_number(ends[1], claim.unit)}; "
        f"{claim.runs[0]} and {claim.runs[1]} trainings)."
    )


def _welch_reach(a: Spread, b: Spread, rate: float) -> float:
    """Half the width of the interval; 0 where neither scatters."""
    of_a, of_b = a.standard_deviation**2 / a.n, b.standard_deviation**2 / b.n
    if of_a + of_b == 0:
        return 0.0
    freedom = (of_a + of_b) ** 2 / (of_a**2 / (a.n - 1) + of_b**2 / (b.n - 1))
    return float(stats.t.isf(rate / 2, freedom)) * math.sqrt(of_a + of_b)


def _number(value: float, unit: Unit) -> str:
    return f"{100 * value:.1f}" if unit is Unit.SHARE else f"{value:.2g}"


def _noun(unit: Unit) -> str:
    return " percentage points" if unit is Unit.SHARE else ""
