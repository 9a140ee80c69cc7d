import numpy as np
import pytest

from evaluation.data.images import ClientData, LabelledImages
from evaluation.errors import DataError, MeasurementsError
from evaluation.metrics.comparison import Unit, Verdict, compare, sentence
from evaluation.metrics.features import Classifier
from evaluation.metrics.fidelity import floor, frechet, frechet_of_gaussians, kid, measure, subset_size
from evaluation.metrics.spread import Spread, spread
from tests.evaluation.trial import noisy_copies


def constant(mean: float, deviation: float = 0.1) -> Spread:
    return Spread(mean, deviation, mean, mean - 2 * deviation, mean + 2 * deviation, 30)


def test_frechet_of_gaussians_equals_the_closed_form_when_they_commute() -> None:
    rng = np.random.default_rng(0)
    axes = np.linalg.qr(rng.standard_normal((6, 6)))[0]
    a, b = rng.uniform(0.1, 3.0, (2, 6))
    mean_a, mean_b = rng.standard_normal((2, 6))
    expected = ((mean_a - mean_b) ** 2).sum() + ((np.sqrt(a) - np.sqrt(b)) ** 2).sum()
    measured = frechet_of_gaussians(mean_a, (axes * a) @ axes.T, mean_b, (axes * b) @ axes.T)
    assert measured == pytest.approx(expected, rel=1e-9)


def test_frechet_of_gaussians_equals_the_closed_form_in_two_dimensions() -> None:
    rng = np.random.default_rng(1)
    root_a, root_b = rng.standard_normal((2, 2, 2))
    a, b = root_a @ root_a.T, root_b @ root_b.T
    # tr (AB)^½ of a 2×2 product is √(tr AB + 2 √det AB).
    cross = np.sqrt(np.trace(a @ b) + 2 * np.sqrt(np.linalg.det(a) * np.linalg.det(b)))
    zero = np.zeros(2)
    assert frechet_of_gaussians(zero, a, zero, b) == pytest.approx(
        np.trace(a) + np.trace(b) - 2 * cross, rel=1e-9
    )


def test_frechet_of_samples_approaches_the_closed_form() -> None:
    rng = np.random.default_rng(2)
    a = rng.normal(0.0, 1.0, (40_000, 1, 2, 2)).astype(np.float32)
    b = rng.normal(0.5, 2.0, (40_000, 1, 2, 2)).astype(np.float32)
    assert frechet(a, b) == pytest.approx(4 * (0.5**2 + 1.0), rel=0.03)


def test_constant_pixels_add_only_their_difference() -> None:
    rng = np.random.default_rng(3)
    a, b = rng.normal(0.0, 1.0, (2, 500, 1, 3, 3)).astype(np.float32)
    plain = frechet(a[:, :, :2], b[:, :, :2])
    a[:, :, 2], b[:, :, 2] = -1.0, -0.75
    assert frechet(a, b) == pytest.approx(plain + 3 * 0.25**2, abs=1e-6)
    assert frechet(a, a) == pytest.approx(0.0, abs=1e-6)


def test_images_of_different_shapes_have_no_distance() -> None:
    with pytest.raises(DataError, match="no Fréchet distance"):
        frechet(np.zeros((4, 1, 2, 2), np.float32), np.zeros((4, 1, 3, 3), np.float32))


def test_kernel_distance_of_a_source_with_itself_is_within_its_spread_of_zero() -> None:
    rng = np.random.default_rng(4)
    figure = spread(kid(rng.standard_normal((150, 16)), rng.standard_normal((150, 16))) for _ in range(40))
    assert abs(figure.mean) < figure.standard_deviation
    assert figure.low < 0.0 < figure.high
    assert kid(rng.standard_normal((150, 16)), rng.standard_normal((150, 16)) + 1.0) > figure.high


def test_kernel_distance_agrees_with_the_sum_written_out() -> None:
    rng = np.random.default_rng(5)
    a, b = rng.standard_normal((5, 3)), rng.standard_normal((4, 3))

    def kernel(x: np.ndarray, y: np.ndarray) -> float:
        return float((x @ y / 3 + 1) ** 3)

    within_a = sum(kernel(a[i], a[j]) for i in range(5) for j in range(5) if i != j) / 20
    within_b = sum(kernel(b[i], b[j]) for i in range(4) for j in range(4) if i != j) / 12
    between = sum(kernel(x, y) for x in a for y in b) / 20
    assert kid(a, b) == pytest.approx(within_a + within_b - 2 * between)


def test_the_classifier_names_nine_of_ten_held_out_digits(classifier: Classifier) -> None:
    assert classifier.held_out_accuracy > 0.9
    assert classifier.held_out_images == 359


def test_features_are_standardised_and_none_is_dead(
    clients: tuple[ClientData, ...], classifier: Classifier
) -> None:
    images = np.concatenate([client.train.images for client in clients])
    features = classifier.features(images)
    np.testing.assert_allclose(features.mean(axis=0), 0.0, atol=1e-9)
    np.testing.assert_allclose(features.std(axis=0), 1.0, atol=1e-9)
    assert np.abs(features).max() < 30.0


def test_the_floor_is_lower_than_the_distance_to_another_client(
    clients: tuple[ClientData, ...], classifier: Classifier
) -> None:
    north, east = clients[0], clients[1]
    real = floor(north, classifier, subsets=10)
    strangers = measure([east.everything, east.everything], north, classifier, subsets=3)
    assert real.subset_size == subset_size(north) == (len(north.train) + len(north.held_out)) // 2
    assert real.frechet.high < strangers.frechet.low
    assert real.kid.high < strangers.kid.low
    assert real.kid.low < 0.0 < real.kid.high
    assert real.agreement.mean > 0.9


def test_real_images_passed_off_as_generated_score_no_worse_than_the_floor(
    clients: tuple[ClientData, ...], classifier: Classifier
) -> None:
    real = floor(clients[0], classifier)
    copies = measure([clients[0].everything] * 2, clients[0], classifier)
    assert copies.frechet.mean < real.frechet.high
    assert copies.agreement.mean > 0.97


def test_more_noise_scores_worse_by_every_measure(
    clients: tuple[ClientData, ...], classifier: Classifier
) -> None:
    little, much = (
        measure(noisy_copies(clients[1], strength, 2, 0), clients[1], classifier, subsets=3)
        for strength in (0.1, 0.9)
    )
    assert much.frechet.low > little.frechet.high
    assert much.kid.low > little.kid.high
    assert much.agreement.high < little.agreement.low


def test_wrong_labels_show_as_disagreement(clients: tuple[ClientData, ...], classifier: Classifier) -> None:
    everything = clients[0].everything
    wrong = LabelledImages(everything.images, ((everything.labels + 1) % 4).astype(np.int32))
    assert measure([wrong, wrong], clients[0], classifier, subsets=2).agreement.high < 0.1


def test_a_single_generated_set_is_refused(clients: tuple[ClientData, ...], classifier: Classifier) -> None:
    with pytest.raises(MeasurementsError, match="two seeds or more"):
        measure([clients[0].train], clients[0], classifier)


def test_measuring_twice_gives_the_same(clients: tuple[ClientData, ...], classifier: Classifier) -> None:
    sets = noisy_copies(clients[2], 0.2, 2, 7)
    first, again = (measure(sets, clients[2], classifier, subsets=2, seed=5) for _ in range(2))
    assert first == again


@pytest.mark.parametrize(
    ("unit", "collaborative", "isolated", "verdict"),
    [
        (Unit.DISTANCE, 0.5, 1.5, Verdict.COLLABORATIVE),
        (Unit.DISTANCE, 1.5, 0.5, Verdict.ISOLATED),
        (Unit.SHARE, 0.5, 1.5, Verdict.ISOLATED),
        (Unit.SHARE, 1.5, 0.5, Verdict.COLLABORATIVE),
        (Unit.DISTANCE, 0.5, 0.7, Verdict.UNDECIDED),
        (Unit.SHARE, 0.5, 0.7, Verdict.UNDECIDED),
    ],
)
def test_a_difference_is_claimed_only_beyond_the_spread(
    unit: Unit, collaborative: float, isolated: float, verdict: Verdict
) -> None:
    comparison = compare("metric", unit, constant(collaborative), constant(isolated))
    assert comparison.verdict is verdict
    words = sentence(comparison)
    assert ("collaborative training is better" in words) is (verdict is Verdict.COLLABORATIVE)
    assert ("isolated training is better" in words) is (verdict is Verdict.ISOLATED)
    assert ("does not tell" in words) is (verdict is Verdict.UNDECIDED)
