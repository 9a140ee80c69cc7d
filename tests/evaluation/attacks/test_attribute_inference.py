import numpy as np
import pytest
from numpy.typing import NDArray

from evaluation.attacks.attribute_inference import COIN, answers, areas, coordinates, questions
from evaluation.attacks.prior import shrunk_prior
from evaluation.data.images import LabelledImages
from evaluation.metrics.disclosure import reconstruct


def spotted(n: int, seed: int) -> LabelledImages:
    """Images whose label says in which half they are bright, with a property that shows and one that does not."""
    rng = np.random.default_rng(seed)
    labels = rng.integers(0, 2, n).astype(np.int32)
    striped = rng.integers(0, 2, n)
    size = rng.random(n)
    images = rng.normal(0, 0.2, (n, 1, 4, 4))
    images[labels == 0, :, :2] += 0.5
    images[labels == 1, :, 2:] += 0.5
    images[striped == 1, :, :, ::2] -= 0.5
    attributes = np.stack([striped, size], axis=1).astype(np.float32)
    return LabelledImages(
        np.clip(images, -1, 1).astype(np.float32), labels, attributes, ("striped", "hidden size")
    )


OWN, ATTACKED = spotted(150, 0), spotted(400, 1)
ASKED = questions(OWN, ATTACKED, ("upper", "lower", "never seen"))


def noised(x_0: NDArray[np.float32], a: float, seed: int) -> NDArray[np.float32]:
    noise = np.random.default_rng(seed).standard_normal(x_0.shape).astype(np.float32)
    return np.asarray(a**0.5 * x_0 + (1 - a) ** 0.5 * noise, dtype=np.float32)


def found(a: float) -> dict[str, float]:
    own_x = np.stack([noised(OWN.images, a, seed) for seed in range(4)])
    likely = answers(own_x, ASKED.own, noised(ATTACKED.images, a, 9), a, shrunk_prior(OWN.images))
    return dict(zip(ASKED.names, areas(likely, ASKED.truth), strict=True))


def test_what_can_be_asked_is_asked_and_the_coin_comes_last() -> None:
    assert ASKED.names == ("upper", "lower", "striped", "hidden size", COIN)
    assert ASKED.labels == 2
    assert ASKED.truth[:, 3].mean() == pytest.approx(0.5, abs=0.1)


def test_clean_images_give_away_what_shows_and_nothing_else() -> None:
    clean = found(1.0)
    assert min(clean["upper"], clean["lower"], clean["striped"]) > 0.95
    # 200 against 200 by chance: ½ ± 0.03
    assert clean["hidden size"] == pytest.approx(0.5, abs=0.12)
    assert clean[COIN] == pytest.approx(0.5, abs=0.12)


def test_noise_gives_nothing_away_and_a_release_lies_between() -> None:
    clean, between, noise = found(1.0), found(0.3), found(0.0)
    for name in ("upper", "striped"):
        assert noise[name] == pytest.approx(0.5, abs=0.12)
        assert noise[name] < between[name] < clean[name]


def test_one_question_alone_can_be_asked() -> None:
    own_x = OWN.images[None]
    likely = answers(own_x, ASKED.own[:, :1], ATTACKED.images, 1.0, shrunk_prior(OWN.images))
    assert likely.shape == (400, 1)
    assert areas(likely, ASKED.truth[:, :1])[0] > 0.95


def test_coordinates_are_the_best_linear_guess_seen_from_another_side() -> None:
    prior, x_c = shrunk_prior(0.2 * OWN.images), noised(0.2 * ATTACKED.images[:6], 0.9, 0)
    guess = reconstruct(x_c, 0.9, prior).reshape(6, -1)
    assert np.abs(guess).max() < 1  # nothing was clipped, which coordinates are not
    np.testing.assert_allclose(
        coordinates(x_c, 0.9, prior) @ prior.directions.T + prior.mean, guess, atol=1e-9
    )
