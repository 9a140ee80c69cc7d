"""Publishing with many confirms in flight, against pika's own ways and other libraries, on the same broker in the same run.

Every contender sends the same bodies to a fresh quorum queue of the same arguments, persistent and mandatory where it has a word
for it, and is timed until the last message stands in the queue.
"""

import random
import statistics
import tempfile
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import pika
import typer
from prometheus_client import CollectorRegistry

from benchmarks.publish_rivals import (
    RIVALS,
    Sender,
    Wait,
    blocking_confirmed,
    blocking_unconfirmed,
    select_unconfirmed,
)
from benchmarks.report import Result, emit, rate, say
from broker.address import BrokerSettings
from broker.connection import Connection
from broker.node.local_node import LocalNode, NodeInfo
from broker.publisher import Outgoing
from broker.topology import FEDERATION, QUEUE_SAMPLES
from monitoring import logs
from monitoring.metrics import BrokerMetrics
from tests.link import Link

KIB = 1024
ONE_WAY_SECONDS = 0.1
WINDOW = 256
DEADLINE_SECONDS = 120.0
ARGUMENTS = dict(next(queue.arguments for queue in FEDERATION.queues if queue.name == QUEUE_SAMPLES))

UNCONFIRMED: dict[str, Sender] = {
    "pika BlockingConnection, unconfirmed": blocking_unconfirmed,
    "pika SelectConnection, unconfirmed": select_unconfirmed,
}


@dataclass(frozen=True)
class Case:
    """What is sent in one comparison: so many bodies of a size, over loopback or a link of 200 ms round trip."""

    size_bytes: int
    count: int
    slow: bool = False

    @property
    def name(self) -> str:
        """In words."""
        size = (
            f"{self.size_bytes // KIB} KiB"
            if self.size_bytes < KIB * KIB
            else f"{self.size_bytes // KIB**2} MiB"
        )
        return f"{size}, {'200 ms round trip' if self.slow else 'loopback'}"


def ours(url: str, queue: str, bodies: list[bytes], wait: Wait) -> None:
    """Our publisher, all messages at once; it holds back by itself what the window does not take."""
    settings = BrokerSettings.from_url(url)
    with Connection(settings, name="benchmark", metrics=BrokerMetrics(CollectorRegistry())) as connection:
        publisher = connection.publisher(window=WINDOW)
        connection.wait_connected(30)
        waiting = [
            publisher.send(Outgoing("", queue, f"{number}", "samples.v1", body))
            for number, body in enumerate(bodies)
        ]
        for future in waiting:
            future.result(DEADLINE_SECONDS)
        wait()


class Bench:
    """Times senders on one node."""

    def __init__(self, node: NodeInfo, link: Link) -> None:
        self._node = node
        self._near = node.amqp_url
        self._far = node.amqp_url.replace(f":{node.ports.amqp}/", f":{link.port}/")

    def seconds(self, sender: Sender, case: Case) -> float:
        """From before the sender connects, which all of them do, until the last message stands in the queue."""
        body = uuid.uuid4().bytes * (case.size_bytes // 16)
        with self._queue() as (queue, depth):
            ended: list[float] = []

            def wait() -> None:
                deadline = time.perf_counter() + DEADLINE_SECONDS
                while depth() < case.count:
                    if time.perf_counter() > deadline:
                        raise RuntimeError(f"only {depth()} of {case.count} messages came")
                    time.sleep(0.001)
                ended.append(time.perf_counter())

            begun = time.perf_counter()
            sender(self._far if case.slow else self._near, queue, [body] * case.count, wait)
            return ended[0] - begun

    @contextmanager
    def _queue(self) -> Iterator[tuple[str, Callable[[], int]]]:
        name = f"benchmark-{uuid.uuid4().hex}"
        with pika.BlockingConnection(pika.URLParameters(self._near)) as amqp:
            channel = amqp.channel()
            channel.queue_declare(name, durable=True, arguments=ARGUMENTS)
            try:
                yield name, lambda: int(channel.queue_declare(name, passive=True).method.message_count)
            finally:
                channel.queue_delete(name)


def keep_stdout_clear() -> None:
    """Log on stderr, and warnings only: stdout is for the results alone."""
    logs.configure("benchmark", level="warning")


def compare(
    bench: Bench, case: Case, rivals: dict[str, Sender], rounds: int
) -> tuple[list[float], dict[str, list[float]]]:
    """Messages per second of ours and of each rival; the order is drawn anew in every round."""
    senders = {"": ours} | rivals
    rates: dict[str, list[float]] = {name: [] for name in senders}
    for number in range(rounds):
        for name in random.sample(list(senders), len(senders)):
            rates[name].append(case.count / bench.seconds(senders[name], case))
        say(f"{case.name}, {case.count} messages: round {number + 1} of {rounds}")
    return rates.pop(""), rates


def main(
    quick: Annotated[bool, typer.Option("--quick", help="Fewer messages; within a minute.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object.")] = False,
) -> None:
    """Messages a second, until the last stands in the queue."""
    keep_stdout_clear()
    scale, rounds = (1, 3) if quick else (3, 9)
    near = [Case(KIB, 2000 * scale), Case(100 * KIB, 170 * scale), Case(KIB * KIB, 27 * scale)]
    far = [
        Case(KIB, 20 * scale, slow=True),
        Case(100 * KIB, 10 * scale, slow=True),
        Case(KIB * KIB, 4 * scale, slow=True),
    ]
    results: list[Result] = []
    with tempfile.TemporaryDirectory(prefix="benchmark-") as scratch:
        local = LocalNode(Path(scratch) / "node")
        say("starting a private RabbitMQ")
        try:
            with Link((node := local.start()).ports.amqp, delay_seconds=ONE_WAY_SECONDS) as link:
                bench = Bench(node, link)
                bench.seconds(ours, Case(KIB, 200))  # warm-up: the node's first messages are slow
                for case in near:
                    results += _near_results(bench, case, rounds)
                for case in far:
                    results += _far_results(bench, case, 1 if quick else 3)
                for name, sender in RIVALS.items():
                    case = Case(100 * KIB, 60 * scale)
                    own, theirs = compare(bench, case, {name: sender}, rounds)
                    results.append(rate(case.name, "messages/s", own, name, theirs[name], None))
        finally:
            local.stop()
    emit("publish", results, as_json=as_json, quick=quick, window=f"{WINDOW} messages", pika=pika.__version__)


def _near_results(bench: Bench, case: Case, rounds: int) -> list[Result]:
    blocking = "pika BlockingConnection, confirms one by one"
    own, theirs = compare(bench, case, {blocking: blocking_confirmed} | UNCONFIRMED, rounds)
    fastest = max(UNCONFIRMED, key=lambda name: statistics.median(theirs[name]))
    small = case.size_bytes == KIB
    return [
        rate(case.name, "messages/s", own, blocking, theirs[blocking], 5 if small else None),
        rate(case.name, "messages/s", own, fastest, theirs[fastest], None if small else 0.8),
    ]


def _far_results(bench: Bench, case: Case, rounds: int) -> list[Result]:
    """Blocking confirms are measured with few messages: each takes its round trip, however many there are."""
    blocking = "pika BlockingConnection, confirms one by one"
    many = Case(case.size_bytes, case.count * 16 if case.size_bytes == KIB else case.count, slow=True)
    own, rivals = compare(bench, many, {}, rounds)
    assert not rivals
    theirs = [case.count / bench.seconds(blocking_confirmed, case) for _ in range(rounds)]
    return [rate(case.name, "messages/s", own, blocking, theirs, 20 if case.size_bytes == KIB else None)]


if __name__ == "__main__":
    typer.run(main)
