"""What the broker itself tells by its management API: all there is where nothing else was set up."""

import time
from collections.abc import Callable, Iterable, Mapping
from typing import Any

from broker.errors import ManagementError
from broker.management import Management
from broker.names import is_inbox
from monitoring.exporter.broker.oldest_age import QueueHistory
from monitoring.exporter.broker.reading import COLUMNS, INBOX_COLUMNS, WATCHED_QUEUES
from monitoring.top.snapshot import UNKNOWN_NAME, FleetState, QueueState, WorkerState

RATES = ("message_stats.publish_details.rate", "message_stats.ack_details.rate")
LISTING_SHARE = 0.1
"""Of the time, so much is spent at most with the broker's listing its inboxes, which it does for thousands of them slowly."""
MAX_WORKERS = 64
"""So many are asked for by name; each costs the broker a call, once."""


class BrokerSource:
    """The queues, their consumers and the inboxes of one virtual host.

    clock: monotonic seconds, for the ages of messages, which only several looks can tell.

    Every method raises ManagementError when the API does not answer, ValueError when it answers something else.
    """

    def __init__(
        self, management: Management, vhost: str, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._management = management
        self._vhost = vhost
        self._clock = clock
        self._histories = {name: QueueHistory() for name in WATCHED_QUEUES}
        self._looked = False
        self._names: dict[str, str] = {}
        self._fleet: FleetState | None = None
        self._fleet_unknown: str | None = None
        self._list_at = float("-inf")

    def describe(self) -> tuple[str, list[str]]:
        """Which broker it is, and what is wrong with its nodes."""
        version = str(self._management.overview().get("rabbitmq_version", "unknown"))
        wrong = [problem for node in self._management.nodes() for problem in _problems(node)]
        return f"RabbitMQ {version} at {self._management.url}, vhost {self._vhost}", wrong

    def queues(self) -> tuple[tuple[QueueState, ...], list[str]]:
        """The federation's queues in its order, and which are missing."""
        listed = self._management.queues_named(self._vhost, WATCHED_QUEUES, (*COLUMNS, *RATES))
        found = {str(queue["name"]): queue for queue in listed}
        queues = tuple(self._queue(found[name]) for name in WATCHED_QUEUES if name in found)
        self._looked = True
        return queues, [
            f"the queue {name} is missing: run `collafuse broker init`"
            for name in WATCHED_QUEUES
            if name not in found
        ]

    def fleet(self) -> tuple[FleetState | None, list[str]]:
        """The devices by their inboxes, as the broker listed them last; None, and why, when it does not list them in time.

        It raises nothing: of very many inboxes a broker does not tell within the time of a call, and tells of all else.
        """
        begun = self._clock()
        if begun >= self._list_at:
            try:
                listed = self._management.queues(self._vhost, INBOX_COLUMNS)
                self._fleet = _fleet(queue for queue in listed if is_inbox(str(queue["name"])))
                self._fleet_unknown = None
            except ManagementError as error:
                self._fleet = None
                self._fleet_unknown = (
                    f"the broker does not list its inboxes in time, the exporter (--metrics) knows: {error}"
                )
            ended = self._clock()
            self._list_at = ended + (ended - begun) / LISTING_SHARE
        return self._fleet, [] if self._fleet_unknown is None else [self._fleet_unknown]

    def workers(self) -> tuple[WorkerState, ...]:
        """Who reads the federation's queues, by connection."""
        reading: dict[str, list[str]] = {}
        for name in WATCHED_QUEUES:
            queue = self._management.queue(self._vhost, name) or {}
            for consumer in queue.get("consumer_details") or ():
                channel = consumer.get("channel_details") or {}
                reading.setdefault(str(channel.get("connection_name") or "unknown"), []).append(name)
        self._names = {link: name for link, name in self._names.items() if link in reading}
        return tuple(
            WorkerState(self._name(link), link.partition(" -> ")[0], tuple(dict.fromkeys(queues)))
            for link, queues in sorted(reading.items(), key=lambda each: each[1])
        )

    def _queue(self, queue: Mapping[str, Any]) -> QueueState:
        name, depth = str(queue["name"]), _whole(queue, "messages")
        counted = queue.get("message_stats") or {}
        age_seconds = self._histories[name].observe(self._clock(), counted.get("publish"), depth)
        return QueueState(
            name,
            _whole(queue, "messages_ready"),
            _whole(queue, "messages_unacknowledged"),
            _rate(counted, "publish"),
            _rate(counted, "ack"),
            # What stood there at the first look is older than the look, nobody knows by how much.
            age_seconds if self._looked or depth == 0 else None,
            _whole(queue, "consumers"),
        )

    def _name(self, link: str) -> str:
        """What a connection calls itself; asked for once."""
        if link not in self._names:
            if len(self._names) >= MAX_WORKERS:
                return UNKNOWN_NAME
            connection = self._management.connection(link) or {}
            properties = connection.get("client_properties") or {}
            told = properties.get("connection_name") or connection.get("user_provided_name")
            self._names[link] = str(told or connection.get("user") or UNKNOWN_NAME)
        return self._names[link]


def _fleet(inboxes: Iterable[Mapping[str, Any]]) -> FleetState:
    listed = list(inboxes)
    depths = [(_whole(queue, "messages"), str(queue["name"]).removeprefix("inbox.")) for queue in listed]
    fullest = max(depths, default=None)
    return FleetState(
        inboxes=len(listed),
        connected=sum(bool(queue.get("consumers")) for queue in listed),
        waiting=sum(messages for messages, _ in depths),
        fullest=None if fullest is None else (fullest[1], fullest[0]),
    )


def _problems(node: Mapping[str, Any]) -> Iterable[str]:
    name = node.get("name")
    if not node.get("running"):
        yield f"the node {name} is not running"
    if node.get("mem_alarm"):
        yield f"memory alarm on {name}: nothing is taken from publishers"
    if node.get("disk_free_alarm"):
        yield f"disk alarm on {name}: nothing is taken from publishers"
    if node.get("partitions"):
        yield f"the node {name} is cut off from others of its cluster"


def _whole(queue: Mapping[str, Any], name: str) -> int:
    """A queue that has only just been declared has no counts yet."""
    return int(queue.get(name) or 0)


def _rate(counted: Mapping[str, Any], name: str) -> float:
    """Per second, as the broker works it out over some seconds; what was never done is done at no rate."""
    return float((counted.get(f"{name}_details") or {}).get("rate") or 0.0)
