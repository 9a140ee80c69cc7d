from collections.abc import Callable

import pytest

from edge_agent import clock
from edge_agent.errors import JobFailed
from edge_agent.generation import jobs, lifecycle
from edge_agent.heads import store
from edge_agent.heads.head_slot import HeadSlot
from edge_agent.settings import EdgeSettings
from edge_agent.storage.spool import Spool

MakeSettings = Callable[..., EdgeSettings]
HEAD = "a" * 64


def test_a_job_waits_for_the_first_head_while_it_is_checked_and_fails_when_there_will_be_none(
    spool: Spool, settings: MakeSettings
) -> None:
    jobs.accept(spool, count=1, label=None, seed=1, ttl_seconds=None, moment=clock.now())
    (job,) = jobs.unfinished(spool)
    with spool.transaction() as transaction:
        store.put(transaction, HEAD, name="ward", version="1", counter=1, state="staged")

    assert not lifecycle.start(spool, job, settings(), HeadSlot(None, "cpu", 1))

    (waiting,) = jobs.unfinished(spool)
    assert waiting.state == "accepted"
    with spool.transaction() as transaction:
        store.move(transaction, HEAD, "failed", reason="golden", detail="it answers otherwise")
    with pytest.raises(JobFailed, match="no usable head"):
        lifecycle.start(spool, job, settings(), HeadSlot(None, "cpu", 1))
