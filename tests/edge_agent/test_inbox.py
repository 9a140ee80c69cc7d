import uuid
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from broker import codec
from broker.contract.denoise import DenoiseV1, FailedV1, LatentsV1
from broker.contract.message import Message
from broker.contract.receipts import ReceiptV1
from broker.contract.samples import SamplesV1
from edge_agent import clock, inbox
from edge_agent.errors import SpoolFull
from edge_agent.generation import jobs, latents, lifecycle
from edge_agent.heads.head_slot import HeadSlot
from edge_agent.link import contract
from edge_agent.settings import EdgeSettings
from edge_agent.storage import counters
from edge_agent.storage.spool import Spool
from tests.edge_agent.letters import Letter
from tests.edge_agent.rounds import SCHEDULE, opened_round

Asked = tuple[str, DenoiseV1]


@pytest.fixture
def ask(spool: Spool, settings: Callable[..., EdgeSettings], head_bundle: Path) -> Callable[[int], Asked]:
    """Accept and start a job of so many images: its id and its request."""
    slot = HeadSlot(head_bundle, "cpu", 1)
    slot.refresh()

    def make(count: int) -> Asked:
        job_id = jobs.accept(spool, count=count, label=1, seed=4, ttl_seconds=60, moment=clock.now())
        job = jobs.find(spool, job_id)
        assert job is not None
        assert lifecycle.start(spool, job, settings(head=head_bundle), slot)
        request = codec.decode("denoise.v1", spool.rows("SELECT body FROM outbox")[0][0])
        assert isinstance(request, DenoiseV1)
        return job_id, request

    return make


@pytest.fixture
def asked(ask: Callable[[int], Asked]) -> Asked:
    """A job of six images that waits for the server."""
    return ask(6)


def part_of(request: DenoiseV1, start: int, count: int, **changes: Any) -> LatentsV1:
    values = np.arange(start, start + count, dtype=np.float16).reshape(count, 1, 1, 1)
    fields: dict[str, Any] = {
        "request_id": request.request_id,
        "part": 0,
        "parts": 2,
        "first": start,
        "x": np.broadcast_to(values, (count, 1, 8, 8)),
        "t_stop": request.t_stop,
        "schedule_id": request.schedule_id,
        "backbone_version": 1,
        "evaluations": 16,
        "step_seconds": 0.01,
        "queued_seconds": 0.0,
    }
    return LatentsV1(**(fields | changes))


def deliver(spool: Spool, message: Message, message_id: str | None = None) -> tuple[str, Letter]:
    letter = Letter(message, uuid.uuid4().hex if message_id is None else message_id)
    return inbox.take(spool, letter), letter


def state_of(spool: Spool, job_id: str) -> tuple[str, str | None]:
    job = jobs.find(spool, job_id)
    assert job is not None
    return job.state, job.reason


def test_a_job_is_whole_when_its_last_part_has_come_in_any_order(spool: Spool, asked: Asked) -> None:
    job_id, request = asked

    assert deliver(spool, part_of(request, 4, 2, part=1))[0] == "kept"
    assert state_of(spool, job_id) == ("partial", None)
    outcome, letter = deliver(spool, part_of(request, 0, 4))

    assert (outcome, letter.ends) == ("kept", ["ack"])
    assert state_of(spool, job_id) == ("finishing", None)
    x = latents.gather(spool, job_id, 6, (1, 8, 8))
    assert x[:, 0, 0, 0].tolist() == [0, 1, 2, 3, 4, 5]


def test_answers_of_two_workers_that_were_cut_differently_fit_together(spool: Spool, asked: Asked) -> None:
    job_id, request = asked
    deliver(spool, part_of(request, 0, 4))
    deliver(spool, part_of(request, 0, 2))
    deliver(spool, part_of(request, 2, 3))
    assert state_of(spool, job_id)[0] == "partial"

    deliver(spool, part_of(request, 5, 1))

    assert state_of(spool, job_id)[0] == "finishing"
    assert latents.gather(spool, job_id, 6, (1, 8, 8))[:, 0, 0, 0].tolist() == [0, 1, 2, 3, 4, 5]


def test_a_longer_part_takes_the_place_of_a_shorter_one_that_begins_alike(spool: Spool, asked: Asked) -> None:
    job_id, request = asked
    deliver(spool, part_of(request, 0, 2))
    deliver(spool, part_of(request, 0, 6))
    assert state_of(spool, job_id)[0] == "finishing"
    assert latents.gather(spool, job_id, 6, (1, 8, 8))[:, 0, 0, 0].tolist() == [0, 1, 2, 3, 4, 5]


@pytest.mark.parametrize("message_id", ["same", ""])
def test_a_repeat_is_acknowledged_and_changes_nothing(spool: Spool, asked: Asked, message_id: str) -> None:
    _, request = asked
    deliver(spool, part_of(request, 0, 4), message_id)

    outcome, letter = deliver(spool, part_of(request, 0, 4), message_id)

    assert (outcome, letter.ends) == ("duplicate", ["ack"])
    assert counters.value(spool, "duplicate") == 1
    assert spool.rows("SELECT count(*) FROM latents")[0][0] == 1


def test_a_result_for_a_job_that_has_ended_is_dropped_and_counted(spool: Spool, asked: Asked) -> None:
    job_id, request = asked
    with spool.transaction() as transaction:
        jobs.end(transaction, job_id, "expired", reason="expired", detail="too late")

    outcome, letter = deliver(spool, part_of(request, 0, 6))

    assert (outcome, letter.ends) == ("late", ["ack"])
    assert counters.value(spool, "late") == 1
    assert state_of(spool, job_id) == ("expired", "expired")
    assert spool.rows("SELECT count(*) FROM latents")[0][0] == 0
    assert spool.rows("SELECT count(*) FROM outbox")[0][0] == 0


def test_a_failure_ends_the_job_with_the_servers_reason(spool: Spool, asked: Asked) -> None:
    job_id, request = asked
    failure = FailedV1(request_id=request.request_id, reason="no_version", detail="nothing published")

    assert deliver(spool, failure)[0] == "job_failed"
    assert state_of(spool, job_id) == ("failed", "no_version")
    assert deliver(spool, failure)[0] == "late"


@pytest.mark.parametrize(
    "changes",
    [
        {"schedule_id": "0" * 16},
        {"t_stop": 61},
        {"x": np.zeros((2, 3, 8, 8), np.float16)},
        {"first": 5},
    ],
)
def test_an_answer_to_another_question_fails_the_job(
    spool: Spool, asked: Asked, changes: dict[str, Any]
) -> None:
    job_id, request = asked

    outcome, letter = deliver(spool, part_of(request, 0, 2, **changes))

    assert (outcome, letter.ends) == ("job_failed", ["ack"])
    assert state_of(spool, job_id) == ("failed", "wrong_result")


def test_nothing_is_acknowledged_that_could_not_be_written(spool: Spool, ask: Callable[[int], Asked]) -> None:
    job_id, request = ask(250)
    letter = Letter(part_of(request, 0, 250), "big")
    spool.rows(f"PRAGMA max_page_count = {spool.rows('PRAGMA page_count')[0][0]}")

    with pytest.raises(SpoolFull):
        inbox.take(spool, letter)

    assert letter.ends == []
    spool.rows("PRAGMA max_page_count = 1000000")
    assert inbox.take(spool, letter) == "kept"
    assert letter.ends == ["ack"]
    assert state_of(spool, job_id)[0] == "finishing"


def test_rubbish_is_refused_with_its_reason_and_the_inbox_moves_on(spool: Spool) -> None:
    letter = Letter(ReceiptV1(batch_id="a" * 64, samples=1, duplicate=False), "bad", body=b"\xc1 rubbish")

    assert inbox.take(spool, letter) == "refused"
    assert letter.ends == ["refused not_msgpack"]
    assert deliver(spool, ReceiptV1(batch_id="a" * 64, samples=1, duplicate=False))[0] == "kept"


def test_a_message_that_is_not_for_devices_is_refused(spool: Spool) -> None:
    samples = SamplesV1.pack(
        np.zeros((1, 1, 8, 8), np.float32), schedule_id=SCHEDULE.schedule_id, t_cut=60, release=0
    )
    assert deliver(spool, samples)[1].ends == ["refused not_for_devices"]


def test_an_older_round_that_comes_late_does_not_replace_the_newer(spool: Spool) -> None:
    assert deliver(spool, opened_round(number=5, cut_max=0.5))[0] == "kept"
    assert deliver(spool, opened_round(number=4, cut_max=0.9))[0] == "late"
    assert contract.latest(spool) == opened_round(number=5, cut_max=0.5)
    assert deliver(spool, opened_round(number=6, cut_max=0.6))[0] == "kept"
    assert contract.latest(spool) == opened_round(number=6, cut_max=0.6)


def test_receipts_are_kept_by_batch(spool: Spool) -> None:
    for duplicate in (False, True):
        deliver(spool, ReceiptV1(batch_id="a" * 64, samples=7, duplicate=duplicate))

    row = spool.rows("SELECT batch_id, samples, duplicates FROM receipts")
    assert [tuple(found) for found in row] == [("a" * 64, 7, 1)]
