"""What there is to see at one moment: queues, workers and the fleet, whoever told of them."""

import math
from collections.abc import Mapping
from dataclasses import dataclass, field

UNKNOWN_NAME = "?"
"""Of a process that does not say what it is."""


@dataclass(frozen=True)
class QueueState:
    """One queue of the federation.

    ready, unacked: messages that wait, and that a consumer holds.
    in_per_second, out_per_second: published to it and acknowledged, of late; None when not known yet.
    oldest_seconds: the oldest message has waited so long at least; None when not known yet.
    """

    name: str
    ready: int
    unacked: int
    in_per_second: float | None
    out_per_second: float | None
    oldest_seconds: float | None
    consumers: int

    @property
    def drain_seconds(self) -> float | None:
        """When nothing would wait in it, as things go now: infinite while it does not shrink, None when that is not known yet."""
        if self.ready == 0:
            return 0.0
        if self.in_per_second is None or self.out_per_second is None:
            return None
        shrinks_per_second = self.out_per_second - self.in_per_second
        return self.ready / shrinks_per_second if shrinks_per_second > 0 else math.inf


@dataclass(frozen=True)
class WorkerState:
    """One process.

    name: what it calls itself.  where: host and port of its link to the broker, or the URL of its metrics.
    told: what it says of itself, by name.  problem: why it says nothing.
    """

    name: str
    where: str
    queues: tuple[str, ...] = ()
    told: Mapping[str, str] = field(default_factory=dict)
    problem: str | None = None


@dataclass(frozen=True)
class FleetState:
    """The devices.

    inboxes: enrolled devices.  connected: of them, those that read their inbox now.  waiting: messages in all inboxes.
    fullest: user and messages of the fullest inbox; its user is "" where the source does not name it, None for no inboxes.
    told: what the devices say of themselves, by name.
    """

    inboxes: int
    connected: int
    waiting: int
    fullest: tuple[str, int] | None
    told: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Snapshot:
    """Everything, as far as somebody told it.

    at: unix seconds.  broker: version and place, for people; None when no broker was asked.
    problems: what went wrong, or is wrong with the broker, one line each.
    """

    at: float
    broker: str | None
    queues: tuple[QueueState, ...]
    workers: tuple[WorkerState, ...]
    fleet: FleetState | None
    problems: tuple[str, ...]
