import numpy as np
import pytest
from sklearn.metrics import roc_auc_score, roc_curve

from evaluation.attacks.roc import delong, deviation_by_chance, separation, true_positive_rates
from evaluation.errors import MeasurementsError


def scores(
    shift: float, m: int = 80, n: int = 120, seed: int = 0
) -> tuple[np.ndarray[tuple[int], np.dtype[np.float64]], np.ndarray[tuple[int], np.dtype[np.float64]]]:
    rng = np.random.default_rng(seed)
    return rng.normal(shift, 1, m), rng.normal(0, 1, n)


def test_the_area_is_that_of_an_independent_library_ties_included() -> None:
    positives, negatives = (np.round(part, 1) for part in scores(0.7))
    truth = np.r_[np.ones(len(positives)), np.zeros(len(negatives))]
    assert delong(positives, negatives)[0] == pytest.approx(roc_auc_score(truth, np.r_[positives, negatives]))


def test_the_deviation_is_delongs_written_out() -> None:
    positives, negatives = scores(0.5, 30, 40)
    psi = (positives[:, None] > negatives[None, :]).astype(float)
    expected = psi.mean(axis=1).var(ddof=1) / 30 + psi.mean(axis=0).var(ddof=1) / 40
    assert delong(positives, negatives)[1] == pytest.approx(np.sqrt(expected))


def test_the_interval_holds_the_truth_as_often_as_it_says() -> None:
    # P(N(0.7, 1) > N(0, 1)) = Φ(0.7/√2)
    truth = 0.68969
    found = [separation(*scores(0.7, seed=seed), bootstrap=2) for seed in range(300)]
    hits = sum(part.auc_low <= truth <= part.auc_high for part in found)
    assert 0.90 <= hits / 300 <= 0.985


def test_scores_that_mean_nothing_scatter_as_mann_and_whitney_say() -> None:
    found = [delong(*scores(0.0, 40, 60, seed))[0] for seed in range(400)]
    assert np.std(found) == pytest.approx(deviation_by_chance(40, 60), rel=0.12)


@pytest.mark.parametrize("rate", [0.01, 0.05, 0.1])
def test_true_positives_are_the_most_that_an_independent_roc_curve_reaches(rate: float) -> None:
    positives, negatives = scores(1.0, 200, 130)
    false, true, _ = roc_curve(
        np.r_[np.ones(200), np.zeros(130)], np.r_[positives, negatives], drop_intermediate=False
    )
    assert true_positive_rates(positives[None], negatives[None], rate)[0] == true[false <= rate].max()


def test_scores_apart_are_told_apart_wholly_and_equal_ones_not_at_all() -> None:
    apart = separation(np.arange(10.0, 20.0), np.arange(0.0, 10.0))
    assert (apart.auc, apart.true_positive_rate, apart.tpr_low) == (1.0, 1.0, 1.0)
    equal = separation(np.zeros(10), np.zeros(10))
    assert (equal.auc, equal.true_positive_rate) == (0.5, 0.0)


def test_few_negatives_allow_few_false_positives() -> None:
    assert separation(*scores(0.5, 50, 290), bootstrap=2).false_positives == 2


def test_too_few_scores_or_broken_ones_are_refused() -> None:
    with pytest.raises(MeasurementsError, match="show nothing"):
        separation(np.zeros(1), np.zeros(5))
    with pytest.raises(MeasurementsError, match="show nothing"):
        separation(np.asarray([0.0, np.nan]), np.zeros(5))
