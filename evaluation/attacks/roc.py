"""How well scores tell two kinds of images apart: area under the ROC curve, and true positives at few false ones."""

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.stats import rankdata

from evaluation.errors import MeasurementsError

NORMAL_95 = 1.959964


@dataclass(frozen=True)
class Separation:
    """Scores of positives against those of negatives.

    auc: the chance that a positive scores higher than a negative, ties counted half;  auc_low, auc_high: its 95 % interval
    after DeLong.  true_positive_rate: at `false_positive_rate` or less;  tpr_low, tpr_high: its 95 % bootstrap interval over
    both kinds.  positives, negatives: how many there were.
    """

    auc: float
    auc_low: float
    auc_high: float
    true_positive_rate: float
    tpr_low: float
    tpr_high: float
    false_positive_rate: float
    positives: int
    negatives: int

    @property
    def false_positives(self) -> int:
        """How many negatives the false positive rate allows: with few of them the true positive rate is a coarse figure."""
        return math.floor(self.false_positive_rate * self.negatives + 1e-9)


def separation(
    positives: NDArray[np.float64],
    negatives: NDArray[np.float64],
    *,
    false_positive_rate: float = 0.01,
    bootstrap: int = 400,
    seed: int = 0,
) -> Separation:
    """Measures how far higher scores point to positives.

    positives: (m,), negatives: (n,) float64 scores;  bootstrap: how many resamplings of both;  seed: of them.

    Raises:
        MeasurementsError: fewer than two scores of a kind, or some that are not finite.
    """
    if min(len(positives), len(negatives)) < 2 or not (
        np.isfinite(positives).all() and np.isfinite(negatives).all()
    ):
        raise MeasurementsError(
            f"{len(positives)} positive and {len(negatives)} negative scores show nothing: give two finite ones or more of each"
        )
    auc, deviation = delong(positives, negatives)
    rng = np.random.default_rng((seed, 5))
    rates = true_positive_rates(
        positives[rng.integers(len(positives), size=(bootstrap, len(positives)))],
        negatives[rng.integers(len(negatives), size=(bootstrap, len(negatives)))],
        false_positive_rate,
    )
    low, high = np.quantile(rates, (0.025, 0.975))
    return Separation(
        auc=auc,
        auc_low=max(0.0, auc - NORMAL_95 * deviation),
        auc_high=min(1.0, auc + NORMAL_95 * deviation),
        true_positive_rate=float(
            true_positive_rates(positives[None], negatives[None], false_positive_rate)[0]
        ),
        tpr_low=float(low),
        tpr_high=float(high),
        false_positive_rate=false_positive_rate,
        positives=len(positives),
        negatives=len(negatives),
    )


def delong(positives: NDArray[np.float64], negatives: NDArray[np.float64]) -> tuple[float, float]:
    """The area under the ROC curve and its standard deviation (DeLong, DeLong & Clarke-Pearson 1988).

    By midranks (Sun & Xu 2014): a positive's rank among all, less its rank among the positives, is the number of negatives
    below it. positives: (m,), negatives: (n,), m, n ≥ 2.
    """
    m, n = len(positives), len(negatives)
    ranks = rankdata(np.concatenate((positives, negatives)))
    below_positive = (ranks[:m] - rankdata(positives)) / n
    above_negative = 1.0 - (ranks[m:] - rankdata(negatives)) / m
    variance = below_positive.var(ddof=1) / m + above_negative.var(ddof=1) / n
    return float(below_positive.mean()), math.sqrt(float(variance))


def true_positive_rates(
    positives: NDArray[np.float64], negatives: NDArray[np.float64], false_positive_rate: float
) -> NDArray[np.float64]:
    """Share of positives above the threshold that lets at most this share of negatives pass; row by row.

    positives: (B, m), negatives: (B, n). Returns (B,) float64.
    """
    allowed = math.floor(false_positive_rate * negatives.shape[1] + 1e-9)
    place = max(negatives.shape[1] - 1 - allowed, 0)
    threshold = np.partition(negatives, place, axis=1)[:, place]
    return np.asarray((positives > threshold[:, None]).mean(axis=1), dtype=np.float64)


def deviation_by_chance(positives: int, negatives: int) -> float:
    """Standard deviation of the area around ½ when the scores mean nothing (Mann & Whitney 1947)."""
    return math.sqrt((positives + negatives + 1) / (12.0 * positives * negatives))
