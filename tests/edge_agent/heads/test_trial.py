"""When a trial ends, and what time it surely is. Nothing here runs a head."""

import sqlite3
from collections.abc import Iterator

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edge_agent.clock import Moment
from edge_agent.heads import known_time
from edge_agent.heads.trial import Progress, Terms, may_start, verdict
from edge_agent.storage.spool import Spool


@pytest.fixture
def connection(spool: Spool) -> Iterator[sqlite3.Connection]:
    with spool.transaction() as connection:
        yield connection


@given(st.integers(0, 30), st.floats(0, 700), st.integers(0, 5))
def test_enough_images_or_enough_time_end_a_trial_well(images: int, seconds: float, starts: int) -> None:
    good = verdict(Progress(images, seconds, starts), Terms()) == "good"

    assert good == (images >= 20 or seconds >= 600)


def test_the_third_start_is_one_too_many() -> None:
    assert [may_start(Progress(0, 0.0, starts)) for starts in range(4)] == [True, True, False, False]


def test_before_the_first_letter_no_time_is_known(connection: sqlite3.Connection) -> None:
    assert known_time.known(connection, Moment("a", 5.0)) == 0.0


def test_seconds_go_on_within_a_boot_and_over_the_next(connection: sqlite3.Connection) -> None:
    known_time.note(connection, 1000.0, Moment("a", 5.0), 1000.0)

    assert known_time.known(connection, Moment("a", 65.0)) == 1060.0
    assert known_time.known(connection, Moment("b", 7.0)) == 1007.0


def test_an_older_letter_and_a_clock_set_back_change_nothing(connection: sqlite3.Connection) -> None:
    known_time.note(connection, 1000.0, Moment("a", 0.0), 1000.0)
    known_time.note(connection, 500.0, Moment("a", 100.0), 500.0)
    known_time.note(connection, -1e9, Moment("a", 100.0), -1e9)
    known_time.note(connection, 5000.0, Moment("a", 100.0), 5000.0)

    assert known_time.known(connection, Moment("a", 100.0)) == 5000.0


def test_one_letter_cannot_put_the_time_further_ahead_than_the_latest_signature_allows(
    connection: sqlite3.Connection,
) -> None:
    moment = Moment("a", 0.0)
    known_time.note(connection, 4e9, moment, wall_unix=1.8e9)
    assert known_time.known(connection, moment) == 0.0, "nothing was signed yet"

    known_time.note_signed(connection, "k", 1.8e9)
    known_time.note(connection, 4e9, moment, wall_unix=0.0)

    assert known_time.known(connection, moment) == 1.8e9 + known_time.MAX_AHEAD_SECONDS
    known_time.note_signed(connection, "k", 3e9)
    known_time.note(connection, 3e9, moment, wall_unix=0.0)
    assert known_time.known(connection, moment) == 3e9, "signed heads let it go on"


def test_a_letter_and_the_clock_that_agree_are_believed_and_the_clock_alone_is_not(
    connection: sqlite3.Connection,
) -> None:
    known_time.note_signed(connection, "k", 1e9)

    known_time.note(connection, 1e9, Moment("a", 0.0), wall_unix=1.8e9)
    assert known_time.known(connection, Moment("a", 0.0)) == 1e9
    known_time.note(connection, 1.8e9, Moment("a", 0.0), wall_unix=1.8e9 + 3600)

    assert known_time.known(connection, Moment("a", 0.0)) == 1.8e9


def test_what_a_key_that_is_no_longer_trusted_has_signed_says_nothing_of_the_time(
    connection: sqlite3.Connection,
) -> None:
    moment = Moment("a", 0.0)
    known_time.note_signed(connection, "stolen", 9e9)
    known_time.note(connection, 9e9, moment, wall_unix=0.0)
    known_time.note_signed(connection, "new", 1.8e9)

    known_time.forget_signed(connection, ["new"])

    assert known_time.known(connection, moment) == 1.8e9 + known_time.MAX_AHEAD_SECONDS
