"""A device's life in one process that is killed before its k-th SQL statement, for every k, and then goes on.

SQLite tells of each statement before it runs it; the kill is a real one, of a process forked from this one, which is warm.
"""

import itertools
import multiprocessing
import os
import shutil
import signal
import sqlite3
from collections.abc import Callable
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from prometheus_client import CollectorRegistry

from broker.contract.denoise import DenoiseV1, LatentsV1
from broker.contract.rounds import RoundV1
from diffusion import privacy
from diffusion.schedule import NoiseSchedule
from edge_agent import clock, inbox
from edge_agent.generation import finishing, jobs, lifecycle
from edge_agent.generation.recipe import Recipe
from edge_agent.heads.head_slot import HeadSlot
from edge_agent.link import contract, outbox
from edge_agent.release import contribution
from edge_agent.release.images import Image
from edge_agent.settings import EdgeSettings
from edge_agent.storage.housekeeping import Housekeeper, Keeping
from edge_agent.storage.migrations import MIGRATIONS
from edge_agent.storage.spool import Spool
from edge_agent.storage.state import StateDirectory, open_state
from monitoring.metrics import EdgeMetrics
from tests.conftest import WAIT_SECONDS
from tests.edge_agent.letters import Letter
from tests.edge_agent.server import denoise

SCHEDULE = NoiseSchedule.cosine(20)
SEED = 7
DAY = 86_400.0
PICTURES = np.random.default_rng(3).uniform(-1, 1, (3, 1, 4, 4)).astype(np.float32)
IMAGES = [Image(f"{number}.png", picture, None) for number, picture in enumerate(PICTURES)]


def settings_of(state: StateDirectory) -> EdgeSettings:
    """Small plans, and a cut of 0 for pictures, so that no head is needed; contributions have a cut of their own."""
    return EdgeSettings(state=state.path, schedule_steps=20, cut_ratio=0.0, server_steps=3)


def answers(spool: Spool) -> list[Letter]:
    """What the server says to every request in the outbox or already sent: two parts."""
    found = []
    for row in spool.rows("SELECT request_id, samples FROM requests ORDER BY request_id"):
        job = spool.rows("SELECT recipe FROM jobs JOIN requests USING (job_id)")[0]
        recipe = Recipe.from_json(job[0])
        request = DenoiseV1(
            request_id=row["request_id"],
            shape=recipe.shape,
            n=row["samples"],
            schedule_id=recipe.schedule_id,
            plan=recipe.server_plan,
            sampler="ddim",
            eta=0.0,
            clip=1.0,
            seed=SEED,
            labels=None,
            dtype="float32",
            ttl_seconds=None,
            priority="interactive",
        )
        x = denoise(SCHEDULE, request)
        for part in range(2):
            message = LatentsV1(
                request_id=request.request_id,
                part=part,
                parts=2,
                first=part,
                x=x[part : part + 1],
                t_stop=0,
                schedule_id=SCHEDULE.schedule_id,
                backbone_version=1,
                evaluations=2,
                step_seconds=0.0,
                queued_seconds=0.0,
            )
            found.append(Letter(message, f"{request.request_id}-{part}"))
    return found


def contribute(spool: Spool, state: StateDirectory) -> None:
    settings = settings_of(state).model_copy(update={"cut_ratio": 0.5, "release_dtype": "float32"})
    contribution.contribute(spool, IMAGES, state.secret(), settings)


def live(state: StateDirectory) -> None:
    """Everything a device does, each step only if it is still to be done, as after a restart.

    What the broker takes is written to the file `sent`, before the device is told: that is what a confirm means.
    """
    slot = HeadSlot(None, "cpu", 1)
    with Spool(state.spool, verify=True) as spool:
        contribute(spool, state)
        if not jobs.counts(spool) and not (state.path / "asked").exists():
            jobs.accept(spool, count=2, label=None, seed=SEED, ttl_seconds=None, moment=clock.now())
        (state.path / "asked").touch()
        with spool.transaction() as transaction:
            _announce(transaction)
        for job in jobs.unfinished(spool, "accepted"):
            lifecycle.start(spool, job, settings_of(state), slot)
        jobs.carry_ages(spool, clock.now())
        letters = answers(spool)
        for entry in outbox.next_entries(spool, besides=(), limit=10, limit_bytes=2**20):
            with (state.path / "sent").open("a") as file:
                file.write(f"{entry.message_id}\n")
            outbox.confirmed(spool, [entry.sequence])
        for letter in letters:  # acknowledged to nobody: if it was not kept, it is delivered again
            inbox.take(spool, letter)
            assert letter.ends == ["ack"]
        jobs.expire(spool, clock.now())
        for job in jobs.unfinished(spool, "finishing"):
            finishing.finish(spool, job, state, slot, stopping=lambda: False)
        keep_house(spool, state)


def _announce(transaction: sqlite3.Connection) -> None:
    """The server's contract, from which the shape of a picture is known."""
    round_ = RoundV1(
        number=1,
        schedule_id=SCHEDULE.schedule_id,
        schedule_name="cosine",
        schedule_T=20,
        shape=(1, 4, 4),
        cut_min=0.0,
        cut_max=1.0,
        releases_wanted=1,
        labels_wanted=None,
        num_classes=None,
        backbone_version=1,
        closes_in_seconds=None,
    )
    contract.store(transaction, round_)


def keep_house(spool: Spool, state: StateDirectory) -> None:
    """Notice what has ended, and 40 days later forget it."""
    now = [1.0]
    housekeeper = Housekeeper(
        spool,
        state,
        Keeping(30, 2**30),
        EdgeMetrics(CollectorRegistry()),
        wall_seconds=lambda: 2e9 + now[0],
        running_seconds=lambda: now[0],
    )
    housekeeper.turn()
    now[0] += 40 * DAY
    housekeeper.turn()


def killed_before_statement(number: int, state: StateDirectory) -> None:
    """Live, in a process of its own, until statement `number` is about to run; with 0 to the end, and count them."""
    count = itertools.count(1)
    plain: Callable[..., sqlite3.Connection] = sqlite3.connect

    def traced(*arguments: Any, **keywords: Any) -> sqlite3.Connection:
        connection = plain(*arguments, **keywords)
        connection.set_trace_callback(lambda _: tick())
        return connection

    def tick() -> None:
        if next(count) == number:
            os.kill(os.getpid(), signal.SIGKILL)

    sqlite3.connect = traced  # type: ignore[assignment]
    try:
        live(state)
        if number == 0:
            (state.path / "statements").write_text(str(next(count) - 1))
    except BaseException as error:  # noqa: BLE001 - the parent shows it
        (state.path / "error").write_text(repr(error))
        os._exit(4)
    os._exit(0)


def run(number: int, state: StateDirectory) -> BaseProcess:
    process = multiprocessing.get_context("fork").Process(
        target=killed_before_statement, args=(number, state)
    )
    process.start()
    process.join(WAIT_SECONDS)
    error = state.path / "error"
    assert process.exitcode in (0, -signal.SIGKILL), error.read_text() if error.exists() else process.exitcode
    return process


def check_promises(state: StateDirectory) -> None:
    """What holds at any moment: an accepted batch is in one place, the ledger agrees with it, and a job is whole."""
    sent = set((state.path / "sent").read_text().split()) if (state.path / "sent").exists() else set()
    with Spool(state.spool, verify=True) as spool:
        assert spool.rows("PRAGMA integrity_check")[0][0] == "ok"
        assert spool.rows("PRAGMA foreign_key_check") == []
        ledger = {row[0] for row in spool.rows("SELECT batch_id FROM ledger WHERE NOT restored")}
        waiting = {row[0] for row in spool.rows("SELECT message_id FROM outbox WHERE kind = 'samples'")}
        assert waiting <= ledger, "nothing waits to be sent that the ledger does not count"
        assert ledger <= waiting | sent, "nothing is counted that neither waits nor was sent"
        for job in jobs.unfinished(spool, "requested", "partial"):
            requests = spool.rows("SELECT request_id FROM requests WHERE job_id = ?", (job.job_id,))
            asked = {row[0] for row in spool.rows("SELECT message_id FROM outbox WHERE kind = 'denoise'")}
            assert {row[0] for row in requests} <= asked | sent
            assert requests
        assert len(list(state.results("").glob("[!.]*"))) <= 1


def check_end(state: StateDirectory) -> None:
    """What holds when the device has lived to the end: all released once, and one job completed, once, and forgotten."""
    with Spool(state.spool, verify=True) as spool:
        rows = spool.rows("SELECT image, release, restored FROM ledger")
        assert {row["image"] for row in rows} == {privacy.image_digest(picture) for picture in PICTURES}
        assert [(row["release"], row["restored"]) for row in rows] == [(0, 0)] * 3
        assert outbox.load(spool).messages == 0
        assert jobs.counts(spool) == {}
        assert spool.rows("SELECT value FROM counters WHERE name = 'forgotten_completed'")[0][0] == 1
        assert [path.name for path in state.results("").iterdir()] == []


@pytest.fixture
def statements(tmp_path: Path) -> int:
    """How many statements an undisturbed life takes; from an empty directory, so with all migrations."""
    state = open_state(tmp_path / "undisturbed")
    run(0, state)
    check_end(state)
    return int((state.path / "statements").read_text())


def test_killed_before_every_statement_nothing_is_lost_and_nothing_happens_twice(
    tmp_path: Path, statements: int
) -> None:
    killed = 0
    assert statements > 100 + sum(len(step.statements) for step in MIGRATIONS)
    for number in range(1, statements + 1):
        state = open_state(tmp_path / f"{number}")
        killed += run(number, state).exitcode == -signal.SIGKILL
        check_promises(state)
        run(-1, state)
        check_promises(state)
        check_end(state)
        shutil.rmtree(state.path)
    assert killed >= statements - 2, "the clock may save a statement here and there"
