"""What is claimed of trainings: Welch's interval against scipy's, its rate of error, and the sentences."""

import numpy as np
import pytest
from scipy import stats

from evaluation.errors import MeasurementsError
from evaluation.metrics.claim import Claim, better, claim_in_words
from evaluation.metrics.comparison import Unit
from evaluation.metrics.spread import spread

NAMES = ("split", "isolated")


def judged(a: list[float], b: list[float], unit: Unit = Unit.DISTANCE, among: int = 1) -> Claim:
    return better("fid", unit, spread(a), spread(b), NAMES, among=among)


@pytest.mark.parametrize(("m", "n"), [(3, 3), (3, 7), (12, 4)])
def test_the_interval_is_that_of_scipy(m: int, n: int) -> None:
    rng = np.random.default_rng((m, n))
    a, b = rng.normal(0, 1, m), rng.normal(1, 3, n)
    found = stats.ttest_ind(b, a, equal_var=False).confidence_interval(0.95)
    claim = judged(a.tolist(), b.tolist())
    assert (claim.low, claim.high) == pytest.approx((found.low, found.high))
    assert claim.advantage == pytest.approx(b.mean() - a.mean())
    narrow = stats.ttest_ind(b, a, equal_var=False).confidence_interval(1 - 0.05 / 10)
    assert judged(a.tolist(), b.tolist(), among=10).high == pytest.approx(narrow.high)


@pytest.mark.parametrize("deviations", [(1.0, 1.0), (1.0, 0.1)])
def test_of_equal_setups_one_is_called_better_about_as_seldom_as_it_says(
    deviations: tuple[float, float],
) -> None:
    rng = np.random.default_rng(1)
    values = [rng.normal(5.0, deviation, (2000, 3)) for deviation in deviations]
    claimed = sum(judged(a, b).better is not None for a, b in zip(*(v.tolist() for v in values), strict=True))
    assert 0.02 < claimed / 2000 < 0.07


def test_a_wide_difference_is_claimed_for_the_right_one() -> None:
    low, high = [1.0, 1.1, 0.9], [3.0, 3.2, 2.9]
    assert judged(low, high).better == "split"
    assert judged(high, low).better == "isolated"
    assert judged(low, high, Unit.SHARE).better == "isolated"
    assert judged(high, low, Unit.SHARE).better == "split"
    assert judged(low, [1.2, 0.9, 1.1]).better is None


def test_two_trainings_are_too_few_however_far_apart() -> None:
    claim = judged([1.0, 1.01], [9.0, 9.01, 9.02])
    assert claim.better is None
    assert "fewer than 3 trainings" in claim_in_words(claim)


def test_what_never_scattered_is_told_apart_only_if_it_differs() -> None:
    assert judged([0.0] * 3, [1.0] * 3).better == "split"
    assert judged([1.0] * 3, [1.0] * 3).better is None


def test_many_comparisons_in_a_table_need_a_wider_gap() -> None:
    a, b = [1.0, 1.2, 0.8], [1.5, 1.7, 1.6]
    assert judged(a, b).better == "split"
    assert judged(a, b, among=20).better is None
    with pytest.raises(MeasurementsError):
        judged(a, b, among=0)


def test_the_sentences() -> None:
    assert claim_in_words(judged([1.0, 1.1, 0.9], [3.0, 3.2, 2.9])) == (
        "Fid: split is better by 2 (1.7 to 2.3; 3 and 3 trainings)."
    )
    share = judged([0.5, 0.55, 0.6], [0.55, 0.6, 0.5], Unit.SHARE)
    assert claim_in_words(share) == (
        "Fid: the advantage of split over isolated lies between -11.3 and 11.3 percentage points, "
        "so these trainings do not tell which is better."
    )
