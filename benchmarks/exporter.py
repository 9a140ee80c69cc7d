"""A scrape of the exporter at thousands of inboxes: how long it takes, and what it costs the exporter and the broker.

python -m benchmarks.exporter [--quick] [--json]

A private node with an inbox for each of 2,000 devices: every tenth is read, each by a channel of its own, and every fifth holds a
letter. The same collector is scraped with each way of reading, in turn, and all that tell everything have to tell the same. The
exporter itself then runs as the process that it is, and is scraped over HTTP as Prometheus does. What the broker computes is that
of its process during the scrapes, less what it computes when nobody asks.
"""

import json
import os
import random
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, closing, contextmanager
from dataclasses import dataclass, field
from functools import partial
from typing import Annotated

import httpx
import pika
import typer
from prometheus_client import CollectorRegistry, generate_latest

from benchmarks.devices import a_node
from benchmarks.edge import at_most
from benchmarks.report import Result, alone, emit, say, spread
from broker.management import Management
from broker.names import inbox as inbox_of
from broker.names import is_inbox, user_name
from broker.node.local_node import NodeInfo
from broker.node_metrics import NodeMetrics
from broker.topology import EXCHANGE_DOWN, client_key, declare, inbox
from monitoring import logs
from monitoring.exporter.broker.collector import BrokerCollector
from monitoring.exporter.broker.reading import (
    COLUMNS,
    WATCHED_QUEUES,
    BrokerReader,
    Inboxes,
    Queue,
    Reading,
    inboxes_of,
)
from tests.conftest import wait_until

CLIENTS = 20
PROMISED_SECONDS = 0.2
SETTLE_SECONDS = 60.0
IDLE_SECONDS = 10.0

OURS, PROCESS = "the exporter's read", "the exporter's process"
WHOLE = "/api/queues, whole (the exporter before)"
COLUMNS_ONLY = "/api/queues, eight columns"
TOTALS = "/api/queues without statistics, with totals: no consumers, bytes, rates"
DETAILED = "/metrics/detailed alone: no bytes, no rates"


@dataclass(eq=False)
class Cost:
    """What scrapes of one kind took: a figure for each scrape, and for each round the mean of computing."""

    seconds: list[float] = field(default_factory=list)
    own_cpu_seconds: list[float] = field(default_factory=list)
    broker_cpu_seconds: list[float] = field(default_factory=list)


@dataclass(frozen=True, eq=False)
class Bench:
    """Scrapes on one node, whose idle computing is known."""

    node: NodeInfo
    idle_share: float

    def measure(self, scrape: Callable[[], object], pid: int, count: int, cost: Cost) -> None:
        """Scrape so often, and add what it took; pid: of who scrapes."""
        begun, own, broker = time.perf_counter(), cpu_seconds(pid), cpu_seconds(self.node.pid)
        for _ in range(count):
            before = time.perf_counter()
            scrape()
            cost.seconds.append(time.perf_counter() - before)
        idle = self.idle_share * (time.perf_counter() - begun)
        cost.own_cpu_seconds.append((cpu_seconds(pid) - own) / count)
        cost.broker_cpu_seconds.append((cpu_seconds(self.node.pid) - broker - idle) / count)


def cpu_seconds(pid: int) -> float:
    """What a process has computed, in user and in system mode."""
    # The number of that process's CPU-time clock (clock_getcpuclockid(3)), to the nanosecond; /proc knows it to 10 ms.
    return time.clock_gettime(~pid << 3 | 2)


@contextmanager
def a_fleet(node: NodeInfo, devices: int) -> Iterator[Inboxes]:
    """An inbox for each device, every tenth of them read, a letter in every fifth; gives what is there to tell."""
    parameters = pika.URLParameters(f"{node.amqp_url}?heartbeat=0")  # nobody tends these connections
    say(f"declaring {devices} inboxes")
    users = [(f"client-{number % CLIENTS}", f"device-{number}") for number in range(devices)]
    with ExitStack() as stack:
        amqp = stack.enter_context(pika.BlockingConnection(parameters))
        channel = amqp.channel()
        for client, device in users:
            declare(channel, inbox(client, device))
        channel.confirm_delivery()
        for number in range(CLIENTS // 5):
            channel.basic_publish(EXCHANGE_DOWN, client_key(f"client-{5 * number}"), b"\x80", mandatory=True)
        for first in range(0, devices, 500):
            reading = stack.enter_context(pika.BlockingConnection(parameters))
            for client, device in users[first : first + 500 : 10]:
                reading.channel().basic_consume(inbox_of(user_name(client, device)), lambda *_: None)
        yield Inboxes(count=devices, read=devices // 10, messages=devices // 5, messages_max=1)


class Rivals:
    """Other ways to read the same of the broker, each a request of its own."""

    def __init__(self, node: NodeInfo) -> None:
        self._vhost = node.vhost
        self._metrics = NodeMetrics(node.prometheus_url)
        self._management = Management(node.management_url, node.user, node.password)
        self._client = httpx.Client(
            base_url=f"{node.management_url}/api/queues/{node.vhost}", auth=(node.user, node.password)
        )

    def close(self) -> None:
        """Close the connections."""
        self._client.close()
        self._management.close()
        self._metrics.close()

    def whole(self) -> Reading:
        """What the exporter did before: everything of every queue."""
        return reading_of(self._management.queues(self._vhost))

    def columns(self) -> Reading:
        """What the exporter asks, in the main, when it knows no node's metrics."""
        return reading_of(self._management.queues(self._vhost, COLUMNS))

    def totals(self) -> Reading:
        """Depths, for which RabbitMQ asks the queues themselves."""
        asked = {"disable_stats": "true", "enable_queue_totals": "true", "columns": "name,messages"}
        return reading_of(self._client.get("", params=asked).raise_for_status().json())

    def detailed(self) -> Reading:
        """Depths and consumers, as they lie in the tables of the node."""
        depths = self._metrics.queues()
        return Reading((), Inboxes.of([depth for (_, name), depth in depths.items() if is_inbox(name)]))


def reading_of(queues: Sequence[Queue]) -> Reading:
    """What all queues of the vhost amount to."""
    return Reading(tuple(queue for queue in queues if queue["name"] in WATCHED_QUEUES), inboxes_of(queues))


@contextmanager
def an_exporter(node: NodeInfo) -> Iterator[tuple[int, str]]:
    """`collafuse monitor exporter`, as an operator starts it; its pid and where it is scraped."""
    url = node.management_url.replace("://", f"://{node.user}:{node.password}@")
    told = {
        "COLLAFUSE_MONITOR_MANAGEMENT_URL": url,
        "COLLAFUSE_MONITOR_NODE_METRICS_URLS": node.prometheus_url,
    }
    process = subprocess.Popen(
        [sys.executable, "-m", "collafuse", "monitor", "exporter", "--vhost", node.vhost, "--port", "0"],
        env=os.environ | told,
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        assert process.stderr is not None
        started = json.loads(process.stderr.readline())
        yield process.pid, f"http://127.0.0.1:{started['port']}/metrics"
    finally:
        process.terminate()
        process.wait(30)


def fetch(client: httpx.Client, url: str) -> None:
    """Scrape as Prometheus does."""
    if "collafuse_broker_up 1.0" not in client.get(url).text:
        raise RuntimeError("the exporter did not reach the broker")


def settle(reads: Sequence[Callable[[], Reading]], wanted: Inboxes) -> None:
    """Wait until every way tells the same, and that is what is there: RabbitMQ counts consumers and letters some seconds late."""
    say("waiting until RabbitMQ has counted")
    wait_until(
        lambda: all(read().inboxes == wanted for read in reads), f"all ways tell of {wanted}", SETTLE_SECONDS
    )


def idle_share(node: NodeInfo, seconds: float) -> float:
    """What part of a core the broker computes when nobody asks it."""
    begun, before = time.perf_counter(), cpu_seconds(node.pid)
    time.sleep(seconds)
    return (cpu_seconds(node.pid) - before) / (time.perf_counter() - begun)


def compare(node: NodeInfo, wanted: Inboxes, rounds: int, count: int) -> tuple[dict[str, Cost], float]:
    """What a scrape takes with each way, in an order that is drawn anew in every round; and the broker's idle share of a core."""
    with ExitStack() as stack:
        management = stack.enter_context(Management(node.management_url, node.user, node.password))
        metrics = stack.enter_context(NodeMetrics(node.prometheus_url))
        rivals = stack.enter_context(closing(Rivals(node)))
        ours = BrokerReader(management, node.vhost, [metrics])
        settle([ours, rivals.whole, rivals.columns, rivals.detailed], wanted)
        reads: dict[str, Callable[[], Reading]] = {
            OURS: ours,
            WHOLE: rivals.whole,
            COLUMNS_ONLY: rivals.columns,
            TOTALS: rivals.totals,
            DETAILED: rivals.detailed,
        }
        pid, url = stack.enter_context(an_exporter(node))
        client = stack.enter_context(httpx.Client())
        scrapes: dict[str, tuple[Callable[[], object], int]] = {
            name: (partial(generate_latest, registry_of(read)), os.getpid()) for name, read in reads.items()
        } | {PROCESS: (partial(fetch, client, url), pid)}
        costs = {name: Cost() for name in scrapes}
        for scrape, _ in scrapes.values():
            scrape()
        say("the broker at rest")
        bench = Bench(node, idle_share(node, IDLE_SECONDS))
        for number in range(rounds):
            say(f"round {number + 1} of {rounds}")
            for name in random.sample(list(scrapes), len(scrapes)):
                bench.measure(*scrapes[name], count, costs[name])
        if rivals.whole().inboxes != wanted or ours().inboxes != wanted:
            raise RuntimeError("the inboxes changed while they were measured")
    return costs, bench.idle_share


def registry_of(read: Callable[[], Reading]) -> CollectorRegistry:
    """The exporter's metrics, read in that way."""
    registry = CollectorRegistry()
    registry.register(BrokerCollector(read))
    return registry


def less(name: str, unit: str, ours: Sequence[float], rival: str, theirs: Sequence[float]) -> Result:
    """A cost, of which less is better: medians, and how often ours fits into the rival's."""
    own, other = statistics.median(ours), statistics.median(theirs)
    return Result(name, unit, own, rival, other, other / own, None, spread(ours))


def results_of(costs: dict[str, Cost], idle: float, inboxes: int) -> list[Result]:
    """The table: what was promised first."""
    ours, process = costs[OURS], costs[PROCESS]
    found = [
        at_most(
            f"scrape of the exporter over HTTP, {inboxes:,} inboxes", "s", process.seconds, PROMISED_SECONDS
        ),
        alone(
            "the same, 95 of 100 within", "s", [statistics.quantiles(process.seconds, n=20)[-1]], "all rounds"
        ),
    ]
    rivals = (WHOLE, COLUMNS_ONLY, TOTALS, DETAILED)
    found += [less("scrape", "s", ours.seconds, name, costs[name].seconds) for name in rivals]
    computing = "scrape, computing of"
    found += [
        less(f"{computing} the exporter", "s", ours.own_cpu_seconds, name, costs[name].own_cpu_seconds)
        for name in rivals
    ]
    found += [
        less(f"{computing} the broker", "s", ours.broker_cpu_seconds, name, costs[name].broker_cpu_seconds)
        for name in rivals
    ]
    return [
        *found,
        alone("computing of the exporter's process", "s a scrape", process.own_cpu_seconds),
        alone("the broker's own computing, nobody asking", "% of a core", [100 * idle], "one look"),
    ]


def main(
    quick: Annotated[bool, typer.Option("--quick", help="Fewer inboxes; within a minute.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object.")] = False,
) -> None:
    """Seconds and computing of a scrape at 2,000 inboxes."""
    logs.configure("benchmark", level="warning")
    inboxes, rounds, count = (500, 3, 4) if quick else (2000, 9, 8)
    with a_node() as local:
        node = local.status().info
        assert node is not None
        with a_fleet(node, inboxes) as wanted:
            costs, idle = compare(node, wanted, rounds, count)
        with Management(node.management_url, node.user, node.password) as management:
            version = str(management.overview()["rabbitmq_version"])
    emit("exporter", results_of(costs, idle, inboxes), as_json=as_json, quick=quick, rabbitmq=version)


if __name__ == "__main__":
    typer.run(main)
