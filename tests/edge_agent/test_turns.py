"""What one turn of the agent's thread leaves to the others."""

import contextlib
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import structlog
from prometheus_client import CollectorRegistry

from broker.connection import Connection
from broker.contract.heads import ChunkV1
from broker.contract.telemetry import TelemetryV1
from broker.settings import BrokerSettings
from edge_agent import clock
from edge_agent.agent import Agent
from edge_agent.assembly import assemble
from edge_agent.errors import OutboxFull
from edge_agent.generation import jobs
from edge_agent.heads import store
from edge_agent.link import outbox
from edge_agent.settings import EdgeSettings
from edge_agent.storage.spool import Spool
from edge_agent.storage.state import StateDirectory
from monitoring.metrics import BrokerMetrics, EdgeMetrics
from tests.conftest import wait_until
from tests.edge_agent.agents import NOWHERE
from tests.edge_agent.letters import Letter

MakeSettings = Callable[..., EdgeSettings]


@pytest.fixture
def agent(state: StateDirectory, settings: MakeSettings) -> Callable[..., Any]:
    """An agent whose turns the test takes itself, without a broker."""

    @contextlib.contextmanager
    def make(**changes: Any) -> Iterator[tuple[Agent, Spool]]:
        connection = Connection(
            BrokerSettings.from_url(NOWHERE), name="test-turns", metrics=BrokerMetrics(CollectorRegistry())
        )
        made = settings(api=False, threads=1, **changes)
        with assemble(made, state, connection, EdgeMetrics(CollectorRegistry())) as parts:
            yield Agent(parts, threading.Event()), parts.spool

    return make


def accept(spool: Spool, **changes: Any) -> str:
    values: dict[str, Any] = {"count": 1, "label": None, "seed": 1, "ttl_seconds": None}
    return jobs.accept(spool, **(values | changes), moment=clock.now())


def report() -> TelemetryV1:
    return TelemetryV1(
        sequence=1,
        interval_seconds=60.0,
        uptime_seconds=1.0,
        agent_version="1.0",
        head=None,
        update=None,
        counters={},
        gauges={},
        step_seconds=None,
    )


def state_of(spool: Spool, job_id: str) -> str:
    job = jobs.find(spool, job_id)
    assert job is not None
    return job.state


def fill_outbox(spool: Spool, size_bytes: int) -> None:
    """Put a message of samples there that is counted with this size."""
    with spool.transaction() as transaction:
        transaction.execute(
            "INSERT INTO outbox (message_id, priority, kind, type, size_bytes, created_at, body)"
            " VALUES ('big', 2, 'samples', 'samples.v1', ?, 0, '')",
            (size_bytes,),
        )


def test_a_job_without_room_in_the_outbox_does_not_hold_up_those_that_need_none(
    agent: Callable[..., Any], head_bundle: Path
) -> None:
    with agent(head=head_bundle, outbox_max_bytes=2**20) as (agent_, spool):
        fill_outbox(spool, 2**20)
        waiting, hopeless, younger = (
            accept(spool, label=1),
            accept(spool, label=99_999),
            accept(spool, label=1),
        )

        agent_.turn(0)

        assert state_of(spool, hopeless) == "failed", "a label that the head does not know"
        assert [state_of(spool, job_id) for job_id in (waiting, younger)] == ["accepted", "accepted"]
        with spool.transaction() as transaction:
            transaction.execute("DELETE FROM outbox")
        agent_._jobs_may_have_changed = True
        agent_.turn(0)
        assert [state_of(spool, job_id) for job_id in (waiting, younger)] == ["requested", "requested"]


def test_a_request_has_room_where_samples_have_none_left(
    agent: Callable[..., Any], head_bundle: Path
) -> None:
    with agent(head=head_bundle, outbox_max_bytes=2**20) as (agent_, spool):
        fill_outbox(spool, outbox.bulk_bytes(2**20))
        with pytest.raises(OutboxFull), spool.transaction() as transaction:
            outbox.put_telemetry(transaction, report(), 2**20)
        job_id = accept(spool, label=1)

        agent_.turn(0)

        assert state_of(spool, job_id) == "requested"


def test_in_the_middle_of_a_large_job_the_others_are_served(
    agent: Callable[..., Any], whole_head: Path
) -> None:
    with agent(head=whole_head, telemetry_seconds=86_400) as (agent_, spool):
        agent_.turn(0)
        large = accept(spool, count=64, label=1)
        observe = agent_._observe_step
        others: list[str] = []
        seen: list[str] = []

        def on_step(images: int, seconds: float) -> None:
            observe(images, seconds)
            agent_._look_at = 0.0
            if not others:
                others.append(accept(spool, label=99_999))
                with spool.transaction() as transaction:  # which telemetry tells at once
                    store.put(
                        transaction,
                        "a" * 64,
                        name="ward",
                        version="1",
                        counter=1,
                        state="refused",
                        reason="expired",
                    )
            elif state_of(spool, others[0]) == "failed" and outbox.load(spool).messages:
                seen.append(state_of(spool, large))

        agent_._observe_step = on_step
        agent_._jobs_may_have_changed = True
        agent_.turn(0)

        assert state_of(spool, large) == "completed"
        assert set(seen) == {"finishing"}, "the other was answered and telemetry written before it was done"


def test_in_the_middle_of_a_large_job_what_waited_for_room_is_taken(
    agent: Callable[..., Any], whole_head: Path
) -> None:
    with agent(head=whole_head, telemetry_seconds=86_400) as (agent_, spool):
        agent_.turn(0)
        waiting = Letter(ChunkV1(bundle="a" * 64, index=0, content=b"of nothing"))
        large = accept(spool, count=64, label=1)
        observe = agent_._observe_step
        taken_while: list[str] = []

        def on_step(images: int, seconds: float) -> None:
            observe(images, seconds)
            agent_._look_at = 0.0
            if not agent_._letterbox._set_by and not waiting.ends:
                agent_._letterbox._set_by.append(waiting)
            elif waiting.ends:
                taken_while.append(state_of(spool, large))

        agent_._observe_step = on_step
        agent_._jobs_may_have_changed = True
        agent_.turn(0)

        assert state_of(spool, large) == "completed"
        assert set(taken_while) == {"finishing"}
        assert waiting.ends == ["ack"]


def test_an_agent_that_cannot_begin_leaves_no_open_files_behind() -> None:
    def begin() -> int:
        connection = Connection(
            BrokerSettings.from_url(NOWHERE), name="test-turns", metrics=BrokerMetrics(CollectorRegistry())
        )
        connection.stop()
        connection.stop()
        return len(list(Path("/proc/self/fd").iterdir()))

    first = begin()
    assert [begin() for _ in range(5)] == [first] * 5


def test_a_busy_spool_is_waited_for_and_not_called_a_full_disk(
    agent: Callable[..., Any], state: StateDirectory
) -> None:
    with agent() as (agent_, spool), structlog.testing.capture_logs() as logs:
        spool.rows("PRAGMA busy_timeout = 1")

        def stop_once_told() -> None:
            try:
                wait_until(lambda: any(entry["event"] == "spool_busy" for entry in logs), "it is told")
            finally:
                agent_._stopping.set()

        watcher = threading.Thread(target=stop_once_told)
        with Spool(state.spool) as other, other.transaction():
            watcher.start()
            agent_.run()
        watcher.join()

    told = {entry["event"] for entry in logs}
    assert "spool_busy" in told
    assert "spool_full" not in told
