"""What ledger and journal can still tell each other when one of them, or both, are damaged or gone."""

import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from prometheus_client import CollectorRegistry

from edge_agent import status
from edge_agent.errors import BudgetExceeded, JournalUnusable, SpoolBusy
from edge_agent.observation import Observer
from edge_agent.release import contribution, ledger
from edge_agent.release.images import Image
from edge_agent.settings import EdgeSettings
from edge_agent.storage import aside, counters, loss, quarantine
from edge_agent.storage import journal as journals
from edge_agent.storage import spool as spools
from edge_agent.storage.journal import Journal, Scan
from edge_agent.storage.reconciliation import reconcile
from edge_agent.storage.spool import Spool
from edge_agent.storage.state import JOURNAL_NAME, StateDirectory
from monitoring.metrics import EdgeMetrics
from tests.edge_agent.agents import collafuse, edge_json

MakeSettings = Callable[..., EdgeSettings]


@pytest.fixture
def images(pictures: np.ndarray) -> list[Image]:
    return [Image(str(number), x0, None) for number, x0 in enumerate(pictures)]


@pytest.fixture
def lived(state: StateDirectory, settings: MakeSettings, images: list[Image]) -> StateDirectory:
    """A device that has released ten images."""
    with Spool(state.spool) as spool:
        contribution.contribute(spool, images, state.secret(), settings())
    return state


def journal_of(state: StateDirectory) -> Path:
    return state.path / JOURNAL_NAME


def gone(path: Path) -> None:
    path.unlink()


def flipped(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[30] ^= 1
    path.write_bytes(content)


def zeros(path: Path) -> None:
    path.write_bytes(bytes(path.stat().st_size))


def directory(path: Path) -> None:
    path.unlink()
    path.mkdir()


def anew(state: StateDirectory) -> tuple[Spool, str]:
    """The spool that takes the place of a damaged one, and what is said about it."""
    said: list[str] = []
    return quarantine.open_spool(state, say=said.append, verify=True), said[0]


def empty(path: Path) -> None:
    path.write_bytes(b"")


@pytest.mark.parametrize("damage", [gone, flipped, zeros, directory])
def test_what_both_have_forgotten_is_reported_until_the_operator_knows(
    lived: StateDirectory, settings: MakeSettings, images: list[Image], damage: Callable[[Path], None]
) -> None:
    empty(lived.spool)
    damage(journal_of(lived))
    careful = settings(epsilon_budget=1e6)

    spool, said = anew(lived)

    with spool:
        assert "some releases may be forgotten" in said
        facts = status.collect(lived, spool, careful)["ledger"]
        assert facts["incomplete_since"] > 0
        assert (facts["epsilon_max"], facts["loss_acknowledged"]) == (None, False)
        with pytest.raises(BudgetExceeded, match="--acknowledge-loss"):
            contribution.contribute(spool, images, lived.secret(), careful)
        assert loss.acknowledge(spool)
        assert contribution.contribute(spool, images, lived.secret(), careful).released == 10
        assert ledger.summary(spool, careful)["epsilon_max"] is None, "it stays incomplete"
        assert reconcile(spool).damaged == 0, "the journal was written anew"


def test_that_something_was_lost_outlives_the_next_loss_of_the_spool(
    lived: StateDirectory, settings: MakeSettings
) -> None:
    empty(lived.spool)
    gone(journal_of(lived))
    spool, _ = anew(lived)
    with spool:
        since = ledger.summary(spool, settings())["incomplete_since"]
    empty(lived.spool)

    spool, said = anew(lived)

    with spool:
        assert "is still known" in said
        again = ledger.summary(spool, settings())
        assert (again["incomplete_since"], again["loss_acknowledged"]) == (since, False)


def test_a_loss_is_counted_and_observed(lived: StateDirectory, settings: MakeSettings) -> None:
    empty(lived.spool)
    gone(journal_of(lived))
    registry = CollectorRegistry()
    spool, _ = anew(lived)

    with spool:
        observer = Observer(spool, EdgeMetrics(registry), settings())
        assert registry.get_sample_value("collafuse_ledger_incomplete") == 1
        assert registry.get_sample_value("collafuse_ledger_epsilon_max") == float("inf")
        assert counters.value(spool, "ledger_incomplete_since") > 0
        loss.acknowledge(spool)
        observer.look(spool)
        assert registry.get_sample_value("collafuse_ledger_incomplete") == 0


def test_what_can_be_read_of_the_damaged_spool_is_kept(lived: StateDirectory, settings: MakeSettings) -> None:
    with Spool(lived.spool) as spool:
        before = ledger.accounts(spool, settings(), limit=99)
        with spool.transaction() as transaction:
            transaction.execute("CREATE TABLE ballast AS SELECT randomblob(300000)")
        spool.rows("PRAGMA wal_checkpoint(TRUNCATE)")
    os.truncate(lived.spool, lived.spool.stat().st_size - 100_000)
    gone(journal_of(lived))

    spool, said = anew(lived)

    with spool:
        assert "some releases may be forgotten" in said
        assert ledger.accounts(spool, settings(), limit=99) == before
        assert len(list(Scan(Journal.of(spool).path).rows())) == 10


@pytest.mark.parametrize("damage", [gone, flipped, zeros, directory])
def test_a_journal_that_is_damaged_beside_a_whole_spool_is_written_anew(
    lived: StateDirectory, settings: MakeSettings, damage: Callable[[Path], None]
) -> None:
    damage(journal_of(lived))

    with Spool(lived.spool, verify=True) as spool:
        assert reconcile(spool).written == 10
        assert len(list(Scan(Journal.of(spool).path).rows())) == 10
        assert ledger.summary(spool, settings())["incomplete_since"] is None
    empty(lived.spool)
    spool, said = anew(lived)
    with spool:
        assert "is still known" in said
        assert ledger.release_count(spool) == 10


def test_a_journal_that_cannot_even_be_moved_stops_contributions_alone(
    lived: StateDirectory, settings: MakeSettings, images: list[Image]
) -> None:
    directory(journal_of(lived))
    (lived.path / aside.NAME).write_text("in the way")

    with Spool(lived.spool) as spool:
        with pytest.raises(JournalUnusable, match="nothing is released before that"):
            contribution.contribute(spool, images, lived.secret(), settings(releases=2))
        assert status.collect(StateDirectory(lived.path), spool, settings())["ledger"]["releases"] == 10


@pytest.mark.parametrize(
    "batch",
    [
        {"columns": ["image", "release"], "rows": [[["x"], 1]]},
        {"columns": ["image", "release", "mu"], "rows": [["x", {"a": 1}, 2]]},
        {"columns": ["image", "release", "mu"], "rows": [["x", 10**40, 2]]},
        {"columns": ["image", "release", "mu"], "rows": [["x", 1, "dear"]]},
        {"columns": ["image", "release", "mu"], "rows": [["\ud800", 1, 2]]},
        {"incomplete_since": "yesterday", "acknowledged": None},
    ],
)
def test_lines_of_foreign_types_are_damaged_lines(lived: StateDirectory, batch: dict[str, object]) -> None:
    with journal_of(lived).open("ab") as file:
        file.write(journals._line(json.dumps(batch)))

    with Spool(lived.spool) as spool:
        assert reconcile(spool).damaged == 1
        assert reconcile(spool).damaged == 0


def test_the_command_says_that_the_account_is_incomplete_and_takes_the_operators_word(
    lived: StateDirectory,
) -> None:
    empty(lived.spool)
    gone(journal_of(lived))

    shown = collafuse("edge", "ledger", "--state", lived.path)
    assert shown.returncode == 0
    assert "This account is incomplete" in shown.stdout
    assert "epsilon is at most" not in shown.stdout
    assert edge_json("ledger", "--state", lived.path)["loss_acknowledged"] is False
    assert edge_json("ledger", "--state", lived.path, "--acknowledge-loss")["loss_acknowledged"] is True


def test_nobody_is_waited_for_where_ledger_and_journal_agree(
    lived: StateDirectory, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A contribution may have been suspended in the middle of a transaction."""
    monkeypatch.setattr(spools, "BUSY_SECONDS", 0.1)
    with Spool(lived.spool) as spool:
        reconcile(spool)
    code = (
        "import sys, os, signal; from pathlib import Path; from edge_agent.storage.spool import Spool\n"
        "with Spool(Path(sys.argv[1])).transaction(): print('in', flush=True); os.kill(os.getpid(), signal.SIGSTOP)"
    )
    holder = subprocess.Popen([sys.executable, "-c", code, lived.spool], stdout=subprocess.PIPE)
    try:
        assert holder.stdout is not None
        assert holder.stdout.readline() == b"in\n"
        with Spool(lived.spool, verify=True) as spool:
            assert reconcile(spool) == reconcile(spool, quick=True)
            with pytest.raises(SpoolBusy, match="stuck"):
                spool.transaction().__enter__()
    finally:
        holder.send_signal(signal.SIGKILL)
        holder.wait()


def test_a_quick_look_reads_only_what_was_added(
    lived: StateDirectory, settings: MakeSettings, images: list[Image]
) -> None:
    with Spool(lived.spool) as spool:
        reconcile(spool)
        flipped(journal_of(lived))
        contribution.contribute(spool, images, lived.secret(), settings(releases=2))
        assert reconcile(spool, quick=True).damaged == 0
        assert reconcile(spool).damaged == 1
