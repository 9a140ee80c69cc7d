"""What Prometheus is to know of the broker's queues, read afresh at every scrape.

The queues of the federation are labelled one by one; the inboxes, of which there is one per device, are
only counted and summed, so that the number of time series does not grow with the fleet. A broker that does
not answer is a fact to report, not a failure of the exporter: `collafuse_broker_up` becomes 0 and the
scrape succeeds.
"""

import threading
import time
from collections.abc import Callable, Iterable, Mapping

import structlog
from prometheus_client import Metric
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily
from prometheus_client.registry import Collector

from broker.errors import BrokerError
from monitoring.exporter.broker.oldest_age import QueueHistory
from monitoring.exporter.broker.reading import WATCHED_QUEUES, Inboxes, Queue, Reading, messages

Family = GaugeMetricFamily | CounterMetricFamily

_log = structlog.get_logger(__name__)


class BrokerCollector(Collector):
    """Turns what the broker tells into metrics.

    Args:
        read: asks the broker; a `BrokerError` or a `ValueError` says that it cannot or that the answer makes no sense.
        clock: a monotonic clock in seconds, for the ages of messages.
    """

    def __init__(self, read: Callable[[], Reading], clock: Callable[[], float] = time.monotonic) -> None:
        self._read = read
        self._clock = clock
        self._lock = threading.Lock()
        self._histories: dict[str, QueueHistory] = {name: QueueHistory() for name in WATCHED_QUEUES}
        self._up: bool | None = None

    def describe(self) -> Iterable[Metric]:
        """The metrics without samples: what registering needs, without asking the broker."""
        return [*_families().values()]

    def collect(self) -> Iterable[Metric]:
        """Ask the broker and give every metric; two scrapes at once wait for each other."""
        with self._lock:
            families = _families()
            begin = self._clock()
            reading = self._reading()
            if reading is not None:
                for queue in reading.queues:
                    self._add_queue(families, queue)
                if reading.inboxes is not None:
                    _add_inboxes(families, reading.inboxes)
            families["up"].add_metric([], float(reading is not None))
            families["read"].add_metric([], self._clock() - begin)
            return [*families.values()]

    def _reading(self) -> Reading | None:
        try:
            reading = self._read()
        except (BrokerError, ValueError) as error:
            if self._up is not False:
                _log.warning("broker_unreachable", error=str(error))
            self._up = False
            return None
        if self._up is False:
            _log.info("broker_reachable_again")
        self._up = True
        return reading

    def _add_queue(self, families: Mapping[str, Family], queue: Queue) -> None:
        name = queue["name"]
        statistics = queue.get("message_stats") or {}
        published, acknowledged = statistics.get("publish"), statistics.get("ack")
        age = self._histories[name].observe(self._clock(), published, messages(queue))
        families["messages"].add_metric([name, "ready"], queue.get("messages_ready") or 0)
        families["messages"].add_metric([name, "unacked"], queue.get("messages_unacknowledged") or 0)
        families["bytes"].add_metric([name], queue.get("message_bytes") or 0)
        families["consumers"].add_metric([name], queue.get("consumers") or 0)
        families["age"].add_metric([name], age)
        families["published"].add_metric([name], published or 0)
        families["acknowledged"].add_metric([name], acknowledged or 0)


def _add_inboxes(families: Mapping[str, Family], inboxes: Inboxes) -> None:
    families["inboxes"].add_metric([], inboxes.count)
    families["inboxes_read"].add_metric([], inboxes.read)
    families["inbox_messages"].add_metric([], inboxes.messages)
    families["inbox_messages_max"].add_metric([], inboxes.messages_max)


def _families() -> dict[str, Family]:
    return {
        "up": GaugeMetricFamily(
            "collafuse_broker_up", "1 when the broker's management API answered this scrape."
        ),
        "read": GaugeMetricFamily(
            "collafuse_broker_read_seconds",
            "How long the broker took to describe its queues, at this scrape.",
        ),
        "messages": GaugeMetricFamily(
            "collafuse_queue_messages",
            "Messages in the queue: ready, or delivered and unacked.",
            labels=["queue", "state"],
        ),
        "bytes": GaugeMetricFamily(
            "collafuse_queue_message_bytes", "Bytes of the bodies of those messages.", labels=["queue"]
        ),
        "consumers": GaugeMetricFamily(
            "collafuse_queue_consumers", "Consumers that read the queue.", labels=["queue"]
        ),
        "age": GaugeMetricFamily(
            "collafuse_queue_oldest_message_age_seconds",
            "At least how long the oldest message has waited, to within one scrape interval.",
            labels=["queue"],
        ),
        "published": CounterMetricFamily(
            "collafuse_queue_published_total", "Messages ever published to the queue.", labels=["queue"]
        ),
        "acknowledged": CounterMetricFamily(
            "collafuse_queue_acknowledged_total", "Messages ever acknowledged by consumers.", labels=["queue"]
        ),
        "inboxes": GaugeMetricFamily("collafuse_inboxes", "Inboxes, one per enrolled device."),
        "inboxes_read": GaugeMetricFamily(
            "collafuse_inboxes_read", "Inboxes with a consumer: devices connected now."
        ),
        "inbox_messages": GaugeMetricFamily("collafuse_inbox_messages", "Messages in all inboxes together."),
        "inbox_messages_max": GaugeMetricFamily(
            "collafuse_inbox_messages_max", "Messages in the fullest inbox."
        ),
    }
