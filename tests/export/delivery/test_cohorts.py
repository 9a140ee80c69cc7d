"""Who is reached first: the same devices every time, others for the next head, and a larger share is a larger set."""

from hypothesis import given
from hypothesis import strategies as st

from export.delivery.cohorts import in_cohort, place_of

USERS = [f"ward_d{number}" for number in range(4000)]
names = st.from_regex(r"[a-z][a-z0-9-]{0,10}", fullmatch=True)


@given(names, st.integers(1, 2**53), names, st.floats(0, 100), st.floats(0, 100))
def test_whoever_is_in_a_share_is_in_every_larger_one(
    name: str, counter: int, user: str, one: float, other: float
) -> None:
    small, large = sorted((one, other))

    assert in_cohort(name, counter, user, small) <= in_cohort(name, counter, user, large)
    assert in_cohort(name, counter, user, 100)
    assert not in_cohort(name, counter, user, 0)
    assert 0 <= place_of(name, counter, user) < 1


def test_a_share_holds_about_as_many_devices_as_it_says() -> None:
    for percent in (1, 10, 50, 90):
        found = sum(in_cohort("ward", 7, user, percent) for user in USERS)
        assert abs(found / len(USERS) - percent / 100) < 0.03


def test_the_next_head_begins_with_other_devices() -> None:
    first = {user for user in USERS if in_cohort("ward", 7, user, 10)}
    second = {user for user in USERS if in_cohort("ward", 8, user, 10)}

    assert len(first & second) < 0.3 * len(first)


def test_the_order_is_pinned() -> None:
    places = [place_of("ward", 1, user) for user in USERS[:3]]

    assert places == PINNED


PINNED = [0.6126, 0.6332, 0.2838]
