import multiprocessing
import os
import signal
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edge_agent.errors import SpoolError, SpoolFull
from edge_agent.storage import journal as journals
from edge_agent.storage.journal import Journal, Scan
from edge_agent.storage.reconciliation import Reconciled, reconcile
from edge_agent.storage.spool import Spool, explained
from edge_agent.storage.state import JOURNAL_NAME, StateDirectory
from tests.conftest import WAIT_SECONDS


def rows(first: int, count: int = 2) -> list[dict[str, Any]]:
    return [
        {
            "image": f"{number:064x}",
            "release": 0,
            "t_cut": 60,
            "schedule_id": "5" * 16,
            "batch_id": f"{first:064x}",
            "released_at": 1.5,
            "content": "c" * 32,
        }
        for number in range(first, first + count)
    ]


def read(journal: Journal) -> list[dict[str, Any]]:
    return [dict(row) for row in Scan(journal.path).rows()]


@pytest.fixture
def journal(state: StateDirectory) -> Journal:
    return Journal(state.path / JOURNAL_NAME)


def test_what_was_appended_is_read_back_in_its_order(journal: Journal) -> None:
    journal.append(rows(0))
    journal.append([])
    Journal(journal.path).append(rows(2))

    assert read(journal) == rows(0) + rows(2)
    assert journal.path.stat().st_mode & 0o077 == 0


@given(st.integers(1, 10_000))
@settings(max_examples=50, deadline=None)
def test_a_torn_tail_is_dropped_whole_and_written_over(
    tmp_path_factory: pytest.TempPathFactory, torn: int
) -> None:
    journal = Journal(tmp_path_factory.mktemp("journal") / "j")
    journal.append(rows(0))
    whole = journal.path.stat().st_size
    journal.append(rows(2, 30))
    os.truncate(journal.path, max(whole, journal.path.stat().st_size - torn))

    assert read(journal) == rows(0)
    journal.append(rows(4))
    assert read(journal) == rows(0) + rows(4)


def test_a_tail_of_zeros_as_power_cuts_leave_them_is_dropped(journal: Journal) -> None:
    journal.append(rows(0))
    with journal.path.open("ab") as file:
        file.write(bytes(100_000))

    assert read(journal) == rows(0)
    journal.append(rows(2))
    assert read(journal) == rows(0) + rows(2)


@pytest.mark.parametrize("place", [3, 40, 200])
def test_a_damaged_line_costs_no_other(journal: Journal, place: int) -> None:
    for first in (0, 2, 4):
        journal.append(rows(first))
    content = bytearray(journal.path.read_bytes())
    middle = content.index(b"\n") + 1
    content[middle + place] ^= 0x01
    journal.path.write_bytes(content)

    assert read(journal) == rows(0) + rows(4)


def test_lines_that_are_no_batches_are_passed_over(journal: Journal) -> None:
    for text in ("[]", "{}", '{"columns": ["image"], "rows": [["a"]]}', '{"columns": [1], "rows": [[1, 2]]}'):
        with journal.path.open("ab") as file:
            file.write(journals._line(text))
    journal.append(rows(0))

    assert read(journal) == rows(0)


def test_on_a_full_disk_nothing_of_a_line_stays(journal: Journal) -> None:
    journal.append(rows(0))
    before = journal.path.read_bytes()
    context = multiprocessing.get_context("fork")

    def append_with_a_small_limit() -> None:
        import resource  # noqa: PLC0415 - only in the child, whose limit it sets

        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (len(before) + 50, len(before) + 50))
        try:
            journal.append(rows(2))
        except Exception:  # noqa: BLE001 - what it is, is another test's affair
            os._exit(3)
        os._exit(0)

    process = context.Process(target=append_with_a_small_limit)
    process.start()
    process.join(WAIT_SECONDS)

    assert process.exitcode == 3
    assert journal.path.read_bytes() == before


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs Linux's /dev/full")
def test_a_full_disk_is_named() -> None:
    with (
        pytest.raises(SpoolFull, match=r"the disk is full: .*free some space"),
        explained("the file j", SpoolError),
    ):
        os.write(os.open("/dev/full", os.O_WRONLY), b"x")


def test_what_either_forgot_the_other_teaches_it(spool: Spool, journal: Journal) -> None:
    journal.append(rows(0))
    with spool.transaction() as transaction:
        transaction.execute(
            "INSERT INTO ledger (image, release, t_cut, schedule_id, batch_id, released_at)"
            " VALUES ('old', 1, 60, 's', 'b', 2.0)"
        )

    assert reconcile(spool) == Reconciled(restored=2, written=1)

    ledger = {row["image"]: row["restored"] for row in spool.rows("SELECT * FROM ledger")}
    assert ledger == {"old": 0, rows(0)[0]["image"]: 1, rows(0)[1]["image"]: 1}
    assert read(journal)[-1]["image"] == "old"
    assert reconcile(spool) == Reconciled(0, 0)


def test_of_two_lines_for_one_release_the_later_holds(spool: Spool, journal: Journal) -> None:
    """The earlier one's transaction was never committed: else there would be no second."""
    journal.append(rows(0))
    journal.append([row | {"t_cut": 99, "released_at": 2.5} for row in rows(0)])

    assert reconcile(spool).restored == 2
    assert reconcile(spool) == Reconciled(0, 0)
    assert [row[0] for row in spool.rows("SELECT t_cut FROM ledger")] == [99, 99]


def test_of_two_prices_for_one_release_the_dearer_holds(spool: Spool, journal: Journal) -> None:
    for mu, moment in ((5.0, 1.5), (2.0, 2.5), (3.0, 3.5)):
        journal.append([row | {"mu": mu, "norm_bound": mu + 1, "released_at": moment} for row in rows(0)])

    assert reconcile(spool).restored == 2

    kept = [tuple(row) for row in spool.rows("SELECT mu, norm_bound, released_at FROM ledger")]
    assert kept == [(5.0, 6.0, 3.5)] * 2


def test_values_that_the_ledger_would_not_take_stop_nothing(spool: Spool, journal: Journal) -> None:
    journal.append([row | {"t_cut": None} for row in rows(0)])
    journal.append(rows(2))

    assert reconcile(spool).restored == 2


def test_columns_that_this_ledger_does_not_have_are_left_out(spool: Spool, journal: Journal) -> None:
    journal.append([row | {"from_the_future": "x"} for row in rows(0)])

    assert reconcile(spool).restored == 2
