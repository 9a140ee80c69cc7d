"""The page on the evaluation tells what the kept runs have found, and nothing else."""

import pytest

from benchmarks.evaluation_pages import PAGE, filled, kept_outcomes
from evaluation.reporting.outcome import Weight
from evaluation.running.suites import SUITES


def test_the_page_holds_the_kept_figures() -> None:
    page = PAGE.read_text(encoding="utf-8")
    assert filled(page, kept_outcomes()) == page


def test_the_kept_run_on_digits_has_every_experiment_and_no_control_failed() -> None:
    outcomes = kept_outcomes()
    assert {f"digits/{suite}" for suite in SUITES} <= set(outcomes)
    weights = {finding.weight for outcome in outcomes.values() for finding in outcome.findings}
    assert Weight.FAILED_CONTROL not in weights
    for suite in SUITES:
        assert f"<!-- findings digits/{suite} -->" in PAGE.read_text(encoding="utf-8")


def test_a_mark_for_which_there_is_nothing_is_named() -> None:
    outcomes = kept_outcomes()
    with pytest.raises(ValueError, match="has no table 'Nothing'"):
        filled("<!-- table digits/sweep: Nothing -->\n<!-- end -->", outcomes)
    with pytest.raises(ValueError, match="wants 'digits/sleep'"):
        filled("<!-- findings digits/sleep -->\n<!-- end -->", outcomes)
