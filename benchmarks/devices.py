"""What devices cost a broker: enrolled and idle, connected, and all coming back at once after an outage.

The storm is run twice in the same run: with our waits, which grow to 30 s and are jittered, and with a rival that waits a second
after every failure. What differs is both: the growth, which makes the return slow, and the jitter, which spreads it.
"""

import multiprocessing
import statistics
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from multiprocessing.connection import Connection as Pipe
from pathlib import Path
from typing import Annotated, Any

import pika
import typer

from benchmarks.devices_fleet import serve
from benchmarks.report import Result, alone, emit, say
from broker.address import BrokerSettings
from broker.identities import enroll
from broker.management import Management
from broker.node.local_node import LocalNode, NodeInfo
from broker.topology import FEDERATION, QUEUE_SAMPLES, declare
from edge_agent.fleet.memory import rss_bytes
from tests.conftest import is_registered, wait_until

PROCESSES = 5
ONCE = "one measurement"
OUTAGE_SECONDS = 15.0
STORM_SECONDS = 180.0


@dataclass(frozen=True)
class Storm:
    """How an outage ended. Seconds count from the moment the broker and its management API were all there again."""

    back: list[float]
    drained: list[float]
    accepted: int
    lost: int
    duplicated: int


class Fleet:
    """Devices in a few processes, each of them connected."""

    def __init__(self, urls: list[str], *, jitter: bool) -> None:
        context = multiprocessing.get_context("spawn")
        self.pipes: list[Pipe] = []
        self._processes = []
        for group in _groups(urls):
            ours, theirs = context.Pipe()
            process = context.Process(
                target=serve, args=(theirs, group), kwargs={"jitter": jitter}, daemon=True
            )
            process.start()
            self.pipes.append(ours)
            self._processes.append(process)
        self.bytes_per_device = statistics.mean(float(pipe.recv()) for pipe in self.pipes)

    def order(self, what: str, count: int = 0, mark: str = "") -> list[Any]:
        """Tell every process something, and gather the answers."""
        for pipe in self.pipes:
            pipe.send((what, count, mark))
        return [pipe.recv() for pipe in self.pipes]

    def close(self) -> None:
        """End them all."""
        for pipe in self.pipes:
            pipe.send(None)
        for process in self._processes:
            process.join(60)


def _groups(urls: list[str]) -> Iterator[list[str]]:
    size = -(-len(urls) // PROCESSES)
    for first in range(0, len(urls), size):
        yield urls[first : first + size]


def make_devices(node: NodeInfo, count: int) -> tuple[list[str], float]:
    """Enrol so many devices; returns their URLs and how long one took, in seconds."""
    address = BrokerSettings.from_url(node.amqp_url)
    begun = time.perf_counter()
    with Management(node.management_url, node.user, node.password) as management:
        urls = [
            enroll(management, f"client-{number % 50}", f"device-{number}", address=address).amqp_url
            for number in range(count)
        ]
    return urls, (time.perf_counter() - begun) / count


def memory_bytes(local: LocalNode) -> int:
    """What the broker's process really takes, after tidying up.

    Erlang's own figure counts the receive buffers that RabbitMQ reserves for each connection, megabytes on loopback, which the
    system hands out only as they are used.
    """
    local.control("eval", "[garbage_collect(P) || P <- processes()], ok.")
    info = local.status().info
    assert info is not None
    return rss_bytes(info.pid)


def storm(local: LocalNode, urls: list[str], messages: int, *, jitter: bool) -> Storm:
    """Connect all, kill the broker, let every device accept messages, start the broker again, and wait for the calm."""
    node = local.status().info
    assert node is not None
    purge(node)
    fleet = Fleet(urls, jitter=jitter)
    try:
        wait_until(lambda: is_registered(local.directory, QUEUE_SAMPLES), "the queue is registered")
        local.kill()
        accepted = {name for names in fleet.order("accept", messages, f"{jitter}") for name in names}
        wait_until(lambda: all(fleet.order("away")), "every device has noticed", 60)
        time.sleep(OUTAGE_SECONDS)
        local.start()
        up = time.monotonic()
        ends: list[tuple[float | None, float | None]] = []

        def calm() -> bool:
            ends[:] = [end for answers in fleet.order("tell") for end in answers]
            return all(drained is not None for _, drained in ends)

        wait_until(calm, "every device is back and has sent everything", STORM_SECONDS)
    finally:
        fleet.close()
    found = queued(node)
    return Storm(
        back=[max(0.0, back - up) for back, _ in ends if back is not None],
        drained=[max(0.0, drained - up) for _, drained in ends if drained is not None],
        accepted=len(accepted),
        lost=len(accepted - set(found)),
        duplicated=len(found) - len(set(found)),
    )


def purge(node: NodeInfo) -> None:
    """Empty the samples."""
    with pika.BlockingConnection(pika.URLParameters(node.amqp_url)) as amqp:
        amqp.channel().queue_purge(QUEUE_SAMPLES)


def queued(node: NodeInfo) -> list[str]:
    """The message ids of everything among the samples."""
    found = []
    with pika.BlockingConnection(pika.URLParameters(node.amqp_url)) as amqp:
        channel = amqp.channel()
        while (answer := channel.basic_get(QUEUE_SAMPLES))[0] is not None:
            found.append(str(answer[1].message_id))
    return found


@contextmanager
def a_node() -> Iterator[LocalNode]:
    """A private node with the topology."""
    with tempfile.TemporaryDirectory(prefix="benchmark-") as scratch:
        local = LocalNode(Path(scratch) / "node")
        say("starting a private RabbitMQ")
        try:
            with pika.BlockingConnection(pika.URLParameters(local.start().amqp_url)) as amqp:
                declare(amqp.channel(), FEDERATION)
            yield local
        finally:
            local.stop()


def at_rest(local: LocalNode, enrolled: int, connected: int) -> tuple[list[str], list[Result]]:
    """What enrolled and connected devices take."""
    node = local.status().info
    assert node is not None
    empty = memory_bytes(local)
    say(f"enrolling {enrolled} devices")
    urls, seconds = make_devices(node, enrolled)
    idle = memory_bytes(local)
    say(f"connecting {connected}")
    fleet = Fleet(urls[:connected], jitter=True)
    busy, own = memory_bytes(local), fleet.bytes_per_device
    fleet.close()
    return urls, [
        alone(f"enrolling one of {enrolled} devices", "ms", [seconds * 1000], ONCE),
        alone(
            f"broker's memory for one of {enrolled} enrolled and idle",
            "kB",
            [(idle - empty) / enrolled / 1000],
            ONCE,
        ),
        alone(
            f"broker's memory for one of {connected} connected, besides",
            "kB",
            [(busy - idle) / connected / 1000],
            ONCE,
        ),
        alone(
            f"agent's memory for its connection, one of {connected // PROCESSES} in a process",
            "kB",
            [own / 1000],
            ONCE,
        ),
    ]


def storms(local: LocalNode, urls: list[str], messages: int) -> list[Result]:
    """Ours against the rival, in turn."""
    say(f"a storm of {len(urls)} devices, jittered")
    ours = storm(local, urls, messages, jitter=True)
    say(f"a storm of {len(urls)} devices, a second each")
    fixed = storm(local, urls, messages, jitter=False)
    rival = "a second after every failure, no jitter"
    rows = [
        (
            f"{len(urls)} devices: half are back after",
            statistics.median(ours.back),
            statistics.median(fixed.back),
        ),
        ("95 % are back after", _p95(ours.back), _p95(fixed.back)),
        ("all are back after", max(ours.back), max(fixed.back)),
        ("all have sent everything after", max(ours.drained), max(fixed.drained)),
    ]
    results = [
        Result(name, "s", own, rival, theirs, theirs / own if own else None, None, "one storm each")
        for name, own, theirs in rows
    ]
    counts = [
        (f"messages lost, of {ours.accepted}", ours.lost, fixed.lost),
        ("messages in the queue twice", ours.duplicated, fixed.duplicated),
    ]
    return results + [
        Result(name, "messages", own, rival, theirs, None, None, "one storm each")
        for name, own, theirs in counts
    ]


def _p95(values: list[float]) -> float:
    return statistics.quantiles(values, n=20)[-1]


def main(
    quick: Annotated[bool, typer.Option("--quick", help="Fewer devices; within a minute or so.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object.")] = False,
    devices: Annotated[int, typer.Option(help="In the storm.")] = 500,
) -> None:
    """Memory, time and a reconnect storm. Nothing may be lost."""
    stormy, enrolled = (100, 200) if quick else (devices, max(1000, devices))
    with a_node() as local:
        urls, results = at_rest(local, enrolled, stormy)
        results += storms(local, urls[:stormy], messages=4)
    emit("devices", results, as_json=as_json, quick=quick, outage=f"{OUTAGE_SECONDS:g} s")
    if any(result.name.startswith("messages lost") and result.ours for result in results):
        raise typer.Exit(1)


if __name__ == "__main__":
    typer.run(main)
