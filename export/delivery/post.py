"""The owner's link to the broker: heads go out with confirms, reports come in."""

import contextlib
import uuid
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future

from prometheus_client import CollectorRegistry

from broker.address import BrokerSettings
from broker.codec import encode
from broker.connection import Connection
from broker.contract.message import Message
from broker.contract.telemetry import TelemetryV1
from broker.delivery import Delivery
from broker.errors import BrokerUnreachable, ConnectionLost, InvalidName, Refused
from broker.names import reports, split_user
from broker.publisher import Outgoing
from broker.topology import EXCHANGE_DOWN
from export.delivery.errors import DeliveryError
from export.delivery.parcel import Parcel
from monitoring.metrics import BrokerMetrics

IN_FLIGHT = 8
_CONNECT_SECONDS = 20.0
_PREFETCH = 64
_ATTEMPTS = 5
_ACCESS_REFUSED = 403
_NOT_FOUND = 404
_AT_ONCE = 256
_CONFIRM_SECONDS = 120.0
"""On a slow uplink, eight pieces are on their way for a while."""


class Post:
    """A connection as the owner of a client's devices; see `opened`."""

    def __init__(self, connection: Connection, client: str, *, with_reports: bool) -> None:
        self._client = client
        self._connection = connection
        self._publisher = connection.publisher(window=IN_FLIGHT, confirm_timeout_seconds=_CONFIRM_SECONDS)
        # Exclusive: two who shared the reports would each hear of half the devices.
        self._reports = (
            connection.consumer(reports(client), _PREFETCH, exclusive=True) if with_reports else None
        )

    def send(
        self,
        parcel: Parcel,
        key: str,
        ranges: Iterable[tuple[int, int]] | None = None,
        on_progress: Callable[[int], None] | None = None,
    ) -> None:
        """Announce a bundle, send these ranges of its pieces (all by default), and announce it again.

        The second announcement makes a device say at once what has not arrived.

        Args:
            parcel: the bundle.
            key: routing key on `collafuse.down`, of a device or of a client.
            ranges: of pieces, (begin, end).
            on_progress: told how many pieces are confirmed.

        Raises:
            PublishFailed: when the broker does not confirm a message; what was confirmed stands in the inboxes.
        """
        self.announce(parcel, key)
        waiting: deque[tuple[Outgoing, Future[None]]] = deque()
        done = 0
        for chunk in parcel.chunks(ranges):
            message = _outgoing(key, chunk)
            waiting.append((message, self._publisher.send(message)))
            if len(waiting) >= IN_FLIGHT:
                self._settle(*waiting.popleft())
                done += 1
                if on_progress is not None:
                    on_progress(done)
        for message, future in waiting:
            self._settle(message, future)
        if on_progress is not None:
            on_progress(done + len(waiting))
        self.announce(parcel, key)

    def announce(self, parcel: Parcel, key: str) -> None:
        """Ask how it stands with a bundle. Raises PublishFailed."""
        message = _outgoing(key, parcel.announcement)
        self._settle(message, self._publisher.send(message))

    def reports(self, timeout_seconds: float) -> Iterator[tuple[str, TelemetryV1]]:
        """What the client's devices say: (user, report), until none comes for `timeout_seconds`, and no more than 256.

        A report counts for the device whose user the broker validated, whatever it says of itself.
        """
        assert self._reports is not None
        for _ in range(_AT_ONCE):
            delivery = self._reports.get(timeout_seconds)
            if delivery is None:
                return
            found = self._judged(delivery)
            if found is not None:
                yield found
            delivery.ack()

    def _settle(self, message: Outgoing, future: Future[None]) -> None:
        """Wait for a confirm; what a lost link leaves in doubt is sent again, for devices know a repeat."""
        for _ in range(_ATTEMPTS):
            try:
                future.result()
            except ConnectionLost:
                self._connection.wait_connected(_CONNECT_SECONDS)
                future = self._publisher.send(message)
            else:
                return
        future.result()

    def _judged(self, delivery: Delivery) -> tuple[str, TelemetryV1] | None:
        try:
            message = delivery.message()
            client, _ = split_user(delivery.user_id or "")
        except (Refused, InvalidName):
            return None
        if client != self._client or not isinstance(message, TelemetryV1):
            return None
        return str(delivery.user_id), message


@contextlib.contextmanager
def opened(
    broker: BrokerSettings, client: str, *, with_reports: bool, patience_seconds: float = _CONNECT_SECONDS
) -> Iterator[Post]:
    """Connect as the owner of `client`'s devices; the link comes back by itself when it is lost.

    Raises:
        BrokerUnreachable: when it cannot be used within `patience_seconds`.
        DeliveryError: when there are no reports to read, or somebody else reads them.
    """
    connection = Connection(broker, name=f"owner-{client}", metrics=BrokerMetrics(CollectorRegistry()))
    post = Post(connection, client, with_reports=with_reports)
    connection.start()
    try:
        try:
            connection.wait_connected(patience_seconds)
        except BrokerUnreachable as error:
            raise _in_words(connection.refused_with, client) or error from error
        yield post
    finally:
        connection.stop()


def _in_words(refused_with: int | None, client: str) -> DeliveryError | None:
    """What the broker's refusal to let the owner read its reports means."""
    if refused_with == _NOT_FOUND:
        return DeliveryError(
            f"the broker keeps no reports of the devices of {client}: its operator makes the queue anew with"
            f" `collafuse broker owner {client} --reports`"
        )
    if refused_with == _ACCESS_REFUSED:
        return DeliveryError(
            f"somebody else reads the reports of the devices of {client}, or this user may not: wait until the other"
            f" rollout of {client} has ended, or end it"
        )
    return None


def _outgoing(key: str, message: Message) -> Outgoing:
    return Outgoing(
        exchange=EXCHANGE_DOWN,
        routing_key=key,
        message_id=uuid.uuid4().hex,
        type=message.type_name,
        body=encode(message),
    )
