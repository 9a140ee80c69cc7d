"""Two sets of images compared: against closed forms, against independent libraries, and with controls that must fail."""

import json
from dataclasses import asdict

import numpy as np
import pytest
import torch
from pydantic import TypeAdapter
from sklearn.neighbors import NearestNeighbors

from evaluation.data.images import ClientData, LabelledImages, concatenate
from evaluation.errors import DataError, MeasurementsError
from evaluation.metrics import fidelity, manifold
from evaluation.metrics.estimate import Estimate, estimate, half_samples, share_estimate
from evaluation.metrics.features import Classifier
from evaluation.metrics.sets import (
    SetFidelity,
    comparable_size,
    fid,
    floor_of,
    frechet_of_features,
    kid,
    measure_sets,
)
from tests.evaluation.trial import noisy_copies


class Pixels:
    """The images themselves for features."""

    name = "pixels"

    def features(self, images: np.ndarray) -> np.ndarray:
        return images.reshape(len(images), -1).astype(np.float64)


def normal(n: int, d: int = 6, *, shift: float = 0.0, scale: float = 1.0, seed: int = 0) -> np.ndarray:
    return np.random.default_rng((seed, n, d)).normal(shift, scale, (n, d))


def images_of(features: np.ndarray) -> LabelledImages:
    return LabelledImages(
        features[:, None, None, :].astype(np.float32), np.zeros(len(features), dtype=np.int32)
    )


@pytest.fixture(scope="module")
def real(clients: tuple[ClientData, ...]) -> LabelledImages:
    everything = concatenate([client.everything for client in clients])
    return everything.take(np.random.default_rng(0).permutation(len(everything)))


def test_fid_of_samples_approaches_the_closed_form() -> None:
    a, b = normal(40_000), normal(40_000, shift=0.5, scale=2.0, seed=1)
    expected = 6 * (0.5**2 + 1.0)
    assert fid(a, b) == pytest.approx(expected, rel=0.03)
    assert frechet_of_features(a, b) == pytest.approx(fid(a, b), rel=1e-9)


@pytest.mark.parametrize(("m", "d"), [(50, 5), (50, 50), (20, 60)])
def test_torchmetrics_the_covariances_and_the_factors_give_one_distance(m: int, d: int) -> None:
    """Also where there are more dimensions than images, so that both covariances are singular."""
    a, b = normal(m, d), normal(m, d, shift=0.3, seed=1)
    assert frechet_of_features(a, b) == pytest.approx(fidelity.frechet(a, b), rel=1e-6)
    assert frechet_of_features(a, b) == pytest.approx(fid(a, b), rel=1e-6)


def test_they_agree_in_pixels_of_which_some_never_change(real: LabelledImages) -> None:
    some, others = real.images[:100], real.images[100:200]
    a, b = Pixels().features(some), Pixels().features(others)
    assert fid(a, b) == pytest.approx(fidelity.frechet(some, others), rel=1e-6)
    assert frechet_of_features(a, b) == pytest.approx(fidelity.frechet(some, others), rel=1e-6)


def test_torchmetrics_and_the_closed_form_give_one_kernel_distance() -> None:
    a, b = normal(60), normal(60, shift=0.4, seed=1)
    assert kid(a, b) == pytest.approx(fidelity.kid(a, b), rel=1e-9)


def test_torchmetrics_leaves_the_generator_alone() -> None:
    torch.manual_seed(5)
    before = torch.random.get_rng_state()
    first = kid(normal(30), normal(30, seed=1))
    assert torch.equal(torch.random.get_rng_state(), before)
    torch.manual_seed(6)
    assert kid(normal(30), normal(30, seed=1)) == pytest.approx(first, rel=1e-9)


def test_precision_and_recall_agree_with_nearest_neighbours_of_scikit_learn() -> None:
    made, true = normal(80, scale=0.8), normal(120, seed=1)

    def share_among(points: np.ndarray, others: np.ndarray) -> float:
        search = NearestNeighbors(n_neighbors=manifold.NEIGHBOURS + 1).fit(others)
        radii = search.kneighbors(others)[0][:, -1]
        inside = [np.any(np.linalg.norm(others - point, axis=1) <= radii) for point in points]
        return float(np.mean(inside))

    distances = manifold.Distances.of(made, true)
    assert manifold.precision(distances) == share_among(made, true)
    assert manifold.recall(distances) == share_among(true, made)
    assert 0 < manifold.recall(distances) < manifold.precision(distances) <= 1


def test_a_subset_of_distances_is_that_of_the_subsets() -> None:
    made, true = normal(30), normal(40, seed=1)
    rows, others = np.arange(0, 30, 2), np.arange(5, 35)
    part = manifold.of_rows(manifold.Distances.of(made, true), rows, others)
    whole = manifold.Distances.of(made[rows], true[others])
    assert manifold.precision(part) == manifold.precision(whole)
    assert manifold.recall(part) == manifold.recall(whole)


def test_a_set_against_itself_is_at_no_distance() -> None:
    same = images_of(normal(60))
    measured = measure_sets(same, same, Pixels(), size=60, bootstrap=20)
    assert measured.fid.value == pytest.approx(0.0, abs=1e-9)
    assert (measured.precision.value, measured.recall.value) == (1.0, 1.0)
    assert measured.kid.value < 0.0  # unbiased, and every image has its double on the other side
    assert (measured.size, measured.dimensions, measured.draws) == (60, 6, 20)


def test_sets_that_do_not_touch_have_no_precision_and_no_certainty() -> None:
    measured = measure_sets(
        images_of(normal(60, shift=50)), images_of(normal(60)), Pixels(), size=60, bootstrap=20
    )
    assert (measured.precision.value, measured.recall.value) == (0.0, 0.0)
    assert measured.precision.low == 0.0
    assert 0.03 < measured.precision.high < 0.1  # Wilson: 60 images say no more
    assert measured.fid.low > 1000


def test_a_generator_of_one_mode_is_precise_and_forgetful() -> None:
    modes = np.concatenate([normal(100, 2, scale=0.3, seed=seed) + 6 * seed for seed in range(3)])
    one = normal(150, 2, scale=0.3, seed=9)
    measured = measure_sets(images_of(one), images_of(modes), Pixels(), bootstrap=50)
    assert measured.size == comparable_size(images_of(one), images_of(modes)) == 150
    assert measured.precision.low > 0.7
    assert measured.recall.high < 0.5


def test_noise_scores_worse_than_the_floor_by_every_measure(
    real: LabelledImages, clients: tuple[ClientData, ...], classifier: Classifier
) -> None:
    floor = floor_of(real, classifier, 250, splits=8)
    good = measure_sets(real.take(np.arange(250)), real, classifier, size=250, bootstrap=50)
    noisy = noisy_copies(clients[0], 0.9, 1, 0)[0]
    bad = measure_sets(noisy, clients[0].everything, classifier, size=250, bootstrap=50)
    assert good.fid.low < floor.fid.high < bad.fid.low
    assert floor.kid.low < 0.0 < floor.kid.high < bad.kid.low
    assert bad.precision.high < floor.precision.low
    assert good.agreement is not None
    assert floor.agreement is not None
    assert bad.agreement is not None
    assert bad.agreement.high < floor.agreement.low
    assert good.judge == classifier.name


def test_agreement_needs_somebody_who_names_images(real: LabelledImages, classifier: Classifier) -> None:
    some = real.take(np.arange(40))
    alone = measure_sets(some, real, Pixels(), bootstrap=5)
    judged = measure_sets(some, real, Pixels(), judge=classifier, bootstrap=5)
    assert (alone.agreement, alone.judge) == (None, None)
    assert judged.judge == classifier.name
    assert judged.agreement is not None
    hits = (classifier.predict(some.images) == some.labels).sum()
    assert judged.agreement.value == hits / 40


def test_a_figure_is_the_same_again_and_survives_json(real: LabelledImages) -> None:
    some = real.take(np.arange(100))
    first, again = (measure_sets(some, real, Pixels(), size=60, bootstrap=10, seed=4) for _ in range(2))
    assert first == again != measure_sets(some, real, Pixels(), size=60, bootstrap=10, seed=5)
    text = json.dumps(asdict(first))
    assert TypeAdapter(SetFidelity).validate_json(text) == first


@pytest.mark.parametrize("size", [7, 61])
def test_sets_too_small_or_smaller_than_asked_are_refused(size: int) -> None:
    images = images_of(normal(60))
    with pytest.raises(MeasurementsError, match="cannot be compared"):
        measure_sets(images, images, Pixels(), size=size)
    with pytest.raises(MeasurementsError, match="at most 30"):
        floor_of(images, Pixels(), max(31, size))


def test_unlike_features_have_no_precision() -> None:
    with pytest.raises(DataError, match="same features"):
        manifold.Distances.of(normal(20, 3), normal(20, 4))
    with pytest.raises(DataError, match="4 images or more"):
        manifold.Distances.of(normal(3, 3), normal(20, 3))


@pytest.mark.parametrize("broken", [np.full((20, 3), np.nan), np.zeros(20), np.zeros((5, 3))])
def test_an_extractor_that_gives_no_vectors_is_told_apart(broken: np.ndarray) -> None:
    class Broken:
        name = "broken one"

        def features(self, images: np.ndarray) -> np.ndarray:
            return broken

    images = images_of(normal(20))
    with pytest.raises(DataError, match="broken one"):
        measure_sets(images, images, Broken(), size=20)
    with pytest.raises(DataError, match="broken one"):
        floor_of(images, Broken(), 10)


def test_the_scatter_of_half_samples_is_that_of_fresh_sets() -> None:
    """The interval of one pair of sets, against 60 pairs drawn anew: the oracle that no user has."""
    pairs = [
        (normal(100, scale=0.8, seed=2 * seed), normal(100, shift=0.2, seed=2 * seed + 1))
        for seed in range(60)
    ]
    measured = [
        measure_sets(images_of(a), images_of(b), Pixels(), size=100, bootstrap=60) for a, b in pairs[:12]
    ]
    fresh = {
        "fid": [frechet_of_features(a, b) for a, b in pairs],
        "kid": [fidelity.kid(a, b) for a, b in pairs],
        "precision": [manifold.precision(manifold.Distances.of(a, b)) for a, b in pairs],
        "recall": [manifold.recall(manifold.Distances.of(a, b)) for a, b in pairs],
    }
    for name, values in fresh.items():
        intervals: list[Estimate] = [getattr(each, name) for each in measured]
        told = np.mean([each.high - each.low for each in intervals]) / (2 * 1.96)
        assert told / np.std(values, ddof=1) == pytest.approx(1.0, abs=0.35), name


def test_the_interval_of_a_mean_is_the_known_one() -> None:
    values = np.random.default_rng(0).normal(3.0, 2.0, 400)
    rows = half_samples(400, 4000, np.random.default_rng(1))
    told = estimate(float(values.mean()), values[rows].mean(axis=1))
    reach = 1.96 * values.std(ddof=1) / 20
    assert (told.low, told.high) == pytest.approx((told.value - reach, told.value + reach), abs=0.1 * reach)


def test_an_interval_lies_about_its_value_though_halves_measure_otherwise() -> None:
    """A half is farther from the other half than the whole from the whole: only the scatter is taken from them."""
    told = estimate(3.0, np.random.default_rng(0).normal(8.0, 0.5, 4000))
    assert (told.low, told.high) == pytest.approx((3.0 - 0.98, 3.0 + 0.98), abs=0.05)
    same = measure_sets(images_of(normal(80)), images_of(normal(80, seed=1)), Pixels(), size=80, bootstrap=60)
    assert same.fid.low < same.fid.value < same.fid.high


def test_half_samples_hold_no_row_twice() -> None:
    rows = half_samples(11, 50, np.random.default_rng(0))
    assert rows.shape == (50, 5)
    assert all(len(set(each)) == 5 for each in rows.tolist())
    assert set(rows.ravel().tolist()) == set(range(11))


def test_a_share_has_wilsons_interval() -> None:
    """Wilson's for 81 of 263: Newcombe 1998, table I."""
    told = share_estimate(81, 263)
    assert (told.low, told.high) == pytest.approx((0.2553, 0.3662), abs=5e-5)
    assert share_estimate(0, 10).high == pytest.approx(0.2775, abs=5e-5)
    assert share_estimate(10, 10).high == 1.0
    wide = share_estimate(5, 10, [0.0, 1.0] * 20)
    assert (wide.low, wide.high) == (0.0, 1.0)


def test_intervals_of_nothing_are_refused() -> None:
    with pytest.raises(MeasurementsError, match="two or more"):
        estimate(1.0, [1.0])
    with pytest.raises(MeasurementsError, match="finite"):
        estimate(1.0, [1.0, float("nan")])
    with pytest.raises(MeasurementsError, match="no share"):
        share_estimate(0, 0)


def test_several_draws_scatter_less_than_one_and_begin_with_it() -> None:
    generated, real = images_of(normal(300)), images_of(normal(300, seed=1))
    ones = [measure_sets(generated, real, Pixels(), size=40, bootstrap=2, seed=seed) for seed in range(12)]
    many = [
        measure_sets(generated, real, Pixels(), size=40, draws=8, bootstrap=2, seed=seed)
        for seed in range(12)
    ]

    for pick in ("fid", "kid", "precision", "recall"):
        scatters = [np.std([getattr(each, pick).value for each in found]) for found in (ones, many)]
        assert scatters[1] < 0.6 * scatters[0], pick
    with pytest.raises(MeasurementsError, match="one or more"):
        measure_sets(generated, real, Pixels(), size=40, draws=0)


def test_the_agreement_is_that_of_all_generated_images(
    clients: tuple[ClientData, ...], classifier: Classifier
) -> None:
    generated = clients[0].held_out
    found = measure_sets(generated, clients[0].train, classifier, size=20, bootstrap=2).agreement
    assert found is not None
    assert found.value == pytest.approx(
        float((classifier.predict(generated.images) == generated.labels).mean())
    )
