"""Pictures from the stock while the broker is down, by a real agent with a real head."""

import json
import re
import signal
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from broker.identities import enroll
from broker.settings import BrokerSettings
from diffusion.schedule import NoiseSchedule
from edge_agent.generation import jobs, pool
from edge_agent.heads.energy import EnergyMeter
from edge_agent.heads.head import Head
from edge_agent.storage.spool import Spool
from edge_agent.storage.state import StateDirectory
from tests.brokers import Brokers
from tests.conftest import wait_until
from tests.edge_agent.agents import MORTAL, NOWHERE, RunAgent, collafuse, edge_json, running
from tests.edge_agent.generation.stock import stocked
from tests.edge_agent.server import Server, denoise

SCHEDULE = NoiseSchedule.cosine(200)


@pytest.fixture
def run_agent(state: StateDirectory, tmp_path: Path, head_bundle: Path) -> Iterator[RunAgent]:
    """Agents that keep a stock of labels 1 and 2."""
    stock = ("--head", head_bundle, "--pool-images", 8, "--pool-labels", "1,2")
    with running(state, tmp_path, *stock) as run:
        yield run


def shelves(state: StateDirectory) -> dict[int | None, int]:
    with Spool(state.spool) as spool:
        return {shelf.label: shelf.images for shelf in pool.stock(spool)}


def status_of(state: StateDirectory) -> dict[str, Any]:
    return edge_json("status", "--state", state.path)


def facts_of(folder: str) -> dict[str, Any]:
    facts: dict[str, Any] = json.loads((Path(folder) / "job.json").read_text())
    return facts


def made_again(facts: dict[str, Any], bundle: Path, requests: dict[int, Any]) -> np.ndarray:
    """The pictures that `job.json` describes, from nothing but it, the head and the optimal server."""
    head, images = Head.load(bundle, "cpu", 1), []
    for image in facts["images"]:
        at_cut = denoise(SCHEDULE, requests[image["seed"]])[image["sample"]][None]
        images.append(
            head.finish(
                at_cut.astype(np.float16).astype(np.float32),
                facts["head_plan"],
                sampler=facts["sampler"],
                eta=facts["eta"],
                clip=facts["clip"],
                seeds=np.array([image["seed"]], np.uint64),
                samples=np.array([image["sample"]]),
                labels=np.array([facts["label"]]),
            )[0]
        )
    return np.stack(images)


def test_with_the_broker_down_pictures_are_made_from_the_stock_and_say_so(
    tmp_path: Path, state: StateDirectory, head_bundle: Path, run_agent: RunAgent
) -> None:
    flags = ("--sampler", "ddpm", "--head-steps", 3)
    with Brokers(tmp_path / "broker") as brokers:
        with brokers.management as management:
            name = f"d{uuid.uuid4().hex[:12]}"
            url = enroll(management, "ward", name, address=brokers.settings).amqp_url
        with Server(BrokerSettings.from_url(brokers.first.amqp_url)) as server:
            first = run_agent(url, *flags)
            wait_until(lambda: shelves(state) == {1: 8, 2: 8}, "both shelves are full")
            assert {shelf["label"]: shelf["wanted"] for shelf in status_of(state)["pool"]} == {1: 8, 2: 8}
            requests = {request.seed: request for request in server.requests}
            assert {request.priority for request in server.requests} == {"prefetch"}
        brokers.kill(0)
        assert first.stop() == 0

        run_agent(url, *flags)
        made = edge_json("generate", "--state", state.path, "--count", 4, "--label", 1)
        again = collafuse("edge", "generate", "--state", state.path, "--count", 3, "--label", 1)
        facts = facts_of(made["folder"])

        assert (made["state"], made["source"], made["seed"]) == ("completed", "pool", None)
        assert re.search(r"^3 pictures in .* \(from the stock, head ", again.stdout)
        assert shelves(state) == {1: 1, 2: 8}
        images = np.load(Path(made["folder"]) / "images.npy")
        np.testing.assert_allclose(images, made_again(facts, head_bundle, requests), atol=1e-4)
        assert len(np.unique(images.reshape(4, -1), axis=0)) == 4
        seeded = generate_within_a_second(state, "--label", 2, "--seed", 5)
        assert (
            "a chosen seed needs the server: leave out --seed to use the stock of 8 images of label 2"
            in seeded
        )
        many = generate_within_a_second(state, "--label", 2, "--count", 9)
        assert "8 of 9 images of label 2 are in stock: the job waits for the link to the server" in many
        status = status_of(state)
        assert status["jobs"] == {"completed": 2, "expired": 2}
        assert not status["link"]["connected"]


def generate_within_a_second(state: StateDirectory, *flags: object) -> str:
    done = collafuse("edge", "generate", "--state", state.path, "--count", 2, *flags, "--ttl", 1.5)
    assert done.returncode == 1
    assert "expired" in done.stderr
    return done.stderr


def test_killed_at_every_commit_in_turn_jobs_from_the_stock_complete_and_share_no_sample(
    state: StateDirectory, head_bundle: Path, run_agent: RunAgent, settings: Any
) -> None:
    stocked(state, head_bundle, settings)
    wanted = ("generate", "--state", state.path, "--no-wait", "--count", 3, "--label", 1)
    job_ids = [edge_json(*wanted)["job_id"] for _ in range(2)]
    deaths = 0

    def completed() -> bool:
        with Spool(state.spool) as spool:
            return jobs.counts(spool).get("completed") == 2

    while not completed() and deaths < 60:
        when = ("before", "after")[deaths % 2]
        agent = run_agent(NOWHERE, code=MORTAL, COMMITS=str(1 + deaths // 2), WHEN=when)
        wait_until(lambda agent=agent: agent.exit_code is not None or completed(), "it dies or is done")  # type: ignore[misc]
        if agent.exit_code is None:
            agent.stop()
            continue
        assert agent.wait() == -signal.SIGKILL, agent.log.read_text()
        deaths += 1

    assert deaths >= 6
    keys = [
        (image["seed"], image["sample"])
        for job_id in job_ids
        for image in facts_of(str(state.results(job_id)))["images"]
    ]
    assert len(set(keys)) == 6
    with Spool(state.spool) as spool:
        assert spool.rows("SELECT count(*) FROM pool_latents WHERE x IS NOT NULL")[0][0] == 2
        assert spool.rows("SELECT count(*) FROM pool_taken")[0][0] == 0


def test_a_budget_chooses_the_steps_of_a_job_and_of_the_device(
    state: StateDirectory, head_bundle: Path, run_agent: RunAgent, settings: Any
) -> None:
    stocked(state, head_bundle, settings)
    run_agent(NOWHERE, "--budget-ms", 1e-6, "--power-watts", 2)

    wanted = ("generate", "--state", state.path, "--count", 1, "--label", 1)
    poor = facts_of(edge_json(*wanted)["folder"])
    rich = facts_of(edge_json(*wanted, "--budget-ms", 1e9)["folder"])
    chosen = facts_of(edge_json(*wanted, "--head-steps", 7)["folder"])

    assert [len(facts["head_plan"]) - 1 for facts in (poor, rich, chosen)] == [1, 60, 7]
    assert rich["joules"] == pytest.approx(2 * rich["head_seconds"], rel=1e-3)
    plan = status_of(state)["plan"]
    assert plan["head_steps"] == 1
    assert plan["step_ms"] > 0
    assert plan["why"].startswith("the budget does not pay for a single step: 1e-06 ms for an image, at ")


def test_a_budget_of_energy_that_cannot_be_kept_ends_the_start_with_one_line(
    state: StateDirectory, run_agent: RunAgent
) -> None:
    if EnergyMeter().kind == "measured":
        pytest.skip("this machine counts its energy")
    agent = run_agent(NOWHERE, "--budget-joules", 1)
    assert agent.wait() == 1
    last = agent.log.read_text().splitlines()[-1]
    assert last.startswith("error: budget_joules is set, but this machine lets nobody read ")
