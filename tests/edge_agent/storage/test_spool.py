import multiprocessing
import os
import signal
import sqlite3
import subprocess
import sys
import textwrap
from collections.abc import Callable
from pathlib import Path

import pytest

from edge_agent.errors import SpoolDamaged, SpoolError, SpoolFull
from edge_agent.link import outbox
from edge_agent.storage import migrations
from edge_agent.storage.migrations import Migration
from edge_agent.storage.spool import Spool
from edge_agent.storage.state import StateDirectory
from monitoring.errors import Disposition
from tests.conftest import WAIT_SECONDS
from tests.edge_agent.rows import put
from tests.edge_agent.storage.damage import DAMAGES


def ids(spool: Spool) -> list[str]:
    return [row[0] for row in spool.rows("SELECT message_id FROM outbox ORDER BY sequence")]


def test_what_was_committed_is_there_after_reopening(state: StateDirectory) -> None:
    with Spool(state.spool) as spool:
        put(spool, "one")
    with Spool(state.spool, verify=True) as spool:
        assert ids(spool) == ["one"]


def test_a_spool_is_durable_and_private(spool: Spool) -> None:
    assert spool.rows("PRAGMA journal_mode")[0][0] == "wal"
    assert spool.rows("PRAGMA synchronous")[0][0] == 2
    assert spool.path.stat().st_mode & 0o077 == 0


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_damaged_spool_is_reported_in_one_line_and_not_touched_by_opening_it(
    state: StateDirectory, damage: Callable[[Path], None]
) -> None:
    with Spool(state.spool) as spool:
        for number in range(50):
            put(spool, f"message-{number}", os.urandom(4096))
    damage(state.spool)
    before = state.spool.read_bytes()

    with pytest.raises(SpoolDamaged, match=r"is damaged: ") as caught:
        Spool(state.spool, verify=True)

    assert str(state.spool) in str(caught.value)
    assert "\n" not in str(caught.value)
    assert state.spool.read_bytes() == before


def test_a_spool_of_a_newer_program_is_refused(state: StateDirectory) -> None:
    with Spool(state.spool) as spool, spool.transaction() as transaction:
        transaction.execute("INSERT INTO migrations VALUES ('9999_from_the_future', 0)")

    with pytest.raises(SpoolError, match=r"9999_from_the_future.*newer version"):
        Spool(state.spool)


def test_a_failing_migration_leaves_nothing_behind(tmp_path: Path) -> None:
    bad = Migration("0002_bad", ("CREATE TABLE half (x)", "CREATE TABLE half (x)"))
    connection = sqlite3.connect(tmp_path / "spool", isolation_level=None)

    with pytest.raises(sqlite3.OperationalError):
        migrations.migrate(connection, (*migrations.MIGRATIONS, bad))

    assert migrations.applied(connection) == tuple(step.name for step in migrations.MIGRATIONS)
    assert connection.execute("SELECT count(*) FROM sqlite_master WHERE name = 'half'").fetchone()[0] == 0
    assert migrations.migrate(
        connection, (*migrations.MIGRATIONS, Migration("0002_good", ("CREATE TABLE whole (x)",)))
    ) == ("0002_good",)
    connection.close()


def test_on_a_full_disk_new_work_is_refused_and_the_old_is_intact(spool: Spool) -> None:
    put(spool, "accepted")
    pages = spool.rows("PRAGMA page_count")[0][0]
    spool.rows(f"PRAGMA max_page_count = {pages + 2}")

    with pytest.raises(SpoolFull, match=r"the disk is full.*free some space") as caught:
        put(spool, "too much", b"x" * 100_000)

    assert caught.value.disposition is Disposition.RETRY
    assert ids(spool) == ["accepted"]
    spool.rows("PRAGMA max_page_count = 1000000")
    put(spool, "later", b"x" * 100_000)
    assert ids(spool) == ["accepted", "later"]


def test_the_disk_of_deleted_messages_is_given_back(spool: Spool) -> None:
    for number in range(8):
        put(spool, f"message-{number}", os.urandom(2**20))
    spool.rows("PRAGMA wal_checkpoint(TRUNCATE)")
    full_bytes = spool.path.stat().st_size
    outbox.confirmed(spool, [row[0] for row in spool.rows("SELECT sequence FROM outbox")])

    spool.give_back_disk()

    assert full_bytes > 8 * 2**20
    assert spool.path.stat().st_size < 2**20


def test_changes_of_another_connection_are_noticed_and_own_ones_not(spool: Spool) -> None:
    put(spool, "mine")
    assert not spool.changed_elsewhere()
    with Spool(spool.path) as other:
        put(other, "theirs")
    assert spool.changed_elsewhere()
    assert not spool.changed_elsewhere()


def open_and_put(path: Path, name: str) -> None:
    with Spool(path) as spool:
        put(spool, name)


def test_processes_that_start_together_share_one_spool(state: StateDirectory) -> None:
    context = multiprocessing.get_context("fork")
    names = [f"process-{number}" for number in range(6)]
    processes = [context.Process(target=open_and_put, args=(state.spool, name)) for name in names]
    for process in processes:
        process.start()
    for process in processes:
        process.join(WAIT_SECONDS)

    with Spool(state.spool, verify=True) as spool:
        assert sorted(ids(spool)) == names
    assert [process.exitcode for process in processes] == [0] * 6
    assert [path.name for path in state.path.iterdir() if path.name.startswith(".spool")] == []


KILLED = """
    import os, signal, sys
    from pathlib import Path
    from edge_agent.storage.spool import Spool
    from edge_agent.link import outbox

    spool = Spool(Path(sys.argv[1]))
    when = sys.argv[2]
    with spool.transaction() as transaction:
        outbox._put(transaction, message_id="first", kind="samples", type_name="samples.v1", body=b"1", max_bytes=2**40)
        if when == "between":
            os.kill(os.getpid(), signal.SIGKILL)
        outbox._put(transaction, message_id="second", kind="samples", type_name="samples.v1", body=b"2", max_bytes=2**40)
        if when == "before":
            os.kill(os.getpid(), signal.SIGKILL)
    os.kill(os.getpid(), signal.SIGKILL)
"""


@pytest.mark.parametrize(("when", "kept"), [("between", []), ("before", []), ("after", ["first", "second"])])
def test_a_process_killed_in_a_transaction_leaves_all_of_it_or_nothing(
    state: StateDirectory, when: str, kept: list[str]
) -> None:
    died = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(KILLED), str(state.spool), when],
        check=False,
        timeout=WAIT_SECONDS,
    )

    assert died.returncode == -signal.SIGKILL
    with Spool(state.spool, verify=True) as spool:
        assert ids(spool) == kept


def test_opening_a_second_connection_here_does_not_let_another_process_lose_rows(
    state: StateDirectory,
) -> None:
    """SQLite's locks are the process's: a stray descriptor of the file, once closed, would drop them all."""
    writer = textwrap.dedent(
        """
        import sys
        from pathlib import Path
        from edge_agent.link import outbox
        from edge_agent.storage.spool import Spool
        with Spool(Path(sys.argv[1])) as spool, spool.transaction() as transaction:
            outbox._put(transaction, message_id=sys.argv[2], kind="samples", type_name="samples.v1", body=b"x", max_bytes=2**40)
        """
    )
    with Spool(state.spool) as first:
        for number in range(3):
            with Spool(state.spool, verify=True):
                pass
            put(first, f"here-{number}")
            subprocess.run(
                [sys.executable, "-c", writer, str(state.spool), f"there-{number}"],
                check=True,
                timeout=WAIT_SECONDS,
            )
            put(first, f"again-{number}")
    expected = [f"{where}-{number}" for number in range(3) for where in ("here", "there", "again")]
    with Spool(state.spool) as spool:
        assert ids(spool) == expected


def _settled(path: Path) -> None:
    with Spool(path) as spool:
        with spool.transaction() as transaction:
            transaction.execute("INSERT INTO agent (key, value) VALUES ('a-key-of-the-agent', '1')")
        spool.rows("PRAGMA wal_checkpoint(TRUNCATE)")


def test_a_flipped_bit_in_a_text_is_damage(tmp_path: Path) -> None:
    path = tmp_path / "spool.sqlite3"
    _settled(path)
    path.write_bytes(path.read_bytes().replace(b"a-key-of-the-agent", b"a-\xebey-of-the-agent"))

    with pytest.raises(SpoolDamaged, match="UTF-8"), Spool(path) as spool:
        spool.rows("SELECT * FROM agent")


@pytest.mark.parametrize("place", [b"SQLite format", b"CREATE TABLE jobs", b"CREATE TABLE ledger"])
def test_a_schema_that_was_overwritten_is_damage(tmp_path: Path, place: bytes) -> None:
    path = tmp_path / "spool.sqlite3"
    _settled(path)
    content = path.read_bytes()
    start = content.index(place) // 512 * 512 + (100 if place.startswith(b"SQLite") else 0)
    path.write_bytes(content[:start] + b"\xff" * 512 + content[start + 512 :])

    with pytest.raises(SpoolDamaged), Spool(path, verify=True):
        pass


def test_an_index_that_disagrees_with_its_table_is_damage(tmp_path: Path) -> None:
    path = tmp_path / "spool.sqlite3"
    _settled(path)
    content = bytearray(path.read_bytes())
    content[content.index(b"a-key-of-the-agent")] ^= 0x01
    path.write_bytes(content)

    with pytest.raises(SpoolDamaged), Spool(path, verify=True):
        pass


def test_a_table_that_is_missing_is_damage(tmp_path: Path) -> None:
    with Spool(tmp_path / "spool.sqlite3") as spool:
        with spool.transaction() as transaction:
            transaction.execute("DROP TABLE kept")
        with pytest.raises(SpoolDamaged, match="no such table"):
            spool.rows("SELECT * FROM kept")
