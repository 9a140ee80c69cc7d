import pytest

from evaluation.errors import MeasurementsError
from evaluation.measuring.quality import (
    Figure,
    Quality,
    Real,
    floor_band,
    floor_cells,
    floor_note,
    judged,
    real_floor,
)
from evaluation.running.workbench import Workbench
from tests.evaluation.experiments.made_up import quality


def test_clients_are_averaged_and_seeds_are_spread() -> None:
    one, other = quality(1.0, 2.0, 3.0), quality(3.0, 4.0, 5.0)
    both = Quality(tuple((*a, *b) for a, b in zip(one.by_seed, other.by_seed, strict=True)))
    figure = both.known(Real.HELD_OUT, Figure.FID)
    assert (figure.mean, figure.standard_deviation, figure.n) == (3.0, 1.0, 3)
    assert both.of_client(1, Real.TRAIN, Figure.FID) == other.known(Real.TRAIN, Figure.FID)


def test_a_figure_that_nobody_could_judge_is_none_and_not_nought() -> None:
    unjudged = quality(1.0, 2.0, 3.0)
    assert unjudged.over_seeds(Real.TRAIN, Figure.AGREEMENT) is None
    assert unjudged.cells(Real.TRAIN)[-1] is None
    assert unjudged.half_width(Real.TRAIN, Figure.AGREEMENT) is None
    with pytest.raises(MeasurementsError, match="agreement was not measured"):
        unjudged.known(Real.TRAIN, Figure.AGREEMENT)


def test_the_interval_over_images_is_beside_the_spread_over_seeds() -> None:
    assert quality(1.0, 2.0, 3.0).half_width(Real.HELD_OUT, Figure.FID) == pytest.approx(1.0)


def test_the_floor_has_the_size_of_what_is_measured(bench: Workbench) -> None:
    client = bench.federation.clients[0]
    measured, floor = judged(bench, client, client.train), real_floor(bench)
    assert (measured.held_out.size, len(floor)) == (floor[0].held_out.size, len(bench.federation.clients))
    assert floor[0].train.size == min(bench.design.images, len(client.train) // 2)
    band = floor_band(floor, Real.HELD_OUT, Figure.FID)
    assert band.low <= band.high
    assert len(floor_cells(floor, Real.TRAIN)) == 5
    sizes = sorted({each.held_out.size for each in floor})
    note = floor_note(floor, Real.HELD_OUT)
    assert all(str(size) in note for size in (sizes[0], sizes[-1]))
    assert f"FID {band.low:.2f} to {band.high:.2f}" in note


def test_the_clients_own_images_are_better_than_anothers(bench: Workbench) -> None:
    """The control of the measurement itself: other labels are far away, in every figure."""
    client, stranger = bench.federation.clients
    own, foreign = (judged(bench, client, each.train).train for each in (client, stranger))
    assert own.fid.value < foreign.fid.value
    assert own.kid.value < foreign.kid.value
    assert own.precision.value > foreign.precision.value
    assert own.recall.value > foreign.recall.value
