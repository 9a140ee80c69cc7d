import math
from typing import Any

import pytest
from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st

from edge_agent import clock
from edge_agent.clock import Moment, elapsed_seconds
from edge_agent.errors import JobFailed, JobRefused, SpoolError
from edge_agent.generation import jobs
from edge_agent.generation.waiting import wait_for
from edge_agent.storage.spool import Spool
from edge_agent.storage.state import StateDirectory

START = Moment("boot-a", 1000.0)


def accept(spool: Spool, **changes: Any) -> str:
    arguments: dict[str, Any] = {"count": 4, "label": None, "seed": 1, "ttl_seconds": 60.0, "moment": START}
    return jobs.accept(spool, **(arguments | changes))


def state_of(spool: Spool, job_id: str) -> str:
    job = jobs.find(spool, job_id)
    assert job is not None
    return job.state


def test_the_machines_clock_goes_on_while_this_runs() -> None:
    first = clock.now()
    second = clock.now()
    assert first.boot == second.boot
    assert second.seconds >= first.seconds


def test_a_job_expires_when_its_time_is_over_and_not_before(spool: Spool) -> None:
    job_id = accept(spool)

    assert jobs.expire(spool, Moment("boot-a", 1059.9)) == 0
    assert jobs.expire(spool, Moment("boot-a", 1060.0)) == 1

    job = jobs.find(spool, job_id)
    assert job is not None
    assert (job.state, job.reason) == ("expired", "expired")
    assert "60 s" in (job.detail or "")


def test_a_job_without_a_time_to_live_never_expires(spool: Spool) -> None:
    accept(spool, ttl_seconds=None)
    assert jobs.expire(spool, Moment("boot-a", 1e9)) == 0


def test_a_reboot_keeps_what_was_counted_and_adds_the_new_uptime(spool: Spool) -> None:
    job_id = accept(spool)
    jobs.carry_ages(spool, Moment("boot-a", 1040.0))

    assert jobs.expire(spool, Moment("boot-b", 19.0)) == 0
    jobs.carry_ages(spool, Moment("boot-b", 19.0))
    assert jobs.expire(spool, Moment("boot-b", 19.5)) == 0
    assert jobs.expire(spool, Moment("boot-b", 20.0)) == 1
    assert state_of(spool, job_id) == "expired"


moments = st.floats(0, 1e6)


@hypothesis_settings(deadline=None)
@given(st.lists(st.tuples(st.booleans(), moments), max_size=20))
def test_an_age_never_falls_and_never_exceeds_the_time_that_passed(steps: list[tuple[bool, float]]) -> None:
    """Any sequence of waiting and rebooting: (reboot?, seconds that pass then)."""
    anchor, carried, passed = Moment("0", 0.0), 0.0, 0.0
    for number, (reboot, seconds) in enumerate(steps):
        moment = Moment(str(number + 1), seconds) if reboot else Moment(anchor.boot, anchor.seconds + seconds)
        passed += seconds
        age = elapsed_seconds(carried, anchor, moment)
        assert carried <= age <= passed * (1 + 1e-9) + 1e-6
        anchor, carried = moment, age
    assert math.isfinite(carried)


def test_a_job_ends_exactly_once(spool: Spool) -> None:
    job_id = accept(spool)
    with spool.transaction() as transaction:
        assert jobs.end(transaction, job_id, "completed")
    with spool.transaction() as transaction:
        assert not jobs.end(transaction, job_id, "failed", reason="late", detail="too late")
    assert jobs.expire(spool, Moment("boot-a", 1e9)) == 0
    assert state_of(spool, job_id) == "completed"

    with spool.transaction() as transaction:
        assert not jobs.move(transaction, job_id, "requested")
    with pytest.raises(SpoolError, match="a job ends exactly once"), spool.transaction() as transaction:
        transaction.execute("UPDATE jobs SET state = 'requested' WHERE job_id = ?", (job_id,))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"count": 0}, "0 images cannot be asked for"),
        ({"count": 1025}, "choose 1 to 1024"),
        ({"label": -1}, "labels count from 0"),
        ({"seed": -1}, "the seed -1 is not in"),
        ({"seed": 2**63}, "is not in"),
        ({"ttl_seconds": 0.0}, "no time to live"),
        ({"ttl_seconds": math.nan}, "no time to live"),
    ],
)
def test_a_senseless_request_is_refused(spool: Spool, changes: dict[str, Any], message: str) -> None:
    with pytest.raises(JobRefused, match=message):
        accept(spool, **changes)
    assert jobs.counts(spool) == {}


def test_a_job_that_nobody_works_on_still_expires_for_the_one_who_waits(
    spool: Spool, state: StateDirectory
) -> None:
    job_id = accept(spool, ttl_seconds=0.2, moment=clock.now())
    seen: list[tuple[str, bool]] = []

    with pytest.raises(JobFailed, match="expired") as caught:
        wait_for(spool, state, job_id, lambda job, running: seen.append((job.state, running)))

    assert caught.value.reason == "expired"
    assert seen[0] == ("accepted", False)


def test_waiting_for_an_unknown_job_is_refused(spool: Spool, state: StateDirectory) -> None:
    with pytest.raises(JobRefused, match="there is no job nothing"):
        wait_for(spool, state, "nothing")
