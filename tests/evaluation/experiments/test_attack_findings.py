"""What is said follows from the figures, whatever they are: these are made up."""

from collections.abc import Mapping

import pytest

from evaluation.attacks.attribute_inference import COIN
from evaluation.attacks.averaging import closed_form_psnr_db
from evaluation.attacks.roc import Separation, deviation_by_chance
from evaluation.experiments.attacks import measures as made
from evaluation.experiments.attacks.figures import ByCut, by_cut
from evaluation.experiments.attacks.findings import (
    about_attributes,
    about_averaging,
    about_linkage,
    about_reconstruction,
    beyond_noise,
)
from evaluation.experiments.attacks.measures import Memberships
from evaluation.experiments.attacks.membership_findings import about_membership
from evaluation.metrics.spread import Spread, spread
from evaluation.reporting.outcome import Finding, Weight

CUTS = (0.0, 0.4, 0.8, 1.0)


def near(value: float, reach: float = 0.001) -> Spread:
    return spread((value - reach, value, value + reach))


def line(*values: float | None, reach: float = 0.001) -> tuple[Spread | None, ...]:
    return tuple(None if value is None else near(value, reach) for value in values)


def controls(findings: list[Finding]) -> list[Weight]:
    """In the order in which they are said: the one that must succeed, the one that must fail."""
    return [f.weight for f in findings if f.weight in {Weight.CONTROL, Weight.FAILED_CONTROL}]


def reconstruction(linear: tuple[float, ...], learned: tuple[float, ...]) -> ByCut:
    figures = {
        made.LINEAR: line(*linear),
        made.LEARNED: line(*learned),
        made.BACKBONE: line(None, 0.75, 0.1, None),
        made.RECOGNISED: line(1.0, 0.5, 0.01, 0.01, reach=0.01),
    }
    return ByCut(CUTS, figures)


def test_what_separates_is_claimed_and_what_does_not_is_left_open() -> None:
    findings = beyond_noise(reconstruction((1, 0.7, 0.2, 0), (1, 0.8, 0.2, 0)), made.RECOGNISED, "Found")
    claimed, undecided = findings
    assert claimed.weight is Weight.CLAIM
    assert "50.0 ± 1.0 % at cut 0.4" in claimed.text
    assert "at cut 0.8" not in claimed.text
    assert undecided.weight is Weight.UNDECIDED
    assert "1.0 ± 1.0 % at cut 0.8" in undecided.text


def test_one_reconstruction_is_called_better_only_where_the_seeds_tell() -> None:
    def weights(learned: float) -> list[Weight]:
        figures = reconstruction((1, 0.7, 0.2, 0), (1, learned, 0.2, 0))
        found = about_reconstruction(figures, 0.4)
        return [f.weight for f in found if "against the best linear" in f.text]

    assert weights(0.8) == [Weight.CLAIM]
    assert weights(0.7005) == [Weight.UNDECIDED]


@pytest.mark.parametrize(
    ("clean", "noise", "expected"),
    [
        (1.0, 0.0, [Weight.CONTROL, Weight.CONTROL]),
        (0.8, 0.0, [Weight.FAILED_CONTROL, Weight.CONTROL]),
        (1.0, -0.3, [Weight.CONTROL, Weight.CONTROL]),
        (1.0, 0.1, [Weight.CONTROL, Weight.FAILED_CONTROL]),
    ],
)
def test_controls_of_reconstruction(clean: float, noise: float, expected: list[Weight]) -> None:
    figures = reconstruction((clean, 0.7, 0.2, noise), (1, 0.8, 0.2, 0))
    assert controls(about_reconstruction(figures, 0.4)) == expected


@pytest.mark.parametrize(
    ("off", "mixed", "expected"),
    [
        (0.1, 0.99, [Weight.CONTROL, Weight.CONTROL]),
        (3.0, 0.99, [Weight.FAILED_CONTROL, Weight.CONTROL]),
        (0.1, 0.40, [Weight.CONTROL, Weight.FAILED_CONTROL]),
    ],
)
def test_controls_of_averaging(off: float, mixed: float, expected: list[Weight]) -> None:
    alpha_bar = {0.4: 0.6, 0.8: 0.1}
    figures: dict[str, tuple[Spread | None, ...]] = {
        f"K = {count}": tuple(near(closed_form_psnr_db(a, count) + off) for a in alpha_bar.values())
        for count in made.COUNTS
    }
    findings = about_averaging(ByCut((0.4, 0.8), figures | {made.MIXED: line(mixed, 1.0)}), alpha_bar, 1024)
    assert controls(findings) == expected
    assert "34 dB from 450 at cut 0.4" in findings[-1].text  # 10·log₁₀(4·450·0.6/0.4) = 34.3
    assert findings[-1].weight is Weight.FACT


@pytest.mark.parametrize(
    ("clean", "coin", "expected"),
    [
        (0.95, 0.51, [Weight.CONTROL, Weight.CONTROL]),
        (0.60, 0.51, [Weight.FAILED_CONTROL, Weight.CONTROL]),
        (0.95, 0.65, [Weight.CONTROL, Weight.FAILED_CONTROL]),
    ],
)
def test_controls_of_attribute_inference(clean: float, coin: float, expected: list[Weight]) -> None:
    figures = ByCut(
        CUTS, {made.LABELS: line(clean, 0.9, 0.501, 0.5), COIN: line(0.5, coin, 0.5, 0.5, reach=0.01)}
    )
    findings = about_attributes(figures, 0.4, {made.LABELS: 0.03, COIN: 0.03})
    assert controls(findings) == expected
    claims = [f.text for f in findings if f.weight is Weight.CLAIM]
    assert "90.0 ± 0.1 % at cut 0.4" in claims[0]


def test_where_nothing_can_be_asked_no_control_has_failed() -> None:
    """Images of one label without attributes: the coin alone is asked about."""
    findings = about_attributes(ByCut(CUTS, {COIN: line(0.5, 0.5, 0.5, 0.5)}), 0.4, {COIN: 0.03})
    assert [finding.weight for finding in findings] == [Weight.UNDECIDED]


@pytest.mark.parametrize(("positives", "expected"), [(5, Weight.CONTROL), (200, Weight.FAILED_CONTROL)])
def test_a_rare_property_may_be_further_from_a_half_by_chance(positives: int, expected: Weight) -> None:
    figures = ByCut(CUTS, {"hat": line(0.95, 0.9, 0.6, 0.62), COIN: line(0.5, 0.5, 0.5, 0.5)})
    chances = {"hat": deviation_by_chance(positives, 400 - positives), COIN: deviation_by_chance(200, 200)}
    assert controls(about_attributes(figures, 0.4, chances))[1] is expected


def told(area: float, low: float) -> Separation:
    return Separation(area, low, 2 * area - low, 0.05, 0.0, 0.1, 0.01, 290, 290)


def membership(
    by_cut: Mapping[float, tuple[Separation, ...]],
    memorised: float = 0.95,
    not_shown: float = 0.5,
    heavily: float = 0.7,
) -> list[Finding]:
    return about_membership(
        Memberships(
            {(made.LOSS, cut): parts for cut, parts in by_cut.items()},
            {made.LOSS: told(memorised + 0.02, memorised)},
            {made.LOSS: (told(heavily, heavily - 0.05),) * 3},
            {made.LOSS: (told(not_shown, not_shown - 0.05),) * 3},
        ),
        0.4,
    )


def test_members_are_told_only_where_every_seed_says_so() -> None:
    sure, unsure = told(0.6, 0.55), told(0.53, 0.48)
    findings = membership({0.2: (sure, sure, sure), 0.4: (sure, sure, unsure)})
    claimed = [f.text for f in findings if f.weight is Weight.CLAIM]
    undecided = [f.text for f in findings if f.weight is Weight.UNDECIDED]
    claimed, undecided = (
        [text for text in part if text.startswith("Membership")] for part in (claimed, undecided)
    )
    assert len(claimed) == len(undecided) == 1
    assert "area 0.600" in claimed[0]
    assert "at cut 0.2" in claimed[0]
    assert "at cut 0.4" in undecided[0]
    assert any("1 % of 290 held-out images are 2" in f.text for f in findings if f.weight is Weight.FACT)


def test_an_area_below_a_half_tells_too() -> None:
    """A score that is wrong with every seed is right when it is turned round."""
    findings = membership({0.2: (told(0.35, 0.25),) * 3, 0.4: (told(0.35, 0.15),) * 3}, heavily=0.3)
    below = [f for f in findings if "turns the score round" in f.text]
    assert [f.weight for f in below] == [Weight.CLAIM, Weight.CLAIM]
    assert "at cut 0.2" in below[0].text
    assert "at cut 0.4" not in below[0].text
    assert below[1].text.startswith("Networks overfitted on 290 releases")


@pytest.mark.parametrize(("heavily", "expected"), [(0.7, Weight.CLAIM), (0.52, Weight.UNDECIDED)])
def test_what_overfitting_on_releases_gives_away_is_said_as_it_is(heavily: float, expected: Weight) -> None:
    findings = membership({0.4: (told(0.6, 0.55),) * 3}, heavily=heavily)
    assert [f.weight for f in findings if f.text.startswith("Networks overfitted on 290 releases")] == [
        expected
    ]


@pytest.mark.parametrize(("store", "expected"), [(0.7, Weight.CLAIM), (0.6005, Weight.UNDECIDED)])
def test_the_store_is_said_to_tell_more_only_where_it_does(store: float, expected: Weight) -> None:
    def around(area: float) -> tuple[Separation, ...]:
        return tuple(told(area + off, area - 0.05) for off in (-0.001, 0.0, 0.001))

    by_cut = {(made.LOSS, 0.4): around(0.6), (made.STORE, 0.4): around(store)}
    found = Memberships(by_cut, {made.LOSS: told(0.97, 0.95)}, {}, {made.LOSS: (told(0.5, 0.45),) * 3})
    weights = [f.weight for f in about_membership(found, 0.4) if "for members at cut 0.4" in f.text]
    assert weights == [expected]


@pytest.mark.parametrize(
    ("memorised", "not_shown", "expected"),
    [
        (0.95, 0.52, [Weight.CONTROL, Weight.CONTROL]),
        (0.55, 0.52, [Weight.FAILED_CONTROL, Weight.CONTROL]),
        (0.95, 0.60, [Weight.CONTROL, Weight.FAILED_CONTROL]),
        (0.95, 0.40, [Weight.CONTROL, Weight.FAILED_CONTROL]),
    ],
)
def test_controls_of_membership(memorised: float, not_shown: float, expected: list[Weight]) -> None:
    assert controls(membership({0.4: (told(0.6, 0.55),) * 3}, memorised, not_shown)) == expected


@pytest.mark.parametrize(
    ("clean", "noise", "expected"),
    [
        (1.0, 0.003, [Weight.CONTROL, Weight.CONTROL]),
        (0.4, 0.003, [Weight.FAILED_CONTROL, Weight.CONTROL]),
        (1.0, 0.1, [Weight.CONTROL, Weight.FAILED_CONTROL]),
    ],
)
def test_controls_of_linkage(clean: float, noise: float, expected: list[Weight]) -> None:
    figures = {
        f"rank 1 {way}": line(clean, 0.5, 0.2, noise) for way in (made.PIXELS, made.WIENER, made.RATIO)
    }
    assert controls(about_linkage(ByCut(CUTS, figures), 0.4, 300)) == expected


def test_what_few_partners_found_leave_open_the_area_may_tell() -> None:
    figures = {
        f"rank 1 {way}": line(1.0, 0.5, 0.004, 0.003) for way in (made.PIXELS, made.WIENER, made.RATIO)
    }
    figures[f"AUC {made.RATIO}"] = line(1.0, 0.99, 0.62, 0.51)
    at_late_cut = [f for f in about_linkage(ByCut(CUTS, figures), 0.4, 300) if "at cut 0.8" in f.text]
    assert [f.weight for f in at_late_cut] == [Weight.UNDECIDED, Weight.CLAIM]
    assert "62.0 ± 0.1 % at cut 0.8" in at_late_cut[1].text


def test_a_figure_that_some_seed_lacks_is_none() -> None:
    def measure(cut: float, seed: int) -> dict[str, float]:
        return {"always": cut + seed} | ({"sometimes": 1.0} if cut or seed else {})

    found = by_cut((0.0, 1.0), (0, 1, 2), measure)
    assert found.at("sometimes", 0.0) is None
    assert found.at("sometimes", 1.0) == spread((1.0, 1.0, 1.0))
    assert found.at("always", 1.0) == spread((1.0, 2.0, 3.0))
    assert found.series("sometimes").x == (1.0,)
