"""The page on the evaluation tells what the kept run has found, and nothing else."""

import json

import pytest

from benchmarks.evaluation_pages import KEPT, PAGE, filled, outcomes_of
from evaluation.reporting.outcome import Weight
from evaluation.running.suites import SUITES


def test_the_page_holds_the_kept_figures() -> None:
    page = PAGE.read_text(encoding="utf-8")
    assert filled(page, outcomes_of(json.loads(KEPT.read_text(encoding="utf-8")))) == page


def test_the_kept_run_has_every_experiment_and_no_control_failed() -> None:
    outcomes = outcomes_of(json.loads(KEPT.read_text(encoding="utf-8")))
    assert set(outcomes) == set(SUITES)
    weights = {finding.weight for outcome in outcomes.values() for finding in outcome.findings}
    assert Weight.FAILED_CONTROL not in weights
    for suite in SUITES:
        assert f"<!-- findings {suite} -->" in PAGE.read_text(encoding="utf-8")


def test_a_mark_for_which_there_is_nothing_is_named() -> None:
    outcomes = outcomes_of(json.loads(KEPT.read_text(encoding="utf-8")))
    with pytest.raises(ValueError, match="has no table 'Nothing'"):
        filled("<!-- table sweep: Nothing -->\n<!-- end -->", outcomes)
    with pytest.raises(ValueError, match="wants 'sleep'"):
        filled("<!-- findings sleep -->\n<!-- end -->", outcomes)
