"""RabbitMQ's own metrics, served by its plugin rabbitmq_prometheus: how deep the queues of one node are, and how many read them.

This is the cheapest way to hear of thousands of queues, since RabbitMQ gives them as they lie in its tables. But a node knows the
queues that live on it, and no others; who wants those of a cluster asks every node.
"""

import re
import ssl
from dataclasses import dataclass
from types import TracebackType
from typing import Self

import httpx

from broker.errors import ManagementError

TIMEOUT_SECONDS = 2.0
_FAMILIES = ("queue_coarse_metrics", "queue_consumer_count")
_SAMPLE = re.compile(
    rb"^rabbitmq_detailed_queue_(messages|consumers)"
    rb'\{vhost="((?:[^"\\\n]|\\.)*)",queue="((?:[^"\\\n]|\\.)*)"[^\n]*\} (\d+)$',
    re.MULTILINE,
)


@dataclass(frozen=True)
class QueueDepth:
    """What one queue holds, ready or delivered and unacked, and how many consumers it has."""

    messages: int
    consumers: int


class NodeMetrics:
    """A client of one node's metrics; a context manager that closes its connection.

    Args:
        url: `http[s]://host:port`; the path /metrics may be there or not.
        tls: how https is checked; by the system's authorities if left out.
        timeout_seconds: for one call.

    Raises:
        ManagementError: if that is no URL of metrics.
    """

    def __init__(
        self, url: str, *, tls: ssl.SSLContext | None = None, timeout_seconds: float = TIMEOUT_SECONDS
    ) -> None:
        self.url = url.rstrip("/").removesuffix("/metrics")
        try:
            self._client = httpx.Client(
                base_url=self.url,
                verify=tls or True,
                timeout=timeout_seconds,
                # A node compresses its answer for who does not refuse it, and that costs it more than the way does.
                headers={"Accept-Encoding": "identity"},
            )
        except (httpx.InvalidURL, ValueError) as error:
            raise ManagementError(f"{url} is not the URL of a node's metrics: {error}") from error
        if self._client.base_url.scheme not in {"http", "https"}:
            raise ManagementError(f"{url} is not the URL of a node's metrics, http[s]://host:15692")

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Closes the connection."""
        self._client.close()

    def queues(self) -> dict[tuple[str, str], QueueDepth]:
        """Returns (vhost, name) → depth of the queues that live on this node, counts as of the last seconds.

        A queue of which the node has told nothing yet is missing: it was declared a moment ago. A name with a quote may come
        mutilated, for RabbitMQ 3.10 does not escape it.

        Raises:
            ManagementError: if the node does not answer, or with something else.
        """
        try:
            response = self._client.get("/metrics/detailed", params={"family": list(_FAMILIES)})
        except httpx.HTTPError as error:
            raise ManagementError(
                f"the metrics of RabbitMQ at {self.url} do not answer ({error}): is the plugin rabbitmq_prometheus enabled?"
            ) from error
        if not response.is_success:
            raise ManagementError(f"the metrics of RabbitMQ at {self.url} answered {response.status_code}")
        return _depths(response.content)


def _depths(text: bytes) -> dict[tuple[str, str], QueueDepth]:
    counts: dict[bytes, dict[tuple[bytes, bytes], int]] = {b"messages": {}, b"consumers": {}}
    for kind, vhost, name, value in _SAMPLE.findall(text):
        counts[kind][vhost, name] = int(value)
    readers = counts[b"consumers"]
    return {
        (vhost.decode("utf-8", "replace"), name.decode("utf-8", "replace")): QueueDepth(
            messages, readers.get((vhost, name), 0)
        )
        for (vhost, name), messages in counts[b"messages"].items()
    }
