import os
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from prometheus_client import CollectorRegistry

from edge_agent import clock, status
from edge_agent.errors import JobFailed, SpoolError
from edge_agent.generation import jobs, results, waiting
from edge_agent.link import outbox
from edge_agent.observation import Observer
from edge_agent.settings import EdgeSettings
from edge_agent.storage import aside, counters, housekeeping, quarantine
from edge_agent.storage.housekeeping import Housekeeper, Keeping
from edge_agent.storage.spool import Spool, log_of
from edge_agent.storage.state import StateDirectory
from monitoring.metrics import EdgeMetrics
from tests.edge_agent.rows import put

DAY = 86_400.0


class Clocks:
    """The wall clock and the agent's running time, moved by hand."""

    def __init__(self) -> None:
        self.wall = 1.7e9
        self.running = 50.0

    def pass_days(self, days: float) -> None:
        self.wall += days * DAY
        self.running += days * DAY


@pytest.fixture
def clocks() -> Clocks:
    return Clocks()


@pytest.fixture
def metrics() -> EdgeMetrics:
    return EdgeMetrics(CollectorRegistry())


MakeHousekeeper = Callable[..., Housekeeper]


@pytest.fixture
def keeper(spool: Spool, state: StateDirectory, clocks: Clocks, metrics: EdgeMetrics) -> MakeHousekeeper:
    def make(*, keep_days: float = 30, max_bytes: int = 2**30) -> Housekeeper:
        return Housekeeper(
            spool,
            state,
            Keeping(keep_days, max_bytes),
            metrics,
            wall_seconds=lambda: clocks.wall,
            running_seconds=lambda: clocks.running,
        )

    return make


def accept(spool: Spool) -> str:
    return jobs.accept(spool, count=1, label=None, seed=1, ttl_seconds=None, moment=clock.now())


def ended(spool: Spool, state: StateDirectory, side: int = 8) -> str:
    """A completed job with its pictures."""
    job_id = accept(spool)
    results.save(state, job_id, np.zeros((1, 1, side, side), np.float32), None)
    with spool.transaction() as transaction:
        jobs.end(transaction, job_id, "completed")
    return job_id


def there(spool: Spool, state: StateDirectory, job_id: str) -> bool:
    """Whether a job is kept; its folder and its row go together."""
    folder, row = state.results(job_id).exists(), jobs.find(spool, job_id) is not None
    assert folder == row
    return row


def test_ended_jobs_go_with_their_pictures_when_they_are_old_by_both_clocks(
    spool: Spool, state: StateDirectory, clocks: Clocks, keeper: MakeHousekeeper
) -> None:
    housekeeper = keeper(keep_days=30)
    old = ended(spool, state)
    waiting = accept(spool)
    housekeeper.turn()
    clocks.pass_days(29)
    young = ended(spool, state)
    housekeeper.turn()
    assert there(spool, state, old)

    clocks.pass_days(2)
    housekeeper.turn()

    assert not there(spool, state, old)
    assert there(spool, state, young)
    assert jobs.find(spool, waiting) is not None, "a job that has not ended is never too old"


@pytest.mark.parametrize(("wall_days", "running_days"), [(10_000, 1), (1, 10_000), (-10_000, 10_000)])
def test_one_clock_alone_removes_nothing(
    spool: Spool,
    state: StateDirectory,
    clocks: Clocks,
    keeper: MakeHousekeeper,
    wall_days: float,
    running_days: float,
) -> None:
    housekeeper = keeper(keep_days=30)
    job_id = ended(spool, state)
    housekeeper.turn()
    clocks.wall += wall_days * DAY
    clocks.running += running_days * DAY

    housekeeper.turn()

    assert there(spool, state, job_id)


def test_what_was_noticed_under_a_clock_in_the_future_still_grows_old(
    spool: Spool, state: StateDirectory, clocks: Clocks, keeper: MakeHousekeeper
) -> None:
    clocks.wall += 10_000 * DAY
    housekeeper = keeper(keep_days=30)
    job_id = ended(spool, state)
    housekeeper.turn()
    clocks.wall -= 10_000 * DAY
    housekeeper.turn()
    clocks.pass_days(1)
    housekeeper.turn()
    assert there(spool, state, job_id)

    clocks.pass_days(31)
    housekeeper.turn()

    assert not there(spool, state, job_id)


def test_the_running_time_of_earlier_agents_counts(
    spool: Spool, state: StateDirectory, clocks: Clocks, keeper: MakeHousekeeper
) -> None:
    job_id = ended(spool, state)
    keeper(keep_days=3).turn()
    for _ in range(4):  # each a new agent, whose clock begins anywhere
        clocks.running += 10_000 * DAY
        housekeeper = keeper(keep_days=3)
        clocks.pass_days(0.9)
        housekeeper.turn()

    assert not there(spool, state, job_id)


def test_over_the_quota_the_oldest_pictures_go_and_the_newest_never(
    spool: Spool, state: StateDirectory, clocks: Clocks, keeper: MakeHousekeeper
) -> None:
    made = [ended(spool, state, side=300) for _ in range(5)]  # some 360 kB each
    waiting = accept(spool)
    results.save(state, waiting, np.zeros((1, 1, 900, 900), np.float32), None)  # not yet called completed

    housekeeper = keeper(max_bytes=2**20)
    housekeeper.turn()
    assert all(there(spool, state, job_id) for job_id in made), "somebody may be about to fetch them"
    clocks.pass_days(0.01)
    housekeeper.turn()

    assert [there(spool, state, job_id) for job_id in made] == [False, False, False, True, True]
    assert there(spool, state, waiting)
    clocks.pass_days(1)
    keeper(max_bytes=1).turn()
    assert [there(spool, state, job_id) for job_id in made] == [False] * 4 + [True]
    assert there(spool, state, waiting)


def test_the_quota_is_kept_however_many_jobs_end_in_a_minute(
    spool: Spool, state: StateDirectory, clocks: Clocks, keeper: MakeHousekeeper
) -> None:
    housekeeper = keeper(max_bytes=1)
    made = [ended(spool, state) for _ in range(250)]

    for _ in range(60):
        housekeeper.turn()
        clocks.running += (
            2.0  # as often as the agent looks, until the last has been there to be fetched for long enough
        )

    assert [job_id for job_id in made if there(spool, state, job_id)] == made[-1:]


def test_on_a_full_disk_even_the_youngest_but_one_goes(
    spool: Spool, state: StateDirectory, keeper: MakeHousekeeper, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = [ended(spool, state, side=300) for _ in range(2)]
    monkeypatch.setattr(housekeeping, "LEAST_FREE_BYTES", 2**62)  # no disk has as much

    keeper(max_bytes=1).turn()

    assert [there(spool, state, job_id) for job_id in made] == [False, True]


def test_whoever_waits_is_told_that_the_pictures_were_removed(spool: Spool, state: StateDirectory) -> None:
    gone, forgotten = ended(spool, state), accept(spool)
    shutil.rmtree(state.results(gone))

    def forget(*_: object) -> None:
        with spool.transaction() as transaction:
            transaction.execute("DELETE FROM jobs WHERE job_id = ?", (forgotten,))

    for job_id, look in ((gone, None), (forgotten, forget)):
        with pytest.raises(JobFailed, match=f"job {job_id} has ended and its pictures were removed for room"):
            waiting.wait_for(spool, state, job_id, look)


def test_failed_jobs_have_no_pictures_and_go_for_their_age_alone(
    spool: Spool, state: StateDirectory, clocks: Clocks, keeper: MakeHousekeeper
) -> None:
    failed = accept(spool)
    with spool.transaction() as transaction:
        jobs.end(transaction, failed, "failed", reason="x", detail="y")
    ended(spool, state, side=300)
    housekeeper = keeper(max_bytes=1)
    housekeeper.turn()
    assert jobs.find(spool, failed) is not None

    clocks.pass_days(31)
    housekeeper.turn()

    assert jobs.find(spool, failed) is None


def test_pictures_whose_jobs_went_with_a_damaged_spool_are_the_first_to_go(
    spool: Spool, state: StateDirectory, clocks: Clocks, keeper: MakeHousekeeper
) -> None:
    stray = "a" * 32
    results.save(state, stray, np.zeros((1, 1, 300, 300), np.float32), None)
    kept = ended(spool, state, side=300)
    housekeeper = keeper(max_bytes=600_000)

    housekeeper.turn()

    assert not state.results(stray).exists()
    assert there(spool, state, kept)


def test_what_killed_processes_left_is_swept_and_what_live_ones_are_making_is_not(
    state: StateDirectory, keeper: MakeHousekeeper
) -> None:
    left = [state.results(".x.draft"), state.results(".x.gone")]
    for folder in left:
        folder.mkdir()
        (folder / "images.npy").write_bytes(b"x")
    dead, alive = state.path / ".spool.sqlite3.4194303", state.path / f".secret.{os.getpid()}"
    dead.touch()
    alive.touch()

    keeper().turn()

    assert [path.exists() for path in (*left, dead, alive)] == [False, False, False, True]


def test_forgotten_jobs_stay_counted(
    spool: Spool,
    state: StateDirectory,
    clocks: Clocks,
    keeper: MakeHousekeeper,
    metrics: EdgeMetrics,
    settings: Callable[..., EdgeSettings],
) -> None:
    housekeeper = keeper()
    observer = Observer(spool, metrics, settings())
    for _ in range(3):
        ended(spool, state)
    housekeeper.turn()
    clocks.pass_days(31)
    housekeeper.turn()
    ended(spool, state)

    observer.look(spool)

    assert jobs.counts(spool) == {"completed": 1}
    assert counters.value(spool, "forgotten_completed") == 3
    assert metrics.jobs_total.labels(outcome="completed")._value.get() == 4


def test_what_lies_in_quarantine_is_measured(
    state: StateDirectory, keeper: MakeHousekeeper, metrics: EdgeMetrics
) -> None:
    (state.path / aside.NAME / "20260101T000000Z").mkdir(parents=True)

    keeper().turn()

    assert quarantine.names(state) == ["20260101T000000Z"]
    assert metrics.quarantined_spools._value.get() == 1


def test_when_nothing_can_be_written_pictures_go_all_the_same(
    spool: Spool,
    state: StateDirectory,
    clocks: Clocks,
    keeper: MakeHousekeeper,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """As on a full disk: the room that is made is what the next turn writes with."""
    made = [ended(spool, state, side=300) for _ in range(4)]
    housekeeper = keeper(max_bytes=400_000)
    monkeypatch.setattr(housekeeping, "LEAST_FREE_BYTES", 2**62)
    spool.rows("PRAGMA query_only = 1")

    with pytest.raises(SpoolError):
        housekeeper.turn()
    assert [state.results(job_id).exists() for job_id in made] == [False, False, False, True]

    spool.rows("PRAGMA query_only = 0")
    clocks.pass_days(31)
    housekeeper.turn()
    assert jobs.counts(spool) == {"completed": 4}, "their time is counted from now"
    clocks.pass_days(31)
    housekeeper.turn()
    assert jobs.counts(spool) == {}


def used_bytes(path: Path) -> int:
    """What the file system has set aside for the spool and its log."""
    files = [file for file in (path, log_of(path)) if file.exists()]
    return sum(file.stat().st_blocks * 512 for file in files)


def fill(spool: Spool, megabytes: int) -> None:
    for number in range(megabytes):
        put(spool, f"m-{number}", os.urandom(2**20))


def drain(spool: Spool) -> None:
    outbox.confirmed(spool, [row[0] for row in spool.rows("SELECT sequence FROM outbox")])


def test_after_a_drain_the_file_system_has_its_bytes_back(spool: Spool, keeper: MakeHousekeeper) -> None:
    fill(spool, 20)
    assert used_bytes(spool.path) > 20 * 2**20
    drain(spool)

    keeper().turn()

    assert used_bytes(spool.path) < 2**20


def test_a_reader_in_the_way_delays_the_reclaim_and_is_not_waited_for(
    spool: Spool, clocks: Clocks, keeper: MakeHousekeeper
) -> None:
    housekeeper = keeper()
    fill(spool, 20)
    with Spool(spool.path) as reader, reader.transaction() as reading:
        reading.execute("COMMIT")
        reading.execute("BEGIN")
        reading.execute("SELECT count(*) FROM outbox").fetchone()
        drain(spool)
        housekeeper.turn()
        assert used_bytes(spool.path) > 20 * 2**20
    clocks.running += 60

    housekeeper.turn()

    assert used_bytes(spool.path) < 2**20


def test_a_folder_of_results_that_is_gone_is_made_again(
    spool: Spool, state: StateDirectory, keeper: MakeHousekeeper
) -> None:
    ended(spool, state)
    shutil.rmtree(state.results(""))

    keeper().turn()

    assert state.results("").is_dir()


def test_files_in_the_way_stop_nothing(
    spool: Spool, state: StateDirectory, clocks: Clocks, keeper: MakeHousekeeper
) -> None:
    stuck, plain = ended(spool, state), ended(spool, state)
    shutil.rmtree(state.results(plain))
    state.results(plain).write_text("a file where a folder was")
    state.results(f".{stuck}.gone").write_text("in the way")
    housekeeper = keeper(keep_days=1)
    housekeeper._swept = True  # as long as the agent runs, nothing else removes it
    housekeeper.turn()
    clocks.pass_days(2)

    housekeeper.turn()

    assert jobs.find(spool, plain) is None
    assert jobs.find(spool, stuck) is not None
    state.results(f".{stuck}.gone").unlink()
    clocks.pass_days(1)
    housekeeper.turn()
    assert jobs.find(spool, stuck) is None


def test_running_time_that_cannot_be_read_keeps_things_longer(
    spool: Spool, state: StateDirectory, keeper: MakeHousekeeper
) -> None:
    with spool.transaction() as transaction:
        transaction.execute("INSERT INTO agent (key, value) VALUES ('running_seconds', '{\u00ff')")
    job_id = ended(spool, state)

    keeper().turn()

    assert there(spool, state, job_id)
    assert status.noted(spool)["running_seconds"] == 0.0
