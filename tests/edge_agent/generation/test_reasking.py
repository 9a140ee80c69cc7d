from collections.abc import Callable

import numpy as np
import pytest

from broker import codec
from broker.contract.denoise import DenoiseV1, LatentsV1
from edge_agent.clock import Moment
from edge_agent.generation import jobs, latents, lifecycle
from edge_agent.generation.reasking import MAX_REPEATS, Reasker
from edge_agent.heads.head_slot import HeadSlot
from edge_agent.link import contract, outbox
from edge_agent.settings import EdgeSettings
from edge_agent.storage.spool import Spool
from tests.edge_agent.rounds import SCHEDULE, opened_round


class World:
    """A device with one job of four pictures, whose time and link the test holds."""

    def __init__(self, spool: Spool, settings: EdgeSettings) -> None:
        self.spool = spool
        self.settings = settings
        self.seconds = 1000.0
        self.connected = True
        with spool.transaction() as transaction:
            contract.store(transaction, opened_round(shape=(1, 4, 4), cut_min=0.0, cut_max=1.0))
        self.job_id = jobs.accept(spool, count=4, label=None, seed=1, ttl_seconds=None, moment=self.moment())
        (job,) = jobs.unfinished(spool)
        lifecycle.start(spool, job, settings, HeadSlot(None, "cpu", 1))
        self.reasker = self.begin()

    def moment(self) -> Moment:
        return Moment("boot", self.seconds)

    def begin(self) -> Reasker:
        """An agent that has just started."""
        return Reasker(self.spool, self.settings, lambda: self.connected, moment=self.moment)

    def pass_seconds(self, seconds: float) -> None:
        """As an agent lives through it: with a look every two seconds."""
        for _ in range(int(seconds // 2)):
            self.seconds += 2
            self.reasker.turn()

    def confirm(self) -> list[bytes]:
        """The broker takes all that waits."""
        entries = outbox.next_entries(self.spool, besides=(), limit=100, limit_bytes=2**30)
        outbox.confirmed(self.spool, [entry.sequence for entry in entries])
        return [entry.body for entry in entries]

    def waiting(self) -> int:
        return outbox.load(self.spool).messages

    def state(self) -> jobs.Job:
        job = jobs.find(self.spool, self.job_id)
        assert job is not None
        return job


@pytest.fixture
def world(spool: Spool, settings: Callable[..., EdgeSettings]) -> World:
    world = World(spool, settings(cut_ratio=0.0, reask_seconds=100))
    world.reasker.turn()
    return world


def test_the_very_same_message_is_sent_again_when_no_answer_has_come(world: World) -> None:
    first = world.confirm()
    world.pass_seconds(90)
    assert world.waiting() == 0

    world.pass_seconds(40)

    assert world.waiting() == 1
    assert world.confirm() == first


def test_a_request_that_still_waits_in_the_outbox_is_not_counted(world: World) -> None:
    world.pass_seconds(1000)
    assert world.waiting() == 1
    world.confirm()

    world.pass_seconds(90)

    assert world.waiting() == 0


def test_time_without_a_link_does_not_count(world: World) -> None:
    world.confirm()
    world.connected = False
    world.pass_seconds(1000)
    world.connected = True
    world.pass_seconds(90)
    assert world.waiting() == 0

    world.pass_seconds(40)

    assert world.waiting() == 1


def test_the_count_goes_on_after_a_restart_and_a_reboot(world: World) -> None:
    world.confirm()
    world.pass_seconds(80)
    world.seconds = 3.0
    world.reasker = world.begin()

    world.pass_seconds(60)

    assert world.waiting() == 1


def test_each_wait_is_twice_the_last_and_at_the_end_the_job_fails(world: World) -> None:
    world.confirm()
    for repeat in range(MAX_REPEATS):
        world.pass_seconds(100 * 2**repeat - 30)
        assert world.waiting() == 0
        world.pass_seconds(90)
        assert world.waiting() == 1, f"repeat {repeat}"
        world.confirm()
    world.pass_seconds(100 * 2**MAX_REPEATS + 60)

    assert world.waiting() == 0
    assert (world.state().state, world.state().reason) == ("failed", "no_answer")
    assert "asked 11 times" in str(world.state().detail)


def answer(world: World, first: int, samples: int) -> None:
    row = world.spool.rows("SELECT request_id FROM requests")[0]
    message = LatentsV1(
        request_id=row[0],
        part=0,
        parts=2,
        first=first,
        x=np.zeros((samples, 1, 4, 4), np.float16),
        t_stop=0,
        schedule_id=SCHEDULE.schedule_id,
        backbone_version=1,
        evaluations=1,
        step_seconds=0.0,
        queued_seconds=0.0,
    )
    with world.spool.transaction() as transaction:
        question = latents.asked(transaction, row[0])
        assert question is not None
        latents.store(transaction, message, question)
        jobs.move(transaction, world.job_id, "partial")


def test_half_an_answer_is_asked_again_and_a_whole_one_not(world: World) -> None:
    world.confirm()
    answer(world, 0, 2)
    world.pass_seconds(130)
    assert world.waiting() == 1
    world.confirm()
    answer(world, 2, 2)

    world.pass_seconds(400)

    assert world.waiting() == 0


def test_a_full_outbox_puts_the_question_off(world: World, settings: Callable[..., EdgeSettings]) -> None:
    (body,) = world.confirm()
    assert isinstance(codec.decode("denoise.v1", body), DenoiseV1)
    with world.spool.transaction() as transaction:
        outbox._put(
            transaction, message_id="m", kind="samples", type_name="t", body=b"x" * 2**20, max_bytes=2**20
        )
    world.settings = settings(cut_ratio=0.0, reask_seconds=100, outbox_max_bytes=2**20)
    world.reasker = world.begin()
    world.pass_seconds(200)
    assert world.waiting() == 1
    assert world.spool.rows("SELECT repeats FROM requests")[0][0] == 0

    outbox.confirmed(world.spool, [row[0] for row in world.spool.rows("SELECT sequence FROM outbox")])
    world.pass_seconds(40)

    assert world.confirm() == [body]
