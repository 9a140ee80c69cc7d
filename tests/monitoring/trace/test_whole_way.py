"""One image followed by one id over two real processes and a real broker."""

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pika
import pytest

from broker.identities import enroll
from broker.management import Management
from broker.node.local_node import NodeInfo
from broker.settings import BrokerSettings
from broker.topology import FEDERATION
from edge_agent.storage.state import open_state
from export.checkpoint import save_checkpoint
from export.head_export import export_head
from server_worker.storage import Storage
from tests.conftest import wait_until
from tests.edge_agent.agents import Process, collafuse, edge_json, ready, running
from tests.export.heads import metadata_of, random_network
from tests.server_worker.backbones import CLASSES, SCHEDULE, publish_backbone

STOCK = 4
SERVER_STRETCHES = (
    "in the outbox",
    "in the broker's queue",
    "waiting in the scheduler",
    "computing",
    "way back",
)


@dataclass(frozen=True)
class Way:
    """What was made, and the logs of it: `asked` with a chosen seed, which needs the server, `stocked` from the stock."""

    asked: str
    stocked: str
    agent: Path
    worker: Path

    def trace(self, wanted: str) -> dict[str, Any]:
        done = collafuse("trace", wanted, self.agent, self.worker, "--json")
        assert done.returncode == 0, done.stderr
        found: dict[str, Any] = json.loads(done.stdout)
        return found

    def lines(self, log: Path) -> list[dict[str, Any]]:
        return [json.loads(line) for line in log.read_text().splitlines() if line.startswith("{")]


def head_bundle(folder: Path) -> Path:
    """A head for the test backbone's schedule."""
    network = random_network(CLASSES)
    save_checkpoint(folder / "head.safetensors", network, metadata_of(network, t_cut=40, schedule=SCHEDULE))
    export_head(folder / "head.safetensors", folder / "head.bundle")
    return folder / "head.bundle"


@pytest.fixture(scope="module")
def way(node: NodeInfo, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Way]:
    """A worker and an agent make one job from the server and one from the stock."""
    folder = tmp_path_factory.mktemp("way")
    with pika.BlockingConnection(pika.URLParameters(node.amqp_url)) as amqp:
        for queue in FEDERATION.queues:
            amqp.channel().queue_purge(queue.name)
    publish_backbone(Storage(folder / "server"))
    with Management(node.management_url, node.user, node.password) as management:
        url = enroll(management, "ward", "traced", address=BrokerSettings.from_url(node.amqp_url)).amqp_url
    state = open_state(folder / "edge")
    flags = ("--head", head_bundle(folder), "--pool-images", STOCK, "--pool-use", "always")
    denoise = ("worker", "denoise", "--storage", folder / "server", "--threads", 1, "--device", "cpu")
    worker = Process(folder / "worker.log", *denoise, COLLAFUSE_BROKER_URL=node.amqp_url)
    try:
        with running(state, folder, *flags) as run:
            agent = ready(run(url))
            where = ("--state", state.path)
            asked = edge_json("generate", *where, "--count", 2, "--seed", 5)["job_id"]
            wait_until(lambda: bool(stock_lines(agent)), "the stock is full", 60)
            stocked = edge_json("generate", *where, "--count", 2)
            assert stocked["source"] == "pool"
            wait_until(lambda: len(worker.events("request_ended")) >= 2, "the worker has said the last")
            yield Way(asked, stocked["job_id"], agent.log, worker.log)
    finally:
        worker.kill()


def stock_lines(agent: Process) -> list[dict[str, Any]]:
    """What the agent logged of the parts that filled its stock."""
    found = [line for line in agent.events("part_received") if line["job_id"] is None]
    return found if sum(line["samples"] for line in found) >= STOCK else []


def test_every_station_of_a_job_tells_of_it_under_its_id(way: Way) -> None:
    found = way.trace(way.asked)

    events = [each["event"] for each in found["events"]]
    for station in (
        "job_started",
        "request_sent",
        "request_confirmed",
        "request_taken",
        "request_begun",
        "part_sent",
        "request_computed",
        "request_ended",
        "part_received",
        "head_begun",
        "job_completed",
    ):
        assert station in events
    (request,) = found["requests"]
    about = [
        line for line in (*way.lines(way.agent), *way.lines(way.worker)) if line.get("request_id") == request
    ]
    assert len(about) >= 8
    assert {line["job_id"] for line in about} == {way.asked}
    assert found["from_stock"] == found["notes"] == []


def test_the_stretches_of_a_real_image_are_its_whole_time(way: Way) -> None:
    took = {each["name"]: each["seconds"] for each in way.trace(way.asked)["stretches"]}

    whole = took.pop("in all")
    assert set(took) == {"waiting to begin", *SERVER_STRETCHES, "waiting for the head", "head"}
    assert all(seconds >= 0 for seconds in took.values())
    assert sum(took.values()) == pytest.approx(whole, abs=0.05)


def test_the_id_of_a_request_leads_to_the_same(way: Way) -> None:
    by_job = way.trace(way.asked)
    assert way.trace(by_job["requests"][0]) == by_job


def test_an_image_from_the_stock_leads_to_what_the_server_did_before(way: Way) -> None:
    found = way.trace(way.stocked)

    assert found["from_stock"] == found["requests"] != []
    assert {each["name"] for each in found["stretches"] if each["from_stock"]} == set(SERVER_STRETCHES)
    own = {each["name"]: each for each in found["stretches"] if not each["from_stock"]}
    assert set(own) == {"waiting to begin", "waiting for the head", "head", "in all"}
    computed = next(each for each in found["stretches"] if each["name"] == "computing")
    assert computed["end"] < own["in all"]["begin"]
    assert found["notes"] == []


def test_nothing_of_an_image_but_its_ids_and_counts_is_in_the_logs(way: Way) -> None:
    lines = [
        line
        for line in (*way.lines(way.agent), *way.lines(way.worker))
        if line["event"].startswith(("request_", "part_", "head_begun", "job_accepted"))
    ]
    assert lines
    for line in lines:
        assert not {"seed", "label", "labels", "x"} & set(line), line
