"""When simulated links stand."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from edge_agent.errors import SimulationError
from edge_agent.fleet.links import (
    CLASSES,
    DAY_SECONDS,
    FLAKY_LONGEST_SECONDS,
    FLAKY_SLOT_SECONDS,
    HOUR_SECONDS,
    HOURLY_UP_SECONDS,
    NIGHT_SECONDS,
    LinkClass,
    LinkSchedule,
    links_of,
)

DEVICES = st.integers(0, 10_000)
SEEDS = st.integers(0, 2**63 - 1)
DAYS = st.integers(0, 30)


def minutes_up(link: LinkSchedule, begin: float, end: float) -> int:
    """Minutes from `begin` to `end`, in seconds, at whose middle the link stands."""
    return sum(link.is_up(second) for second in np.arange(begin + 30, end, 60.0))


@given(DEVICES, SEEDS, st.floats(0, 30 * DAY_SECONDS))
def test_a_link_that_always_stands_is_never_down(device: int, seed: int, second: float) -> None:
    assert LinkSchedule("always", device, seed).is_up(second)


@given(DEVICES, SEEDS, st.integers(0, 1000))
def test_an_hourly_link_stands_twenty_minutes_of_every_hour(device: int, seed: int, hour: int) -> None:
    link = LinkSchedule("hourly", device, seed)

    up = minutes_up(link, hour * HOUR_SECONDS, (hour + 1) * HOUR_SECONDS)

    assert abs(up - HOURLY_UP_SECONDS / 60) <= 1


@given(DEVICES, SEEDS, DAYS)
def test_a_nightly_link_stands_once_a_day_and_in_the_night(device: int, seed: int, day: int) -> None:
    link = LinkSchedule("nightly", device, seed)
    midnight = day * DAY_SECONDS

    night = minutes_up(link, midnight + 2 * HOUR_SECONDS, midnight + 6 * HOUR_SECONDS)

    assert abs(night - NIGHT_SECONDS / 60) <= 1
    assert minutes_up(link, midnight, midnight + 2 * HOUR_SECONDS) == 0
    assert minutes_up(link, midnight + 6 * HOUR_SECONDS, midnight + DAY_SECONDS) == 0


@given(DEVICES, SEEDS, st.integers(0, 1000))
def test_a_flaky_link_breaks_for_no_longer_than_it_may_and_comes_back(
    device: int, seed: int, slot: int
) -> None:
    link = LinkSchedule("flaky", device, seed)
    begin = slot * FLAKY_SLOT_SECONDS

    down = FLAKY_SLOT_SECONDS / 60 - minutes_up(link, begin, begin + FLAKY_SLOT_SECONDS)

    assert 0 <= down <= FLAKY_LONGEST_SECONDS / 60 + 1
    assert link.abrupt


def test_flaky_links_do_break() -> None:
    breaks = [
        not LinkSchedule("flaky", device, 3).is_up(second)
        for device in range(50)
        for second in range(0, int(DAY_SECONDS), 600)
    ]

    # Half an hour of every two on average.
    assert 0.2 < np.mean(breaks) < 0.3


@given(st.sampled_from(CLASSES), DEVICES, SEEDS, st.floats(0, 30 * DAY_SECONDS))
def test_the_same_device_and_seed_give_the_same_link(
    kind: LinkClass, device: int, seed: int, second: float
) -> None:
    assert LinkSchedule(kind, device, seed).is_up(second) == LinkSchedule(kind, device, seed).is_up(second)


@pytest.mark.parametrize("kind", ["hourly", "nightly", "flaky"])
def test_devices_and_seeds_do_not_come_and_go_together(kind: LinkClass) -> None:
    def times(device: int, seed: int) -> list[bool]:
        return [LinkSchedule(kind, device, seed).is_up(second) for second in range(0, int(DAY_SECONDS), 20)]

    # Two of ten may begin within the same twenty seconds.
    assert len({tuple(times(device, 1)) for device in range(10)}) >= 8
    assert times(0, 1) != times(0, 2)


@given(st.integers(1, 400))
def test_mixed_links_are_of_every_class_in_equal_shares(devices: int) -> None:
    kinds = [link.kind for link in links_of("mixed", devices, seed=0)]

    counts = [kinds.count(kind) for kind in CLASSES]
    assert max(counts) - min(counts) <= 1
    assert sum(counts) == devices


def test_links_can_all_be_of_one_class() -> None:
    assert {link.kind for link in links_of("nightly", 9, seed=0)} == {"nightly"}


def test_an_unknown_class_is_refused_by_name() -> None:
    with pytest.raises(SimulationError, match=r"'weekly': use always, hourly, nightly, flaky or mixed"):
        links_of("weekly", 3, seed=0)
