"""Real agents whose spool is damaged before they start and under their hands."""

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest

from edge_agent.generation import jobs
from edge_agent.storage import quarantine
from edge_agent.storage.spool import Spool, log_of
from edge_agent.storage.state import StateDirectory
from tests.conftest import wait_until
from tests.edge_agent.agents import NOWHERE, RunAgent, collafuse, edge_json, ready, running
from tests.edge_agent.conftest import Device
from tests.edge_agent.server import Server
from tests.edge_agent.storage.damage import DAMAGES, overwritten


@pytest.fixture
def run_agent(state: StateDirectory, tmp_path: Path) -> Iterator[RunAgent]:
    """Agents that have started."""
    with running(state, tmp_path) as run:
        yield lambda url, *flags: ready(run(url, *flags))


def contribute(state: StateDirectory, tmp_path: Path, pictures: np.ndarray, **extra: Any) -> dict[str, Any]:
    np.savez(tmp_path / "data.npz", images=pictures)
    cut_ratio = extra.get("cut_ratio", 0.3)
    return edge_json(
        "contribute", tmp_path / "data.npz", "--state", state.path, "--schedule-steps", 200, "--cut-ratio", cut_ratio
    )  # fmt: skip


def checkpointed(state: StateDirectory) -> bool:
    """Whether the log holds nothing any more: as long as it does, damage to the file is mended from it."""
    with Spool(state.spool) as spool:
        return (
            spool.rows("PRAGMA wal_checkpoint(TRUNCATE)")[0][0] == 0
            and log_of(state.spool).stat().st_size == 0
        )


@pytest.mark.parametrize("damage", DAMAGES)
def test_an_agent_that_finds_its_spool_damaged_begins_a_new_one_and_serves(
    device: Device,
    server: Server,
    state: StateDirectory,
    head_bundle: Path,
    run_agent: RunAgent,
    tmp_path: Path,
    pictures: np.ndarray,
    damage: Callable[[Path], None],
) -> None:
    assert contribute(state, tmp_path, pictures)["released"] == 10
    with Spool(state.spool) as spool, spool.transaction() as transaction:
        transaction.execute("CREATE TABLE ballast AS SELECT randomblob(100000)")
    damage(state.spool)

    agent = run_agent(device.url, "--head", head_bundle)

    (event,) = agent.events("spool_quarantined")
    assert event["level"] == "critical"
    assert "damaged" in event["error"]
    made = edge_json("generate", "--state", state.path, "--count", 2, "--ttl", 300)
    assert made["state"] == "completed"
    facts = edge_json("status", "--state", state.path)
    assert facts["ledger"]["releases"] == 10
    assert facts["quarantine"] == quarantine.names(state)
    assert len(facts["quarantine"]) == 1
    metrics = httpx.get(f"http://127.0.0.1:{facts['agent']['metrics_port']}/metrics").text
    assert "collafuse_quarantined_spools 1.0" in metrics
    assert contribute(state, tmp_path, pictures, cut_ratio=0.4)["released"] == 0
    assert agent.stop() == 0


def test_damage_under_a_running_agent_is_mended_while_it_runs(
    device: Device,
    server: Server,
    state: StateDirectory,
    head_bundle: Path,
    run_agent: RunAgent,
    tmp_path: Path,
    pictures: np.ndarray,
) -> None:
    assert contribute(state, tmp_path, pictures)["released"] == 10
    agent = run_agent(device.url, "--head", head_bundle)
    wait_until(lambda: checkpointed(state), "the log is taken into the file")
    overwritten(state.spool)

    # The agent may find it before anybody else does.
    met = collafuse("edge", "status", "--state", state.path)
    assert met.returncode == 0 or met.stderr.startswith("error: the spool ")
    assert len(met.stderr.splitlines()) == met.returncode
    wait_until(lambda: len(agent.events("agent_started")) == 2, "the agent begins anew")
    assert len(agent.events("spool_quarantined")) == 1
    again = contribute(state, tmp_path, pictures)
    assert again["released"] + again["released_before"] == 10
    assert edge_json("generate", "--state", state.path, "--count", 2, "--ttl", 300)["state"] == "completed"
    assert edge_json("status", "--state", state.path)["ledger"]["releases"] == 10
    assert agent.exit_code is None
    assert agent.stop() == 0


@pytest.mark.parametrize("command", [("status", "--json"), ("generate", "--no-wait", "--json")])
def test_without_an_agent_a_command_sets_the_spool_aside_and_goes_on(
    state: StateDirectory, tmp_path: Path, pictures: np.ndarray, command: tuple[str, ...]
) -> None:
    contribute(state, tmp_path, pictures)
    state.spool.write_bytes(b"rubbish" * 1000)

    done = collafuse("edge", *command, "--state", state.path)

    assert done.returncode == 0
    assert json.loads(done.stdout)
    assert len([line for line in done.stderr.splitlines() if "set aside in" in line]) == 1
    assert edge_json("status", "--state", state.path)["ledger"]["releases"] == 10
    again = contribute(state, tmp_path, pictures)
    assert again["released"] == 10, "the same bytes once more disclose nothing"


def test_what_nobody_wrote_into_a_whole_spool_does_not_stop_the_agent_for_ever(
    state: StateDirectory, run_agent: RunAgent, tmp_path: Path, pictures: np.ndarray
) -> None:
    assert contribute(state, tmp_path, pictures)["released"] == 10
    edge_json("generate", "--state", state.path, "--no-wait", "--ttl", 300)
    with Spool(state.spool) as spool, spool.transaction() as transaction:
        transaction.execute("UPDATE jobs SET ttl_seconds = 'soon'")

    agent = run_agent(NOWHERE)

    wait_until(lambda: len(agent.events("agent_started")) == 3, "the agent begins anew")
    assert len(agent.events("spool_quarantined")) == 1
    assert edge_json("status", "--state", state.path)["ledger"]["releases"] == 10
    assert agent.stop() == 0


def test_a_job_whose_recipe_cannot_be_read_fails_with_a_reason(
    device: Device, state: StateDirectory, run_agent: RunAgent
) -> None:
    job_id = edge_json("generate", "--state", state.path, "--no-wait")["job_id"]
    with Spool(state.spool) as spool, spool.transaction() as transaction:
        transaction.execute("UPDATE jobs SET state = 'finishing', recipe = '{' WHERE job_id = ?", (job_id,))

    agent = run_agent(device.url)

    with Spool(state.spool) as spool:
        wait_until(lambda: (jobs.find(spool, job_id) or pytest.fail("gone")).ended, "the job ends")
        job = jobs.find(spool, job_id)
        assert job is not None
        assert (job.state, job.reason) == ("failed", "recipe_damaged")
    assert agent.stop() == 0
