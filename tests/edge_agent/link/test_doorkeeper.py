"""Connect windows, on the real broker."""

import json
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from prometheus_client import CollectorRegistry

from broker.connection import Connection
from broker.node.local_node import NodeInfo
from broker.settings import BrokerSettings
from edge_agent.link.doorkeeper import Doorkeeper
from edge_agent.link.windows import Windows
from edge_agent.storage.state import StateDirectory
from monitoring.metrics import BrokerMetrics
from tests.conftest import WAIT_SECONDS, wait_until
from tests.edge_agent.agents import Process, collafuse, edge_json
from tests.edge_agent.conftest import Device


@pytest.fixture
def connection(device: Device, server_settings: BrokerSettings) -> Iterator[Connection]:
    connection = Connection(device.broker, name="test-door", metrics=BrokerMetrics(CollectorRegistry()))
    yield connection
    connection.stop()


def test_the_link_stands_within_its_window_and_nowhere_else(connection: Connection) -> None:
    connection.publisher()
    second = [3600.0]
    keeper = Doorkeeper(Windows.parse(["02:00-05:00"]), connection, lambda: second[0])

    def closed_until_at(hour: float) -> str | None:
        second[0] = hour * 3600
        keeper.turn()
        return keeper.closed_until

    assert closed_until_at(1) == "02:00"
    connection.start()
    assert not connection.connected
    assert closed_until_at(2) is None
    connection.wait_connected(WAIT_SECONDS)
    assert closed_until_at(5) == "02:00"
    wait_until(lambda: not connection.connected, "the link is closed")


@pytest.fixture
def closed_agent(device: Device, state: StateDirectory, tmp_path: Path) -> Iterator[Process]:
    """An agent whose window opens in some two hours, whatever time it is."""
    later = time.localtime(time.time() + 7200)
    window = f"{later.tm_hour:02d}:{later.tm_min:02d}-{(later.tm_hour + 1) % 24:02d}:{later.tm_min:02d}"
    agent = Process(
        tmp_path / "agent.log", "edge", "run", "--state", state.path, "--broker-url", device.url, "--window", window
    )  # fmt: skip
    wait_until(lambda: bool(agent.events("agent_started")), "the agent starts")
    yield agent
    if agent.exit_code is None:
        agent.kill()


def test_outside_its_window_an_agent_takes_work_says_until_when_and_does_not_connect(
    node: NodeInfo, closed_agent: Process, state: StateDirectory, tmp_path: Path, pictures: np.ndarray
) -> None:
    np.savez(tmp_path / "data.npz", images=pictures)
    edge_json("contribute", tmp_path / "data.npz", "--state", state.path, "--schedule-steps", 200)
    edge_json("generate", "--state", state.path, "--count", 1, "--no-wait")
    (event,) = closed_agent.events("window_closed")

    facts = edge_json("status", "--state", state.path)

    assert facts["link"]["closed_until"] == event["until"]
    assert not facts["link"]["connected"]
    assert facts["outbox"]["held_back"]["messages"] >= 1
    assert facts["outbox"]["held_back"]["why"] == f"the link is closed until {event['until']}"
    assert closed_agent.events("broker_connected") == []
    assert closed_agent.stop() == 0


def test_a_window_that_is_none_ends_the_start_in_one_line(state: StateDirectory) -> None:
    done = collafuse(
        "edge", "run", "--state", state.path, "--broker-url", "amqp://a_b:x@127.0.0.1:1/v", "--windows", "nightly"
    )  # fmt: skip

    assert done.returncode == 1
    errors = [line for line in done.stderr.splitlines() if not line.startswith("{")]
    assert len(errors) == 1
    assert "'nightly' is no time of day" in errors[0]
    assert json.dumps("nightly") not in done.stdout
