"""What was found out about a broker: plain data, filled in by `inspection` and judged by `findings`.

None stands for what could not be found out, never for zero or nothing.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

QueueState = Literal["ok", "missing", "other arguments", "unknown"]

ALARM = "the broker is in alarm and takes no messages"
"""Why a probe did not pass that the broker did not take at all."""


@dataclass(frozen=True)
class Link:
    """What the broker said while we connected, over AMQP alone.

    version, erlang, cluster: as the broker calls them.
    channel_max, frame_max_bytes, heartbeat_seconds: as negotiated.
    encrypted, loopback: of our own connection.
    certificate_days: for so long the broker's certificate is still good; None for an unencrypted connection.
    """

    version: str
    erlang: str
    cluster: str
    channel_max: int
    frame_max_bytes: int
    heartbeat_seconds: int
    encrypted: bool
    loopback: bool
    certificate_days: float | None = None


@dataclass(frozen=True)
class Probe:
    """Whether a message of the largest size passes; `detail` says why not."""

    size_bytes: int
    passed: bool
    detail: str = ""


@dataclass(frozen=True)
class Load:
    """What waits in a queue to be taken, and how many read it."""

    ready: int
    consumers: int


@dataclass(frozen=True)
class Node:
    """One member of the cluster. Sizes in bytes; a node that does not run tells nothing but its name."""

    name: str
    running: bool
    memory_limit: int | None = None
    memory_used: int | None = None
    memory_alarm: bool = False
    disk_free_limit: int | None = None
    disk_free: int | None = None
    disk_alarm: bool = False
    files_limit: int | None = None
    files_used: int | None = None
    partitions: tuple[str, ...] = ()
    plugins: frozenset[str] = frozenset()


@dataclass(frozen=True)
class Listener:
    """An open port of a node."""

    node: str
    protocol: str
    address: str
    port: int


@dataclass(frozen=True)
class Rights:
    """Patterns of one user in one vhost; `exchange` is set for topic rights, which have no `configure`."""

    user: str
    vhost: str
    write: str
    read: str
    configure: str = ""
    exchange: str | None = None


@dataclass(frozen=True)
class User:
    """One user; `limits` by their RabbitMQ names."""

    name: str
    tags: tuple[str, ...]
    has_password: bool
    limits: Mapping[str, int]


@dataclass(frozen=True)
class Queue:
    """A queue of the federation, or a device's inbox.

    members, online: nodes that hold a quorum queue, and those of them that are there.
    stuck: messages on their way to the dead-letter queue.
    """

    name: str
    arguments: Mapping[str, Any]
    members: tuple[str, ...] = ()
    online: tuple[str, ...] = ()
    stuck: int = 0


@dataclass(frozen=True)
class Managed:
    """What the management API says. `users` and the rights need the tag `administrator`, and are None without it."""

    version: str
    nodes: tuple[Node, ...]
    listeners: tuple[Listener, ...]
    queues: tuple[Queue, ...]
    missing_bindings: tuple[str, ...]
    users: tuple[User, ...] | None
    rights: tuple[Rights, ...] | None
    topic_rights: tuple[Rights, ...] | None
    vhost_limits: Mapping[str, int]
    deprecated: tuple[str, ...]
    clock_ahead_seconds: float | None


@dataclass(frozen=True)
class Facts:
    """All of it.

    topology: state of each exchange and queue of the federation, by name.
    loads: of each queue of the federation that tells, by name.
    guest: whether `guest` with its default password may log in.
    unmanaged: why the management API told nothing, where it did not.
    """

    broker: str
    vhost: str
    link: Link
    probe: Probe
    topology: Mapping[str, QueueState]
    loads: Mapping[str, Load]
    guest: bool | None
    managed: Managed | None
    unmanaged: str | None
