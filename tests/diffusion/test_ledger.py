"""The ledger against others: exact sums in fifty digits, Google's accountant, and the earliest cut by looking at all of them."""

import math

import dp_accounting
import mpmath  # type: ignore[import-untyped]  # it comes with torch
import pytest
from dp_accounting.pld import privacy_loss_distribution
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from diffusion import ledger, privacy
from diffusion.errors import DiffusionError
from diffusion.ledger import detection, epsilon, epsilon_of_mu, gdp_mu, least_cut, mu_of_epsilon
from diffusion.schedule import NoiseSchedule

SCHEDULE = NoiseSchedule.linear()
DELTAS = st.floats(1e-12, 0.1)


def delta_in_fifty_digits(epsilon: float, mu: float) -> float:
    """Balle & Wang 2018, theorem 8, as it is written."""
    with mpmath.workdps(50):
        e, m = mpmath.mpf(epsilon), mpmath.mpf(mu)
        return float(mpmath.ncdf(-e / m + m / 2) - mpmath.exp(e) * mpmath.ncdf(-e / m - m / 2))


@pytest.mark.parametrize("mu", [0.01, 0.3, 1.0, 5.0, 30.0, 700.0])
@pytest.mark.parametrize("delta", [1e-2, 1e-5, 1e-10])
def test_epsilon_is_exact_from_the_smallest_to_the_largest(mu: float, delta: float) -> None:
    found = epsilon_of_mu(mu, delta)
    if found == 0:
        assert delta_in_fifty_digits(0.0, mu) <= delta
    else:
        assert delta_in_fifty_digits(found, mu) == pytest.approx(delta, rel=1e-4)


@settings(max_examples=60, deadline=None)
@given(mu=st.floats(0.01, 300), delta=DELTAS)
def test_googles_accountant_finds_the_same_epsilon(mu: float, delta: float) -> None:
    theirs = dp_accounting.get_epsilon_gaussian(1 / mu, delta)
    assert epsilon_of_mu(mu, delta) == pytest.approx(theirs, rel=1e-6, abs=1e-6)


@pytest.mark.parametrize(("clip", "t_cut", "releases"), [(10.0, 690, 1), (2.0, 690, 4), (10.0, 900, 16)])
def test_a_privacy_loss_distribution_finds_the_same_epsilon(clip: float, t_cut: int, releases: int) -> None:
    """Composed release by release, in steps of 1e-4 rounded upwards, and told the noise and the sensitivity apart."""
    a = SCHEDULE.alpha_bar[t_cut]
    one = privacy_loss_distribution.from_gaussian_mechanism(
        math.sqrt((1 - a) / a), sensitivity=2 * clip, value_discretization_interval=1e-4
    )
    theirs = one.self_compose(releases).get_epsilon_for_delta(1e-5)
    ours = epsilon(clip, t_cut, SCHEDULE, 1e-5, releases)
    assert ours <= theirs == pytest.approx(ours, abs=2e-4 * releases)


@settings(max_examples=50, deadline=None)
@given(target=st.floats(1e-3, 1e4), delta=DELTAS)
def test_the_inverse_is_that_of_googles_accountant(target: float, delta: float) -> None:
    mu = mu_of_epsilon(target, delta)
    assert mu == pytest.approx(1 / dp_accounting.get_sigma_gaussian(target, delta), rel=1e-6)
    assert epsilon_of_mu(mu, delta) <= target
    assert epsilon_of_mu(mu * (1 + 1e-9), delta) > target * (1 - 1e-6)


@settings(max_examples=60, deadline=None)
@given(
    target=st.floats(0.01, 1e6),
    clip=st.floats(0.01, 200),
    steps=st.integers(1, 60),
    name=st.sampled_from(["linear", "cosine"]),
    delta=DELTAS,
    releases=st.integers(0, 20),
)
def test_the_least_cut_is_the_first_of_all_cuts_that_will_do(
    target: float, clip: float, steps: int, name: str, delta: float, releases: int
) -> None:
    schedule = NoiseSchedule.named(name, steps)
    enough = [t for t in range(1, steps) if epsilon(clip, t, schedule, delta, releases) <= target]
    assert least_cut(target, clip, schedule, delta, releases) == (enough[0] if enough else None)


@pytest.mark.parametrize("target", [0.1, 1.0, 8.0, 100.0, 1e4])
@pytest.mark.parametrize("clip", [1.0, 10.0])
def test_the_least_cut_has_just_the_noise_that_googles_accountant_asks_for(
    target: float, clip: float
) -> None:
    cut = least_cut(target, clip, SCHEDULE, 1e-5)
    wanted = 2 * clip * dp_accounting.get_sigma_gaussian(target, 1e-5)
    noise = [math.sqrt((1 - a) / a) for a in SCHEDULE.alpha_bar]
    if cut is None:
        assert noise[999] < wanted
    else:
        assert noise[cut - 1] < wanted <= noise[cut]


def test_the_least_cut_of_the_check_value() -> None:
    assert least_cut(8.78, 10.0, SCHEDULE, 1e-5) == 690
    assert least_cut(10.0, 10.0, SCHEDULE, 1e-5) == 675
    assert least_cut(0.01, 110.0, SCHEDULE, 1e-5) is None
    assert (
        least_cut(1.0, 10.0, NoiseSchedule.linear(1), 1e-5) is None
    )  # a chain of one step has no cut inside


@pytest.mark.parametrize(
    ("name", "clip", "cuts"),
    [
        ("linear", 10.0, [924, 811, 675, 541]),
        ("cosine", 10.0, [992, 977, 937, 854]),
        ("linear", math.sqrt(3 * 64 * 64), [None, None, 965, 874]),
        ("cosine", math.sqrt(3 * 64 * 64), [None, 998, 995, 987]),
    ],
)
def test_the_least_cuts_that_the_page_tells(name: str, clip: float, cuts: list[int | None]) -> None:
    schedule = NoiseSchedule.named(name)
    assert [least_cut(target, clip, schedule, 1e-5) for target in (1.0, 3.0, 10.0, 30.0)] == cuts


def test_what_a_price_means_as_the_page_tells_it() -> None:
    mus = [mu_of_epsilon(target, 1e-5) for target in (1.0, 3.0, 10.0, 20.0, 30.0)]
    assert mus == pytest.approx([0.27, 0.72, 2.00, 3.45, 4.66], abs=0.005)
    assert [detection(mu, 0.01) for mu in mus] == pytest.approx([0.020, 0.054, 0.37, 0.87, 0.99], abs=0.005)
    assert [mu**2 / 4 for mu in mus] == pytest.approx([0.02, 0.13, 1.0, 3.0, 5.4], abs=0.05)


@settings(max_examples=60, deadline=None)
@given(mu=st.floats(0, 30), false_positives=st.floats(1e-6, 0.999999))
def test_detection_is_the_trade_off_of_two_gaussians(mu: float, false_positives: float) -> None:
    threshold = stats.norm.isf(false_positives)
    assert detection(mu, false_positives) == pytest.approx(stats.norm.sf(threshold - mu), abs=1e-9)
    assert detection(0.0, false_positives) == pytest.approx(false_positives, rel=1e-6)


@settings(max_examples=60, deadline=None)
@given(mu=st.floats(0.01, 10), false_positives=st.floats(1e-6, 0.5), delta=DELTAS)
def test_detection_keeps_what_epsilon_promises(mu: float, false_positives: float, delta: float) -> None:
    """(ε, δ) bounds every test: a rate of at most e^ε·α + δ, which the tighter curve must lie under."""
    promised = math.exp(epsilon_of_mu(mu, delta)) * false_positives + delta
    assert detection(mu, false_positives) <= promised * (1 + 1e-6) + 1e-12


def test_no_noise_detects_everything_and_releases_add_up() -> None:
    assert detection(gdp_mu(1.0, 0, SCHEDULE), 0.01) == 1.0
    assert detection(gdp_mu(1.0, 999, SCHEDULE, releases=0), 0.01) == pytest.approx(0.01)
    assert gdp_mu(3.0, 500, SCHEDULE, 9) == pytest.approx(3 * gdp_mu(3.0, 500, SCHEDULE))


def test_numbers_without_sense_are_refused() -> None:
    for wrong in (0.0, -1.0, math.nan, math.inf):
        with pytest.raises(DiffusionError, match="target above 0"):
            least_cut(wrong, 1.0, SCHEDULE, 1e-5)
        with pytest.raises(DiffusionError, match="target above 0"):
            mu_of_epsilon(wrong, 1e-5)
    for mu, rate in ((-1.0, 0.1), (math.nan, 0.1), (1.0, 0.0), (1.0, 1.0)):
        with pytest.raises(DiffusionError, match="no test"):
            detection(mu, rate)
    with pytest.raises(DiffusionError, match="no ledger"):
        epsilon(math.nan, 500, SCHEDULE, 1e-5)
    for mu in (math.nan, -1.0):  # a ledger that took it would call it free
        with pytest.raises(DiffusionError, match="no ledger"):
            epsilon_of_mu(mu, 1e-5)


def test_the_ledger_can_be_had_from_where_releases_are_made() -> None:
    for name in (
        "detection",
        "epsilon",
        "epsilon_of_mu",
        "gdp_mu",
        "least_cut",
        "mu_of_epsilon",
        "norm_bound",
        "sigma",
    ):
        assert getattr(privacy, name) is getattr(ledger, name)
