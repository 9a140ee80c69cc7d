"""Whether images show what was asked, by a judge that was trained on real phantoms."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray
from scipy import stats

from evaluation.conditioning.asking import KINDS, Asked
from evaluation.data.images import ClientData, LabelledImages, concatenate
from evaluation.errors import MeasurementsError
from evaluation.metrics.recogniser import Recogniser, train_recogniser

JUDGE_STEPS = 600


@dataclass(frozen=True)
class Heard:
    """How much of what was asked is seen.

    presence: share in [0, 1] of images rightly with or without a lesion, the mean of both kinds; chance is 0.5.
    side: share in [0, 1] of the images asked for with a lesion that have one on the side asked for; chance is at most 0.5.
    size: rank correlation (Spearman) of the size asked for and the one judged, over the same images; chance is 0.
    """

    presence: float
    side: float
    size: float


class KindJudge(Protocol):
    """Says what images show."""

    @property
    def labels(self) -> NDArray[np.int32]:
        """(K,) int32: which of `KINDS` its columns are."""

    def probabilities(self, images: NDArray[np.float32]) -> NDArray[np.float64]:
        """(N, C, H, W) float32 in [-1, 1] → (N, K) float64, rows that add up to 1."""


def train_judge(clients: Sequence[ClientData], *, seed: int = 0, steps: int = JUDGE_STEPS) -> Recogniser:
    """A classifier of `KINDS`, trained on the training phantoms of all clients and scored on all held-out ones."""
    parts = ([client.train for client in clients], [client.held_out for client in clients])
    train, held_out = (by_kind(concatenate(part)) for part in parts)
    return train_recogniser(train, held_out, seed=seed, steps=steps)


def by_kind(phantoms: LabelledImages) -> LabelledImages:
    """The same images, labelled by their kind."""
    return LabelledImages(phantoms.images, Asked(phantoms.attributes).kinds)


def heard(judge: KindJudge, images: NDArray[np.float32], asked: Asked) -> Heard:
    """Compares images with what was asked.  images: (N, C, H, W) float32 in [-1, 1].

    Raises MeasurementsError unless some were asked for with a lesion and some without.
    """
    wants_lesion = asked.labels > 0
    if len(images) != len(asked) or wants_lesion.all() or not wants_lesion.any():
        raise MeasurementsError(
            f"{len(images)} images of {len(asked)} requests, {int(wants_lesion.sum())} of them with a lesion: "
            "ask for both kinds, and for every image"
        )
    shares = _by_kind(judge, images)
    seen = shares.argmax(axis=1)
    has_lesion = seen > 0
    is_right = (seen - 1) % 2 == asked.labels - 1
    return Heard(
        presence=float((has_lesion[wants_lesion].mean() + (~has_lesion[~wants_lesion]).mean()) / 2),
        side=float((has_lesion & is_right)[wants_lesion].mean()),
        size=_rank_correlation(asked.attributes[wants_lesion, 2], _expected_size(shares[wants_lesion])),
    )


def _by_kind(judge: KindJudge, images: NDArray[np.float32]) -> NDArray[np.float64]:
    """(N, 7) float64, the judge's shares of each kind; 0 for a kind that it has never seen."""
    shares = np.zeros((len(images), len(KINDS)))
    shares[:, judge.labels] = judge.probabilities(images)
    return shares


def _rank_correlation(wanted: NDArray[np.float32], seen: NDArray[np.float64]) -> float:
    # Of sizes that are all alike no rank is defined: they say nothing of one another.
    if np.ptp(wanted) == 0 or np.ptp(seen) == 0:
        return 0.0
    return float(stats.spearmanr(wanted, seen).statistic)


def _expected_size(shares: NDArray[np.float64]) -> NDArray[np.float64]:
    """(N,) float64 in [0, 2]: the mean of small, medium and large, given that there is a lesion."""
    by_size = shares[:, 1:].reshape(-1, 3, 2).sum(axis=2)
    total = np.maximum(by_size.sum(axis=1), np.finfo(np.float64).tiny)
    expected: NDArray[np.float64] = by_size @ np.arange(3.0) / total
    return expected
