"""What the experiment on asking says of figures that are given: its controls can fail, and a claim needs its spread."""

from dataclasses import replace

import pytest

from evaluation.conditioning.asking import Way
from evaluation.conditioning.judging import Heard
from evaluation.experiments.conditioning.figures import AskedFigures
from evaluation.experiments.conditioning.outcome import claim_findings, control_findings, heard_chart
from evaluation.experiments.conditioning.study import BOTH, NOBODY, Case, cases
from evaluation.metrics.spread import spread
from evaluation.reporting.outcome import Finding, Weight
from evaluation.running.design import Design

DESIGN = Design.quick()
GOOD_JUDGE = Heard(presence=0.95, side=0.9, size=0.8)
STRONG_LABEL = Case(0.4, Way.LABEL, BOTH)


def figures(presence: float, scatter: float = 0.01, size: float = 0.0) -> AskedFigures:
    around = spread((presence - scatter, presence, presence + scatter))
    some = spread((0.4, 0.5, 0.6))
    return AskedFigures(
        presence=around, side=some, size=spread((size, size)), fid=some, kid=some, precision=some, recall=some
    )


def found(scatter: float = 0.01) -> dict[Case, AskedFigures]:
    """Nobody asked is chance, and the stronger the better."""
    return {
        case: figures(0.5 + 0.1 * max(case.guidance.server, case.guidance.head), scatter)
        for case in cases(DESIGN)
    }


def weights(findings: list[Finding]) -> list[Weight]:
    return [finding.weight for finding in findings]


def test_controls_that_come_out_as_they_must_are_controls() -> None:
    assert weights(control_findings(found(), 0.4, GOOD_JUDGE, "judge")) == [Weight.CONTROL] * 3


@pytest.mark.parametrize(
    ("judge", "case", "wrong", "failed"),
    [
        (replace(GOOD_JUDGE, presence=0.7), None, None, 0),
        (GOOD_JUDGE, Case(0.4, Way.TEXT, NOBODY), figures(0.7), 1),
        (GOOD_JUDGE, STRONG_LABEL, figures(0.9, size=0.6), 2),
    ],
    ids=["a judge that sees little", "lesions that nobody asked for", "sizes that no label says"],
)
def test_a_control_that_does_not_is_told_as_failed(
    judge: Heard, case: Case | None, wrong: AskedFigures | None, failed: int
) -> None:
    figures_found = found()
    if case is not None and wrong is not None:
        figures_found[case] = wrong
    told = weights(control_findings(figures_found, 0.4, judge, "judge"))
    assert told == [Weight.FAILED_CONTROL if place == failed else Weight.CONTROL for place in range(3)]


@pytest.mark.parametrize(("scatter", "weight"), [(0.001, Weight.CLAIM), (0.4, Weight.UNDECIDED)])
def test_a_difference_is_claimed_when_it_leaves_the_spread(scatter: float, weight: Weight) -> None:
    said = claim_findings(found(scatter), (0.4, 0.8))
    about_asking = [f for f in said if f.text.startswith("Lesion as asked, ")]
    assert weights(about_asking) == [weight] * 3
    assert all("against asking nobody" in finding.text for finding in about_asking)


def test_figures_without_any_difference_are_never_claimed() -> None:
    same = {case: figures(0.6, 0.05) for case in cases(DESIGN)}
    assert set(weights(claim_findings(same, (0.4, 0.8)))) == {Weight.UNDECIDED}


def test_the_chart_has_every_way_from_nothing_asked_upwards() -> None:
    chart = heard_chart(found(), 0.4, GOOD_JUDGE)
    assert {series.name: series.x for series in chart.series} == {
        "by label": (0.0, 1.0, 3.0),
        "by attributes": (0.0, 1.0, 3.0),
        "in words": (0.0, 1.0, 2.0, 3.0),
    }
    assert all(series.mean[0] == pytest.approx(0.5) for series in chart.series)
