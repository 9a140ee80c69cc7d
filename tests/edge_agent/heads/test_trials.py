"""Heads that pass their check and fail at real work, in a real agent: given up by itself, and the job is done all the same."""

import json
import os
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from broker.settings import BrokerSettings
from edge_agent.heads import watchdog
from edge_agent.heads.watchdog import EXIT_CODE
from edge_agent.storage.spool import Spool
from edge_agent.storage.state import StateDirectory
from export.bundle.bundle import Bundle
from tests.conftest import wait_until
from tests.edge_agent.agents import COMMAND, Process, edge_json
from tests.edge_agent.conftest import Device
from tests.edge_agent.heads.bundles import Trouble, with_trouble
from tests.edge_agent.heads.deliveries import send, states, status
from tests.edge_agent.server import Server

Publish = Callable[..., Path]
RunAgent = Callable[..., Process]
OnTrial = Callable[..., tuple[Process, str, str]]

IMPATIENT = """
    from edge_agent.heads import watchdog

    watchdog.LIMIT_SECONDS = 8.0
    from collafuse.cli import main
    main()
"""
TERMS = ("--trial-images", 2, "--trial", 1e6)


def generate(state: StateDirectory, count: int, *flags: object) -> dict[str, Any]:
    return edge_json("generate", "--state", state.path, "--count", count, *flags)


def reason(state: StateDirectory, bundle: str) -> str | None:
    with Spool(state.spool) as spool:
        row = spool.row("SELECT reason FROM heads WHERE bundle = ?", (bundle,))
    return None if row is None else row[0]


def job_state(state: StateDirectory, job_id: str) -> str:
    with Spool(state.spool) as spool:
        return str(spool.rows("SELECT state FROM jobs WHERE job_id = ?", (job_id,))[0][0])


def facts_of(state: StateDirectory, job_id: str) -> dict[str, Any]:
    facts: dict[str, Any] = json.loads((state.results(job_id) / "job.json").read_text())
    return facts


@pytest.fixture
def on_trial(
    device: Device,
    owner: BrokerSettings,
    state: StateDirectory,
    plain: Bundle,
    publish: Publish,
    run_agent: RunAgent,
) -> OnTrial:
    """An agent with a head that is live, and another on trial that makes nothing good of five images: (agent, live, trial)."""

    def bring(path: Path) -> str:
        bundle = send(owner, device.user, path)
        wait_until(lambda: states(state).get(bundle) == "trial", "the head is on trial")
        return bundle

    def begin(trouble: Trouble, code: str = COMMAND) -> tuple[Process, str, str]:
        agent = run_agent(device.url, *TERMS, code=code)
        good = bring(publish(1, plain))
        generate(state, 2)
        wait_until(lambda: states(state)[good] == "live", "two images are enough")
        bad = bring(publish(2, with_trouble(plain, trouble)))
        wait_until(lambda: status(state)["head"]["identity"].startswith("ward-v2-"), "the new head is in use")
        return agent, good, bad

    return begin


@pytest.mark.parametrize("trouble", ["nan", "error"])
def test_a_head_that_fails_at_work_is_given_up_and_the_job_is_finished_by_the_one_before(
    server: Server, state: StateDirectory, on_trial: OnTrial, trouble: Trouble
) -> None:
    agent, good, bad = on_trial(trouble)

    made = generate(state, 5, "--seed", 8)

    assert states(state) == {good: "live", bad: "rolled_back"}
    assert reason(state, bad) == "failed_at_work"
    facts = facts_of(state, made["job_id"])
    assert facts["head"].startswith("ward-v1-")
    images = np.load(state.results(made["job_id"]) / "images.npy")
    assert np.isfinite(images).all()
    assert len(server.requests) == 2, "the server was asked once for each job"
    assert agent.exit_code is None
    assert status(state)["update"]["reason"] == "failed_at_work"


def test_a_head_that_hangs_at_work_ends_two_agents_and_the_third_finishes_the_job_with_the_one_before(
    device: Device, server: Server, state: StateDirectory, run_agent: RunAgent, on_trial: OnTrial
) -> None:
    assert watchdog.LIMIT_SECONDS >= 60
    agent, _, bad = on_trial("hang", IMPATIENT)

    job_id = generate(state, 5, "--no-wait")["job_id"]

    assert agent.wait() == EXIT_CODE
    assert agent.events("head_hangs")
    second = run_agent(device.url, *TERMS, code=IMPATIENT)
    assert second.wait() == EXIT_CODE
    third = run_agent(device.url, *TERMS, code=IMPATIENT)
    wait_until((state.results(job_id) / "job.json").exists, "the job is finished")
    assert facts_of(state, job_id)["head"].startswith("ward-v1-")
    assert (states(state)[bad], reason(state, bad)) == ("rolled_back", "crashed")
    assert third.exit_code is None
    assert len(server.requests) == 2


def test_a_head_that_ends_two_agents_by_a_fault_of_memory_gives_way_to_the_one_before(
    device: Device, server: Server, state: StateDirectory, run_agent: RunAgent, on_trial: OnTrial
) -> None:
    agent, good, bad = on_trial("hang")
    job_id = generate(state, 5, "--no-wait")["job_id"]

    for _ in range(2):
        wait_until(lambda agent=agent: bool(agent.events("head_taken_up")), "the new head is in use")  # type: ignore[misc]
        wait_until(lambda: job_state(state, job_id) == "finishing", "it is at work")
        os.kill(agent.pid, signal.SIGSEGV)
        assert agent.wait() == -signal.SIGSEGV
        assert states(state)[bad] == "trial"
        agent = run_agent(device.url, *TERMS)

    wait_until((state.results(job_id) / "job.json").exists, "the job is finished")
    assert facts_of(state, job_id)["head"].startswith("ward-v1-")
    assert states(state) == {good: "live", bad: "rolled_back"}
    assert reason(state, bad) == "crashed"
    assert agent.exit_code is None
    assert len(server.requests) == 2
