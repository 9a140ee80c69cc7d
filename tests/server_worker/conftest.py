"""Devices, dead letters and worker processes for the server worker's tests."""

import json
import subprocess
import sys
import uuid
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import httpx
import pika
import pytest
from prometheus_client import CollectorRegistry

from broker.connection import Connection
from broker.identities import enroll
from broker.management import Management
from broker.node.local_node import NodeInfo
from broker.settings import BrokerSettings
from broker.topology import QUEUE_DEAD
from monitoring.metrics import BrokerMetrics
from tests.conftest import WAIT_SECONDS, wait_until
from tests.server_worker.devices import Device, connect


@pytest.fixture
def device(node: NodeInfo, server_settings: BrokerSettings) -> Iterator[Callable[[str], Device]]:
    """Connects a new device of the client that is named."""
    made: list[Device] = []

    def make(client: str = "clinic") -> Device:
        name = f"d{uuid.uuid4().hex[:8]}"
        with Management(node.management_url, node.user, node.password) as management:
            credentials = enroll(management, client, name, address=server_settings)
        made.append(connect(BrokerSettings.from_url(credentials.amqp_url), client, name))
        return made[-1]

    yield make
    for each in made:
        each.connection.stop()


@pytest.fixture
def connection(server_settings: BrokerSettings) -> Iterator[Connection]:
    """A server-side connection of this process, not started yet."""
    made = Connection(server_settings, name="test-worker", metrics=BrokerMetrics(CollectorRegistry()))
    yield made
    made.stop()


@pytest.fixture
def dead_letters(server_settings: BrokerSettings) -> Iterator[Callable[[], list[str]]]:
    """The reasons of all messages set aside so far, each taken out once."""
    reasons: list[str] = []
    amqp = pika.BlockingConnection(pika.URLParameters(server_settings.url.get_secret_value()))
    channel = amqp.channel()

    def look() -> list[str]:
        while True:
            method, properties, _ = channel.basic_get(QUEUE_DEAD, auto_ack=True)
            if method is None:
                return reasons
            reasons.append(str((properties.headers or {}).get("x-reason")))

    yield look
    amqp.close()


@pytest.fixture
def queue_depth(server_settings: BrokerSettings) -> Iterator[Callable[[str], int]]:
    """How many messages of a queue are ready."""
    amqp = pika.BlockingConnection(pika.URLParameters(server_settings.url.get_secret_value()))
    channel = amqp.channel()

    def depth(queue: str) -> int:
        return int(channel.queue_declare(queue, passive=True).method.message_count)

    yield depth
    amqp.close()


@dataclass(eq=False)
class Worker:
    """A real `collafuse worker` process."""

    process: subprocess.Popen[bytes]
    log_path: Path
    port_file: Path

    def events(self) -> list[dict[str, object]]:
        """Its log so far."""
        lines = self.log_path.read_text().splitlines()
        return [json.loads(line) for line in lines if line.startswith("{")]

    def wait_for(self, event: str, timeout_seconds: float = WAIT_SECONDS) -> dict[str, object]:
        """Wait until it has logged an event; returns the first of them."""

        def found() -> list[dict[str, object]]:
            return [each for each in self.events() if each["event"] == event]

        def happened() -> bool:
            assert self.process.poll() in (None, 0), self.log_path.read_text()
            return bool(found())

        wait_until(happened, f"the worker logged {event}", timeout_seconds)
        return found()[0]

    def metric(self, name: str) -> float:
        """One value of its /metrics; 0 while it is not served yet."""
        if not self.port_file.exists():
            return 0.0
        port = int(self.port_file.read_text())
        text = httpx.get(f"http://127.0.0.1:{port}/metrics").text
        return sum(
            float(line.rsplit(" ", 1)[1])
            for line in text.splitlines()
            if line.startswith((f"{name} ", f"{name}{{"))
        )

    def kill(self) -> None:
        """kill -9."""
        self.process.kill()
        self.process.wait()

    def end(self, timeout_seconds: float = WAIT_SECONDS) -> int:
        """Wait for its own end; returns the exit code."""
        return self.process.wait(timeout_seconds)


@pytest.fixture
def worker(server_settings: BrokerSettings, tmp_path: Path) -> Iterator[Callable[..., Worker]]:
    """Starts `collafuse worker …` against the test's broker."""
    started: list[Worker] = []

    def start(*arguments: str) -> Worker:
        number = len(started)
        log_path, port_file = tmp_path / f"worker-{number}.log", tmp_path / f"port-{number}.json"
        command = [sys.executable, "-m", "collafuse", "worker", *arguments]
        command += ["--threads", "1", "--device", "cpu", "--metrics-port-file", str(port_file)]
        environment = {"COLLAFUSE_BROKER_URL": server_settings.url.get_secret_value(), "OMP_NUM_THREADS": "1"}
        with log_path.open("wb") as log:
            process = subprocess.Popen(command, stderr=log, stdout=log, env=environment)
        started.append(Worker(process, log_path, port_file))
        return started[-1]

    yield start
    for each in started:
        if each.process.poll() is None:
            each.kill()
