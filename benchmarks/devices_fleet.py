"""Many devices in one process, told what to do through a pipe: each has its own connection, consumer, publisher and outbox."""

import contextlib
import logging
import resource
import time
from concurrent.futures import Future
from dataclasses import dataclass, field
from multiprocessing.connection import Connection as Pipe

import structlog
from prometheus_client import CollectorRegistry

from broker.address import BrokerSettings
from broker.backoff import Backoff
from broker.connection import Connection
from broker.errors import PublishFailed
from broker.names import inbox
from broker.publisher import Outgoing
from broker.topology import EXCHANGE_UP, up_key
from edge_agent.fleet.memory import rss_bytes
from monitoring.metrics import BrokerMetrics

FIXED_SECONDS = 1.0
BODY = b"x" * 1024


class Fixed(Backoff):
    """The rival: every device waits the same second after every failure."""

    def next_seconds(self, least_share: float = 0.0) -> float:  # noqa: ARG002 - as what it stands in for
        """A second."""
        return FIXED_SECONDS


@dataclass(eq=False)
class Device:
    """One device: what it has accepted and the broker has not confirmed is in `outbox`."""

    connection: Connection
    outbox: dict[str, Outgoing] = field(default_factory=dict)
    in_flight: dict[str, "Future[None]"] = field(default_factory=dict)
    back_at: float | None = None
    drained_at: float | None = None

    def __post_init__(self) -> None:
        self.publisher = self.connection.publisher(window=64)
        self.connection.consumer(inbox(self.connection.user), prefetch=8)

    def accept(self, count: int, mark: str) -> None:
        """Put messages into the outbox."""
        self.back_at = self.drained_at = None
        user = self.connection.user
        for number in range(count):
            name = f"{user}-{mark}-{number}"
            self.outbox[name] = Outgoing(EXCHANGE_UP, up_key(user, "samples"), name, "samples.v1", BODY)

    def turn(self) -> None:
        """Send what is not in flight, forget what is confirmed; what failed is sent again in another turn."""
        if not self.connection.connected:
            return
        now = time.monotonic()
        self.back_at = self.back_at or now
        for name, future in list(self.in_flight.items()):
            if future.done():
                del self.in_flight[name]
                if future.exception() is None:
                    self.outbox.pop(name, None)
        for name, message in self.outbox.items():
            if name not in self.in_flight:
                with contextlib.suppress(PublishFailed):
                    self.in_flight[name] = self.publisher.send(message)
        if not self.outbox:
            self.drained_at = self.drained_at or now


def serve(pipe: Pipe, urls: list[str], *, jitter: bool) -> None:
    """Be the devices of these URLs until the pipe says so: connect, then rounds of accepting, and of telling how it went."""
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(logging.CRITICAL))
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (min(hard, 65_536) if hard > 0 else soft, hard))
    before = rss_bytes()
    devices = [
        Device(
            Connection(
                BrokerSettings.from_url(url),
                name="device",
                metrics=BrokerMetrics(CollectorRegistry()),
                backoff=Backoff() if jitter else Fixed(),
            )
        )
        for url in urls
    ]
    for device in devices:
        device.connection.start()
    for device in devices:
        device.connection.wait_connected(120)
    pipe.send((rss_bytes() - before) / len(devices))
    while (order := _next_order(pipe, devices)) is not None:
        what, count, mark = order
        if what == "accept":
            for device in devices:
                device.accept(count, mark)
            pipe.send([name for device in devices for name in device.outbox])
        elif what == "away":
            away = all(not device.connection.connected for device in devices)
            if away:  # what was noted before a device had noticed the outage is not its return
                for device in devices:
                    device.back_at = device.drained_at = None
            pipe.send(away)
        else:
            pipe.send([(device.back_at, device.drained_at) for device in devices])
    for device in devices:
        device.connection.stop()


def _next_order(pipe: Pipe, devices: list[Device]) -> tuple[str, int, str] | None:
    """Work until an order comes; None: the end."""
    while True:
        for device in devices:
            device.turn()
        if pipe.poll(0.02):
            break
    order: tuple[str, int, str] | None = pipe.recv()
    return order
