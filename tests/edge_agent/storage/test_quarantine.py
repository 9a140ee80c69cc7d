from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from edge_agent import status
from edge_agent.errors import SpoolDamaged, SpoolReplaced
from edge_agent.release import contribution, ledger
from edge_agent.release.images import open_images
from edge_agent.settings import EdgeSettings
from edge_agent.storage import aside, quarantine
from edge_agent.storage.spool import Spool, log_of
from edge_agent.storage.state import JOURNAL_NAME, StateDirectory, agent_lock
from tests.edge_agent.rows import put
from tests.edge_agent.storage.damage import DAMAGES, overwritten

MakeSettings = Callable[..., EdgeSettings]


@pytest.fixture
def data(tmp_path: Path, pictures: np.ndarray) -> Path:
    np.savez(tmp_path / "data.npz", images=pictures)
    return tmp_path / "data.npz"


def contribute(
    spool: Spool, state: StateDirectory, settings: EdgeSettings, data: Path
) -> contribution.Summary:
    return contribution.contribute(spool, open_images(data), state.secret(), settings)


def recovered(state: StateDirectory) -> Spool:
    """The new spool after the present one was found damaged."""
    said: list[str] = []
    spool = quarantine.open_spool(state, say=said.append, verify=True)
    assert len(said) == 1
    assert "set aside in" in said[0]
    assert "\n" not in said[0]
    return spool


def bodies(spool: Spool) -> list[bytes]:
    return [row[0] for row in spool.rows("SELECT body FROM outbox ORDER BY sequence")]


def restored(spool: Spool) -> int:
    return int(spool.rows("SELECT count(*) FROM ledger WHERE restored")[0][0])


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_damaged_spool_is_set_aside_whole_and_what_was_released_is_still_known(
    state: StateDirectory, settings: MakeSettings, data: Path, damage: Callable[[Path], None]
) -> None:
    secret = state.secret()
    with Spool(state.spool) as spool:
        contribute(spool, state, settings(), data)
        with spool.transaction() as transaction:  # so that half of the file is more than its first page
            transaction.execute("CREATE TABLE ballast AS SELECT randomblob(100000)")
    damage(state.spool)
    damaged = state.spool.read_bytes()

    with recovered(state) as spool:
        (name,) = quarantine.names(state)
        assert (state.path / aside.NAME / name / state.spool.name).read_bytes() == damaged
        assert ledger.release_count(spool) == 10
        assert restored(spool) == 10
        assert bodies(spool) == []
        assert status.collect(state, spool, settings())["quarantine"] == [name]
    assert state.secret() == secret


def test_the_log_and_its_index_go_with_the_file(state: StateDirectory) -> None:
    other = Spool(state.spool)  # keeps the log from being taken into the file
    put(other, "m")
    log = log_of(state.spool).read_bytes()
    assert log

    folder = quarantine.set_aside(state)

    assert log_of(folder / state.spool.name).read_bytes() == log
    assert sorted(path.name for path in state.path.glob("spool*")) == []
    other.close()


def test_restored_releases_may_be_made_again_to_the_same_bytes_and_are_then_ordinary_ones(
    state: StateDirectory, settings: MakeSettings, data: Path
) -> None:
    with Spool(state.spool) as spool:
        contribute(spool, state, settings(), data)
        before = bodies(spool)
    overwritten(state.spool)

    with recovered(state) as spool:
        summary = contribute(spool, state, settings(), data)

        assert (summary.released, summary.released_before) == (10, 0)
        assert bodies(spool) == before
        assert restored(spool) == 0
        again = contribute(spool, state, settings(), data)
        assert (again.released, again.released_before) == (0, 10)


@pytest.mark.parametrize("change", [{"cut_ratio": 0.4}, {"clip_norm": 2.0}, {"schedule": "linear"}])
def test_restored_releases_that_would_come_out_otherwise_count_as_made(
    state: StateDirectory, settings: MakeSettings, data: Path, change: dict[str, Any]
) -> None:
    with Spool(state.spool) as spool:
        contribute(spool, state, settings(), data)
    overwritten(state.spool)

    with recovered(state) as spool:
        summary = contribute(spool, state, settings(**change), data)

        assert (summary.released, summary.released_before) == (0, 10)
        assert bodies(spool) == []


def test_a_spool_put_back_from_an_old_copy_learns_what_was_released_since(
    state: StateDirectory, settings: MakeSettings, data: Path
) -> None:
    with Spool(state.spool):
        pass
    copy = state.spool.read_bytes()
    with Spool(state.spool) as spool:
        contribute(spool, state, settings(), data)
    state.spool.write_bytes(copy)

    with Spool(state.spool, verify=True) as spool:
        assert contribute(spool, state, settings(cut_ratio=0.4), data).released == 0
        assert restored(spool) == 10


def test_a_lost_journal_is_written_anew_from_the_ledger(
    state: StateDirectory, settings: MakeSettings, data: Path
) -> None:
    with Spool(state.spool) as spool:
        contribute(spool, state, settings(), data)
        (state.path / JOURNAL_NAME).unlink()
        contribute(spool, state, settings(), data)
    overwritten(state.spool)

    with recovered(state) as spool:
        assert contribute(spool, state, settings(cut_ratio=0.4), data).released_before == 10


def test_while_an_agent_runs_a_command_says_so_and_leaves_the_file_to_it(state: StateDirectory) -> None:
    with Spool(state.spool):
        pass
    overwritten(state.spool)

    with agent_lock(state), pytest.raises(SpoolDamaged, match=r"running agent sets it aside") as caught:
        quarantine.open_spool(state, say=print)

    assert "\n" not in str(caught.value)
    assert quarantine.names(state) == []


def test_whoever_was_at_work_on_the_old_file_is_told_and_does_the_new_one_no_harm(
    state: StateDirectory,
) -> None:
    old = Spool(state.spool)
    quarantine.set_aside(state)
    with Spool(state.spool) as new:
        put(new, "new-1")
        with pytest.raises(SpoolReplaced, match="set aside meanwhile"):
            put(old, "old")
        with pytest.raises(SpoolReplaced):
            old.changed_elsewhere()
        put(new, "new-2")
        old.close()  # SQLite removes a log by its name when the last connection goes: not this one
        put(new, "new-3")
    with Spool(state.spool, verify=True) as again:
        names = [row[0] for row in again.rows("SELECT message_id FROM outbox ORDER BY sequence")]
    assert names == ["new-1", "new-2", "new-3"]


def test_a_quarantine_interrupted_after_the_file_is_completed(state: StateDirectory) -> None:
    other = Spool(state.spool)
    put(other, "m")
    state.spool.rename(state.path / "elsewhere")

    with pytest.raises(SpoolDamaged, match="its log is still there"):
        Spool(state.spool)
    with recovered(state) as spool:
        assert bodies(spool) == []
    other.close()


def test_only_a_few_damaged_spools_are_kept_and_always_the_last(state: StateDirectory) -> None:
    future = state.path / aside.NAME / "29991231T235959Z"  # made before the clock was set back
    future.mkdir(parents=True)
    for _ in range(aside.KEPT + 2):
        with Spool(state.spool):
            pass
        folder = quarantine.set_aside(state)
        assert [path.name for path in folder.iterdir()] == [state.spool.name]

    assert len(quarantine.names(state)) == aside.KEPT
