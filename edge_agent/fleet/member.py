"""One agent of a simulated fleet: the real one, with a link that comes and goes and images that turn up through the day."""

import contextlib
import time
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import structlog
from prometheus_client import CollectorRegistry

from broker.backoff import Backoff
from broker.connection import Connection
from edge_agent import status
from edge_agent.agent import Agent, Parts
from edge_agent.errors import OutboxFull, SpoolError
from edge_agent.fleet.account import Tally
from edge_agent.fleet.links import LinkSchedule
from edge_agent.link import outbox
from edge_agent.release import contribution
from edge_agent.release.images import Image
from edge_agent.settings import EdgeSettings
from edge_agent.storage import counters
from monitoring.errors import Disposition
from monitoring.metrics import BrokerMetrics

log = structlog.get_logger(__name__)

FULL_DISK_SECONDS = 2.0


@dataclass(frozen=True)
class Assignment:
    """Who a simulated device is and what it does: `images` of `shape` (C, H, W) turn up evenly through the day."""

    settings: EdgeSettings
    link: LinkSchedule
    images: int
    shape: tuple[int, int, int]

    def connection(self, longest_wait_seconds: float) -> Connection:
        """The device's link to the broker, which does not begin by itself while its schedule says that it is down."""
        broker = self.settings.broker()
        connection = Connection(
            broker,
            name=f"edge-{broker.user}",
            metrics=BrokerMetrics(CollectorRegistry()),
            backoff=Backoff(limit_seconds=longest_wait_seconds),
        )
        if not self.link.is_up(0.0):
            connection.pause()
        return connection


@dataclass(frozen=True)
class DrawnImage:
    """An image source of a single picture of noise, the same for the same device and number."""

    assignment: Assignment
    number: int

    def __len__(self) -> int:
        return 1

    def __iter__(self) -> Iterator[Image]:
        link = self.assignment.link
        rng = np.random.default_rng((link.seed, link.device, self.number))
        x0 = rng.uniform(-1, 1, self.assignment.shape).astype(np.float32)
        yield Image(f"simulated image {self.number} of device {link.device}", x0, None)


class Member:
    """Drives one agent by turns; all of them in the thread that assembled it.

    secret: the device's, from which its noise is drawn.
    """

    def __init__(self, assignment: Assignment, parts: Parts, agent: Agent, secret: bytes) -> None:
        self._assignment = assignment
        self._parts = parts
        self._agent = agent
        self._secret = secret
        self._up = assignment.link.is_up(0.0)
        self._begun = self._attempted = self._refused = 0
        self._reconnected = int(self._up)
        self._drained_seconds: float | None = None
        self._not_before = 0.0

    def turn(self, world_second: float, share: float) -> None:
        """Follow the link, release the images that have turned up by now, and let the agent do what it does.

        Args:
            world_second: of the simulated world; inf when the links are to stand for good.
            share: of the day that has passed, 0 to 1; so much of the images is there.
        """
        self._follow_link(np.isinf(world_second) or self._assignment.link.is_up(world_second))
        if time.monotonic() < self._not_before:
            return
        try:
            if self._begun < int(share * self._assignment.images + 0.5):
                self._contribute()
            self._agent.turn(wait_seconds=0)
        except SpoolError as error:
            if error.disposition is not Disposition.RETRY:
                raise
            self._not_before = time.monotonic() + FULL_DISK_SECONDS
            log.warning("spool_full", user=self._parts.connection.user, error=str(error))

    def look(self, opened_at: float | None) -> Tally:
        """How it stands; `opened_at` is when all links were opened, on the monotonic clock, None before."""
        spool = self._parts.spool
        waiting, stored = outbox.load(spool).messages, status.receipt_count(spool)
        released = self._begun == self._assignment.images
        done = released and waiting == 0 and stored >= self._attempted
        if opened_at is not None and done and self._drained_seconds is None:
            self._drained_seconds = time.monotonic() - opened_at
        return Tally(
            device=self._assignment.link.device,
            link=self._assignment.link.kind,
            attempted=self._attempted,
            refused=self._refused,
            waiting=waiting,
            stored=stored,
            duplicated=counters.value(spool, "duplicate"),
            reconnected=self._reconnected,
            drained_seconds=self._drained_seconds,
        )

    def _follow_link(self, up: bool) -> None:
        if up == self._up:
            return
        self._up = up
        connection = self._parts.connection
        if up:
            self._reconnected += 1
            connection.resume()
        elif self._assignment.link.abrupt:
            connection.cut()
            connection.pause()
        else:
            connection.pause()

    def _contribute(self) -> None:
        source = DrawnImage(self._assignment, self._begun)
        self._begun += 1
        with contextlib.suppress(OutboxFull):
            summary = contribution.contribute(
                self._parts.spool, source, self._secret, self._assignment.settings
            )
            self._attempted += summary.batches
            self._parts.relay.wake()
            return
        self._refused += 1
