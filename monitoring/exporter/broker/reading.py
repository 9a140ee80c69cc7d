"""What the exporter asks of RabbitMQ at a scrape, so that thousands of inboxes cost it little.

The management API works out many figures for every queue it is asked for, wanted or not, so it is asked for the queues of the
federation alone, one by one, and for how many queues there are. The inboxes come from each node's own metrics, if their URLs are
known. A node that does not answer, was forgotten, or has not told of every queue yet is noticed by that number, and then the
management API is asked for all of them: slower, and complete. With some ten thousand inboxes it is too slow; then nothing is
known of them for a while, and all of the federation's queues.
"""

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Self

import structlog

from broker.errors import ManagementError
from broker.management import Management
from broker.names import is_inbox
from broker.node_metrics import NodeMetrics, QueueDepth
from broker.topology import FEDERATION

WATCHED_QUEUES = tuple(queue.name for queue in FEDERATION.queues)

Queue = Mapping[str, Any]
"""One queue as the management API describes it."""

COLUMNS = (
    "name",
    "messages",
    "messages_ready",
    "messages_unacknowledged",
    "message_bytes",
    "consumers",
    "message_stats.publish",
    "message_stats.ack",
)
"""What is read of a queue; RabbitMQ leaves out the rest of its answer."""
INBOX_COLUMNS = ("name", "messages", "consumers")
"""What is read of an inbox."""
LISTED_AGAIN_SECONDS = 60.0
"""So long after the broker was too slow to list its queues it is not asked to again."""

_log = structlog.get_logger(__name__)


@dataclass(frozen=True)
class Inboxes:
    """All inboxes together.

    Attributes:
        count: how many there are.
        read: those with a consumer.
        messages: in all of them.
        messages_max: in the fullest.
    """

    count: int
    read: int
    messages: int
    messages_max: int

    @classmethod
    def of(cls, depths: Sequence[QueueDepth]) -> Self:
        """Adds every inbox up."""
        return cls(
            count=len(depths),
            read=sum(depth.consumers > 0 for depth in depths),
            messages=sum(depth.messages for depth in depths),
            messages_max=max((depth.messages for depth in depths), default=0),
        )


@dataclass(frozen=True)
class Reading:
    """What the broker told at one scrape: the federation's queues one by one, the inboxes together.

    inboxes: None when it could not list them in time.
    """

    queues: tuple[Queue, ...]
    inboxes: Inboxes | None


class BrokerReader:
    """Reads the queues of one vhost: with small requests to the API and one to each node's metrics, or a large one to the API.

    Args:
        management: the API of any node.
        vhost: the federation's.
        nodes: the metrics of every node of the cluster; without them the API is asked for all queues.
        clock: monotonic seconds.

    Attributes:
        missed: why the last reading asked the API for all queues although there are nodes' metrics; None when it did not.
    """

    def __init__(
        self,
        management: Management,
        vhost: str,
        nodes: Sequence[NodeMetrics] = (),
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._management = management
        self._vhost = vhost
        # The nodes may tell of such a name in another form, and then they would seem to have no queues of this vhost.
        self._nodes = () if {'"', "\\"} & set(vhost) else tuple(nodes)
        self._clock = clock
        self._list_at = float("-inf")
        self.missed: str | None = None

    def __call__(self) -> Reading:
        """Asks the broker.

        Raises:
            BrokerError: if it does not answer, refuses, or the answer makes no sense.
        """
        queues = self._management.queues_named(self._vhost, WATCHED_QUEUES, COLUMNS)
        inboxes = self._from_nodes() if self._nodes else None
        return Reading(tuple(queues), inboxes or self._from_api(must_answer=not queues))

    def _from_nodes(self) -> Inboxes | None:
        """The quick way; None when the nodes did not tell of every queue."""
        total = self._management.queue_total()
        depths: dict[tuple[str, str], QueueDepth] = {}
        missed: str | None = None
        try:
            for node in self._nodes:
                depths |= node.queues()
            if len(depths) != total:
                missed = f"the nodes' metrics tell of {len(depths)} queues, and there are {total}"
        except ManagementError as error:
            missed = str(error)
        self._note(missed)
        if missed is not None:
            return None
        return Inboxes.of(
            [depth for (vhost, name), depth in depths.items() if vhost == self._vhost and is_inbox(name)]
        )

    def _from_api(self, *, must_answer: bool) -> Inboxes | None:
        """The slow way; None when it is too slow.

        must_answer: raise instead; who told of none of our queues has not shown that it can tell anything.
        """
        if self._clock() < self._list_at and not must_answer:
            return None
        try:
            return inboxes_of(self._management.queues(self._vhost, INBOX_COLUMNS))
        except ManagementError as error:
            if must_answer:
                raise
            self._list_at = self._clock() + LISTED_AGAIN_SECONDS
            hint = {} if self._nodes else {"action": "name every node's own metrics in node_metrics_urls"}
            _log.warning(
                "inboxes_not_listed", error=str(error), again_in_seconds=LISTED_AGAIN_SECONDS, **hint
            )
            return None

    def _note(self, missed: str | None) -> None:
        """Logs when the quick way begins to fail, and when it works again."""
        if missed is not None and self.missed is None:
            _log.warning("node_metrics_incomplete", reason=missed)
        if missed is None and self.missed is not None:
            _log.info("node_metrics_complete_again")
        self.missed = missed


def inboxes_of(queues: Sequence[Queue]) -> Inboxes:
    """What the inboxes among them amount to."""
    return Inboxes.of(
        [
            QueueDepth(messages(queue), int(queue.get("consumers") or 0))
            for queue in queues
            if is_inbox(queue["name"])
        ]
    )


def messages(queue: Queue) -> int:
    """How many messages a queue holds; one that has only just been declared has no counts yet."""
    return int(queue.get("messages") or 0)
