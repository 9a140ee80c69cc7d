"""Whether images show what was asked, by a judge that reads the kind from the first pixel and is never wrong."""

import numpy as np
import pytest
from numpy.typing import NDArray

from evaluation.conditioning.asking import KINDS, Asked
from evaluation.conditioning.judging import Heard, by_kind, heard, train_judge
from evaluation.data.images import ClientData
from evaluation.data.phantoms import load_phantoms
from evaluation.errors import MeasurementsError

PHANTOMS = load_phantoms(400, size=16).images
ASKED = Asked(PHANTOMS.attributes)


class ReadsThePixel:
    labels = np.arange(len(KINDS), dtype=np.int32)

    def probabilities(self, images: NDArray[np.float32]) -> NDArray[np.float64]:
        rows: NDArray[np.float64] = np.eye(len(KINDS))[images[:, 0, 0, 0].round().astype(int)]
        return rows


def shown(kinds: NDArray[np.int32], asked: Asked = ASKED) -> Heard:
    return heard(ReadsThePixel(), kinds.astype(np.float32).reshape(-1, 1, 1, 1), asked)


def test_images_of_what_was_asked_are_heard_in_full() -> None:
    found = shown(ASKED.kinds)
    assert found.presence == found.side == 1
    # Three steps of size against a continuous one: Spearman's highest with ties is √(1 - 1/9).
    assert found.size == pytest.approx(np.sqrt(8 / 9), abs=0.02)


def test_the_other_side_is_a_lesion_but_not_on_the_side_asked() -> None:
    mirrored = np.where(ASKED.kinds > 0, (ASKED.kinds - 1 ^ 1) + 1, 0).astype(np.int32)
    found = shown(mirrored)
    assert found.presence == 1
    assert found.side == 0
    assert found.size == pytest.approx(shown(ASKED.kinds).size)


def test_large_for_small_is_a_correlation_below_zero() -> None:
    swapped = np.where(ASKED.kinds > 0, 2 * (2 - ASKED.sizes) + ASKED.labels, 0).astype(np.int32)
    assert shown(swapped).size == pytest.approx(-shown(ASKED.kinds).size)


@pytest.mark.parametrize("kind", [0, 3])
def test_images_that_are_all_alike_say_nothing(kind: int) -> None:
    found = shown(np.full(len(ASKED), kind, dtype=np.int32))
    assert found.presence == 0.5
    assert found.size == 0
    assert found.side == (
        0 if kind == 0 else pytest.approx((ASKED.labels == 1).sum() / (ASKED.labels > 0).sum())
    )


def test_images_of_what_somebody_else_asked_are_chance() -> None:
    found = shown(np.random.default_rng(1).permutation(ASKED.kinds))
    assert found.presence == pytest.approx(0.5, abs=0.1)
    assert found.side < 0.45
    assert found.size == pytest.approx(0, abs=0.2)


def test_requests_of_one_kind_only_allow_no_share() -> None:
    rows = np.flatnonzero(ASKED.labels > 0)
    with pytest.raises(MeasurementsError, match="both kinds"):
        shown(ASKED.kinds[rows], ASKED.take(rows))
    with pytest.raises(MeasurementsError, match="10 images of 400 requests"):
        shown(ASKED.kinds[:10])


def test_a_judge_learns_from_phantoms_what_they_show() -> None:
    """Few steps on few phantoms, and yet far above chance on those it has not seen."""
    train, held_out = PHANTOMS.take(np.arange(300)), PHANTOMS.take(np.arange(300, 400))
    judge = train_judge([ClientData("clinic", train, held_out)], steps=120)
    found = heard(judge, held_out.images, Asked(held_out.attributes))
    assert found.presence > 0.7
    assert found.side > 0.6
    assert set(judge.labels.tolist()) == set(by_kind(train).labels.tolist())
