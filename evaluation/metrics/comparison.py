"""Whether one set-up is better than another or the figures cannot tell: said in the same words both ways."""

import math
from enum import StrEnum

from pydantic import ConfigDict
from pydantic.dataclasses import dataclass

from evaluation.metrics.fidelity import Fidelity
from evaluation.metrics.spread import Spread


class Unit(StrEnum):
    """What a metric counts in."""

    DISTANCE = "distance"
    SHARE = "share"


class Verdict(StrEnum):
    """What a comparison allows to be said."""

    COLLABORATIVE = "collaborative is better"
    ISOLATED = "isolated is better"
    UNDECIDED = "the difference is inside the spread"


@dataclass(frozen=True, config=ConfigDict(extra="forbid", allow_inf_nan=False))
class Comparison:
    """Collaborative against isolated by one metric.

    advantage: how much better collaborative is, in the metric's unit; negative where isolated is better.
    threshold: twice the combined standard deviation 2·√(s_c² + s_i²), which the advantage must exceed in
    size.
    """

    metric: str
    unit: Unit
    advantage: float
    threshold: float
    verdict: Verdict


def compare(metric: str, unit: Unit, collaborative: Spread, isolated: Spread) -> Comparison:
    """Judges a difference of means against twice the combined spread of single measurements.

    unit: of a distance less is better, of a share more.

    Single measurements scatter more than their mean, so this is the cautious side: a small true difference
    is called undecided rather than claimed.
    """
    difference = isolated.mean - collaborative.mean
    advantage = difference if unit is Unit.DISTANCE else -difference
    threshold = 2.0 * math.hypot(collaborative.standard_deviation, isolated.standard_deviation)
    verdict = Verdict.UNDECIDED
    if abs(advantage) > threshold:
        verdict = Verdict.COLLABORATIVE if advantage > 0 else Verdict.ISOLATED
    return Comparison(metric, unit, advantage, threshold, verdict)


def compare_fidelity(collaborative: Fidelity, isolated: Fidelity) -> tuple[Comparison, ...]:
    """Compares by all three metrics of fidelity."""
    return (
        compare("Fréchet distance", Unit.DISTANCE, collaborative.frechet, isolated.frechet),
        compare("kernel distance", Unit.DISTANCE, collaborative.kid, isolated.kid),
        compare("agreement", Unit.SHARE, collaborative.agreement, isolated.agreement),
    )


def sentence(comparison: Comparison) -> str:
    """The comparison as one plain sentence."""
    size, threshold = (
        _in_words(abs(comparison.advantage), comparison.unit),
        _in_words(comparison.threshold, comparison.unit),
    )
    metric = comparison.metric[:1].upper() + comparison.metric[1:]
    if comparison.verdict is Verdict.UNDECIDED:
        return (
            f"{metric}: the set-ups differ by {size}, which does not exceed twice their combined spread, "
            f"{threshold}. This run does not tell which is better."
        )
    better = "collaborative" if comparison.verdict is Verdict.COLLABORATIVE else "isolated"
    return f"{metric}: {better} training is better by {size}, which exceeds twice the combined spread, {threshold}."


def _in_words(value: float, unit: Unit) -> str:
    return f"{value * 100:.1f} percentage points" if unit is Unit.SHARE else f"{value:.2g}"
