"""Denoise workers beside each other on one broker: what a second and a fourth add, how long requests wait, and who gets how much.

    python -m benchmarks.scale [--quick] [--json]

Every worker is the real process with one thread. Devices keep more requests open than the workers can serve at once, one of them
four times as many as the others.
"""

import os
import statistics
import subprocess
import sys
import tempfile
import time
import uuid
from collections import Counter
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated

import httpx
import numpy as np
import pika
import torch
import typer
from prometheus_client import CollectorRegistry

from benchmarks.engine_loads import NETWORK, backbone, describe, request
from benchmarks.report import Result, alone, emit, rate, say
from broker.address import BrokerSettings
from broker.connection import Connection
from broker.contract.denoise import LatentsV1
from broker.identities import enroll
from broker.management import Management
from broker.names import inbox
from broker.node.local_node import LocalNode, NodeInfo
from broker.publisher import outgoing
from broker.topology import EXCHANGE_UP, FEDERATION, declare, up_key
from monitoring import logs
from monitoring.metrics import BrokerMetrics
from server_worker import versions
from server_worker.storage import Storage

WORKERS = (1, 2, 4)
OPEN_REQUESTS = {"greedy": 32, "one": 8, "two": 8, "three": 8}
SAMPLES, EVALUATIONS = 2, 5
START_SECONDS = 120.0


@dataclass(eq=False)
class Device:
    """One client's device: keeps so many requests open, and notes when their samples come."""

    client: str
    wanted: int
    connection: Connection
    user: str
    sent: dict[str, float] = field(default_factory=dict)
    left: Counter[str] = field(default_factory=Counter)
    samples: list[float] = field(default_factory=list)
    latency_seconds: list[float] = field(default_factory=list)

    def __post_init__(self) -> None:
        self._publisher = self.connection.publisher()
        self._consumer = self.connection.consumer(inbox(self.user), 256)

    def ask(self) -> None:
        """Open requests until there are as many as wanted."""
        while len(self.sent) < self.wanted:
            each = request(SAMPLES, EVALUATIONS)
            each = each.model_copy(update={"request_id": uuid.uuid4().hex})
            self.sent[each.request_id] = time.perf_counter()
            self.left[each.request_id] = each.n
            self._publisher.send(
                outgoing(
                    each,
                    exchange=EXCHANGE_UP,
                    routing_key=up_key(self.user, "denoise"),
                    message_id=each.request_id,
                )
            )

    def take(self) -> None:
        """Take in what has come."""
        while (delivery := self._consumer.get(0)) is not None:
            part, now = delivery.message(), time.perf_counter()
            delivery.ack()
            if not isinstance(part, LatentsV1):
                raise TypeError(f"the worker failed a request: {part}")
            self.samples.extend([now] * len(part.x))
            self.left[part.request_id] -= len(part.x)
            if self.left[part.request_id] == 0:
                self.latency_seconds.append(now - self.sent.pop(part.request_id))


@dataclass(frozen=True)
class Run:
    """What so many workers did: samples a second, seconds from asking to the last sample and in the queue, shares by client."""

    rate: float
    latency_seconds: list[float]
    queue_seconds: float
    shares: dict[str, float]


def measure(node: NodeInfo, storage: Storage, workers: int, seconds: float) -> Run:
    """Let so many workers serve for so long, once each of them has begun to."""
    with ExitStack() as stack:
        devices = [stack.enter_context(_device(node, client)) for client in OPEN_REQUESTS]
        processes = [stack.enter_context(_worker(node, storage)) for _ in range(workers)]
        deadline = time.monotonic() + START_SECONDS
        while not all(_calls(port_file) for port_file in processes):
            _turn(devices)
            if time.monotonic() > deadline:
                raise RuntimeError("a worker did not start to serve")
        begun = time.perf_counter()
        for device in devices:
            device.latency_seconds.clear()
        while time.perf_counter() - begun < seconds:
            _turn(devices)
        ended = time.perf_counter()
        counts = {device.client: sum(begun <= at <= ended for at in device.samples) for device in devices}
        lag = [_lag_seconds(port_file) for port_file in processes]
    total = sum(counts.values())
    return Run(
        total / (ended - begun),
        [each for device in devices for each in device.latency_seconds],
        statistics.mean(lag),
        {client: count / total for client, count in counts.items()},
    )


def main(
    quick: Annotated[bool, typer.Option("--quick", help="Shorter; within a minute.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object.")] = False,
) -> None:
    """Samples a second with 1, 2 and 4 workers of one thread, over a real broker."""
    logs.configure("benchmark", level="warning")
    rounds, seconds = (1, 4.0) if quick else (3, 10.0)
    runs: dict[int, list[Run]] = {count: [] for count in WORKERS}
    with tempfile.TemporaryDirectory(prefix="benchmark-") as scratch:
        storage = Storage(Path(scratch) / "server")
        made = backbone(torch.device("cpu"))
        versions.publish(storage, made.network.state_dict(), made.manifest)
        local = LocalNode(Path(scratch) / "node")
        say("starting a private RabbitMQ")
        try:
            node = local.start()
            with pika.BlockingConnection(pika.URLParameters(node.amqp_url)) as amqp:
                declare(amqp.channel(), FEDERATION)
            for number in range(rounds):
                for count in WORKERS:
                    say(f"{count} workers, round {number + 1} of {rounds}")
                    _purge(node)
                    runs[count].append(measure(node, storage, count, seconds))
        finally:
            local.stop()
    emit(
        "scale",
        _results(runs),
        as_json=as_json,
        quick=quick,
        network=describe(NETWORK),
        requests=f"{SAMPLES} samples, {EVALUATIONS} evaluations",
    )


def _results(runs: dict[int, list[Run]]) -> list[Result]:
    cores = os.cpu_count() or 1
    one = [run.rate for run in runs[1]]
    results = []
    for count in WORKERS[1:]:
        rates = [run.rate for run in runs[count]]
        limit = f"; {cores} cores hold back more than {cores}" if count > cores else ""
        bar = 1.8 if count == 2 and cores >= 2 else None
        results.append(rate(f"{count} one-thread workers{limit}", "samples/s", rates, "one", one, bar))
    for count in WORKERS:
        latency = [each for run in runs[count] for each in run.latency_seconds]
        name = f"{count} workers, {sum(OPEN_REQUESTS.values())} requests kept open"
        results += [
            alone(f"{name}: request p50", "s", [float(np.quantile(latency, 0.5))]),
            alone(f"{name}: request p95", "s", [float(np.quantile(latency, 0.95))]),
            alone(f"{name}: mean lag in the queue", "s", [run.queue_seconds for run in runs[count]]),
            alone(
                f"{name}: share of the client that keeps {OPEN_REQUESTS['greedy']} of them open",
                "%",
                [100 * run.shares["greedy"] for run in runs[count]],
            ),
            alone(
                f"{name}: fairness between the others (Jain)",
                "of 1",
                [
                    _jain([share for client, share in run.shares.items() if client != "greedy"])
                    for run in runs[count]
                ],
            ),
        ]
    return results


def _jain(shares: list[float]) -> float:
    """Jain's index (1984): 1 when all are equal, 1/n when one has everything."""
    squares = sum(share**2 for share in shares)
    return sum(shares) ** 2 / (len(shares) * squares) if squares else 0.0


def _turn(devices: list[Device]) -> None:
    for device in devices:
        device.take()
        device.ask()
    time.sleep(0.005)


@contextmanager
def _device(node: NodeInfo, client: str) -> Iterator[Device]:
    with Management(node.management_url, node.user, node.password) as management:
        credentials = enroll(
            management, client, uuid.uuid4().hex[:8], address=BrokerSettings.from_url(node.amqp_url)
        )
    settings = BrokerSettings.from_url(credentials.amqp_url)
    with Connection(settings, name=client, metrics=BrokerMetrics(CollectorRegistry())) as connection:
        device = Device(client, OPEN_REQUESTS[client], connection, connection.user)
        connection.wait_connected(30)
        yield device


@contextmanager
def _worker(node: NodeInfo, storage: Storage) -> Iterator[Path]:
    """A worker process; gives the file that will hold its port."""
    with tempfile.TemporaryDirectory(prefix="benchmark-worker-") as scratch:
        port_file = Path(scratch) / "port"
        command = [
            *(sys.executable, "-m", "collafuse", "worker", "denoise"),
            *("--storage", storage.url, "--device", "cpu", "--threads", "1"),
            *("--max-batch", "16", "--requests-in-hand", "8", "--metrics-port-file", str(port_file)),
        ]
        environment = {**os.environ, "COLLAFUSE_BROKER_URL": node.amqp_url, "OMP_NUM_THREADS": "1"}
        with (Path(scratch) / "log").open("wb") as log:
            process = subprocess.Popen(command, env=environment, stdout=log, stderr=log)
        try:
            yield port_file
        finally:
            process.terminate()
            process.wait(60)


def _metric(port_file: Path, name: str) -> float:
    """One sum over a worker's metrics; 0 before it serves any."""
    if not port_file.exists():
        return 0.0
    text = httpx.get(f"http://127.0.0.1:{port_file.read_text().strip()}/metrics").text
    return sum(
        float(line.rsplit(" ", 1)[1])
        for line in text.splitlines()
        if line.startswith((f"{name} ", f"{name}{{"))
    )


def _calls(port_file: Path) -> float:
    return _metric(port_file, "collafuse_network_calls_total")


def _lag_seconds(port_file: Path) -> float:
    count = _metric(port_file, "collafuse_consume_lag_seconds_count")
    return _metric(port_file, "collafuse_consume_lag_seconds_sum") / max(1.0, count)


def _purge(node: NodeInfo) -> None:
    with pika.BlockingConnection(pika.URLParameters(node.amqp_url)) as amqp:
        amqp.channel().queue_purge("denoise")


if __name__ == "__main__":
    typer.run(main)
