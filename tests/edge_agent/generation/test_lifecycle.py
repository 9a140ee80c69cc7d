from collections.abc import Callable

import pytest

from edge_agent import clock
from edge_agent.errors import JobFailed
from edge_agent.generation import jobs, lifecycle
from edge_agent.generation.jobs import Job
from edge_agent.generation.waiting import why_it_waits
from edge_agent.heads import store
from edge_agent.heads.head_slot import HeadSlot
from edge_agent.link import contract
from edge_agent.settings import EdgeSettings
from edge_agent.storage.spool import Spool
from tests.edge_agent.rounds import opened_round

MakeSettings = Callable[..., EdgeSettings]
HEAD = "a" * 64


def accepted(spool: Spool) -> Job:
    jobs.accept(spool, count=1, label=None, seed=1, ttl_seconds=None, moment=clock.now())
    (job,) = jobs.unfinished(spool)
    return job


def put_head(spool: Spool, state: store.State) -> None:
    with spool.transaction() as transaction:
        store.put(transaction, HEAD, name="ward", version="1", counter=1, state=state)


@pytest.mark.parametrize("coming", ["receiving", "staged"])
def test_a_job_waits_for_the_first_head_on_its_way_and_in_its_check_and_fails_when_there_will_be_none(
    spool: Spool, settings: MakeSettings, coming: store.State
) -> None:
    job = accepted(spool)
    put_head(spool, coming)

    assert not lifecycle.start(spool, job, settings(), HeadSlot(None, "cpu", 1))

    (waiting,) = jobs.unfinished(spool)
    assert waiting.state == "accepted"
    with spool.transaction() as transaction:
        store.move(transaction, HEAD, "failed", reason="golden", detail="it answers otherwise")
    with pytest.raises(JobFailed, match="no usable head"):
        lifecycle.start(spool, job, settings(), HeadSlot(None, "cpu", 1))


def test_where_the_server_does_all_no_job_waits_for_a_head_on_its_way(
    spool: Spool, settings: MakeSettings
) -> None:
    with spool.transaction() as transaction:
        contract.store(transaction, opened_round(cut_min=0.0))
    put_head(spool, "receiving")

    assert lifecycle.start(spool, accepted(spool), settings(cut_ratio=0.0), HeadSlot(None, "cpu", 1))


@pytest.mark.parametrize(
    ("coming", "words"),
    [
        ("receiving", "the job waits for the first head, which is on its way"),
        ("staged", "the job waits for the first head's check"),
    ],
)
def test_whoever_waits_for_the_first_head_is_told_so(spool: Spool, coming: store.State, words: str) -> None:
    job = accepted(spool)
    put_head(spool, coming)

    for connected in (True, False):
        assert why_it_waits(spool, job, connected=connected, has_head=False) == words
    assert why_it_waits(spool, job, connected=True, has_head=True) is None
