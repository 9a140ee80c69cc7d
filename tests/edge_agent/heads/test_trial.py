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
    known_time.note(connection, 1000.0, Moment("a", 5.0))

    assert known_time.known(connection, Moment("a", 65.0)) == 1060.0
    assert known_time.known(connection, Moment("b", 7.0)) == 1007.0


def test_an_older_letter_and_a_clock_set_back_change_nothing(connection: sqlite3.Connection) -> None:
    known_time.note(connection, 1000.0, Moment("a", 0.0))
    known_time.note(connection, 500.0, Moment("a", 100.0))
    known_time.note(connection, -1e9, Moment("a", 100.0))
    known_time.note(connection, 5000.0, Moment("a", 100.0))

    assert known_time.known(connection, Moment("a", 100.0)) == 5000.0
