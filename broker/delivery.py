"""One message on loan from the broker: what is in it, who sent it as far as that can be believed, and how its loan ends."""

import re
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Protocol

import pika
from pika.channel import Channel

from broker.codec import decode
from broker.contract.fields import MAX_SECONDS
from broker.contract.message import Message
from broker.errors import InvalidName, Refused
from broker.names import owned_client, split_user
from broker.publisher import PUBLISHED_AT_HEADER, Outgoing
from broker.topology import DELIVERY_LIMIT, QUEUE_DEAD

DEFAULT_EXCHANGE = ""
REASON_HEADER = "x-reason"
DETAIL_HEADER = "x-detail"
ORIGIN_HEADER = "x-origin-queue"
SENDER_HEADER = "x-origin-user"
FIRST_SEEN_HEADER = "x-first-seen-ms"
REPLAYED_HEADER = "x-replayed"
"""On a message that came back from the dead-letter queue: how often it did. SENDER_HEADER is beside it."""
DETAIL_LIMIT_CHARACTERS = 500
COUNT_HEADERS = ("x-delivery-count", "x-acquired-count")
"""How often a message was lent before, as the broker says from the second time on. Since RabbitMQ 4.3 the first counts only those
that were lost with a channel, the second those that a consumer gave back too; older ones count both in the first."""
LATEST_MS = 2**44
"""Unix milliseconds of the year 2527: a publisher that says later, or before 1970, has not said when it published."""
_TRACE_ID = re.compile(r"[0-9a-f]{32}")


class Lender(Protocol):
    """The consumer that a delivery came from."""

    queue_name: str

    def end(self, delivery: "Delivery", act: Callable[[Channel], None]) -> None:
        """End a delivery on its own channel."""

    def refuse(self, delivery: "Delivery", reason: str, detail: str) -> None:
        """Set a delivery aside."""


@dataclass(frozen=True, eq=False)
class Delivery:
    """One message on loan from the broker.

    user_id: who published it, as the broker validated it; None when the publisher did not say.
    routing_key: under which it was published.
    delivery_count: how often it was delivered before.
    published_at: the publisher's clock, unix seconds; None when it is not there, or no time.
    """

    body: bytes
    type: str
    message_id: str
    user_id: str | None
    correlation_id: str | None
    queue: str
    routing_key: str
    redelivered: bool
    delivery_count: int
    published_at: float | None
    headers: dict[str, Any]
    received_at: float
    _tag: int
    _channel: Channel
    _consumer: Lender

    @property
    def lag_seconds(self) -> float | None:
        """Seconds between publishing and receiving, by two machines' clocks; None when unknown, or more than a message waits."""
        if self.published_at is None or self.received_at - self.published_at > MAX_SECONDS:
            return None
        return max(0.0, self.received_at - self.published_at)

    @property
    def trace_id(self) -> str | None:
        """What the sender does this for, by its `correlation_id`: 32 hexadecimal digits, or None when it does not say.

        The sender's own word, and not validated by the broker: it may stand in a log, and decides nothing.
        """
        named = self.correlation_id
        return named if named is not None and _TRACE_ID.fullmatch(named) else None

    @property
    def is_last(self) -> bool:
        """Whether the broker sets the message aside, without a word to anybody, if this delivery is not ended well."""
        return self.delivery_count >= DELIVERY_LIMIT

    def message(self) -> Message:
        """What is inside, decoded and validated. Raises Refused with the reason, whatever the bytes."""
        return decode(self.type, self.body)

    def ack(self) -> None:
        """The work is durable: the broker may forget the message."""
        self._consumer.end(self, lambda channel: channel.basic_ack(self._tag))

    def requeue(self) -> None:
        """Back to the queue, for whoever takes it next. It counts towards the delivery limit."""
        self._consumer.end(self, lambda channel: channel.basic_nack(self._tag, requeue=True))

    def refuse(self, reason: str, detail: str) -> None:
        """Set the message aside with the reason: a confirmed copy stands in the dead-letter queue before this one goes.

        reason: a short constant code. detail: one sentence for the operator, cut at 500 characters.
        """
        self._consumer.refuse(self, reason, detail)


def expect_user(delivery: Delivery) -> tuple[str, str]:
    """(client, device) of the sender, from the user the broker validated. Raises Refused when it did not validate any.

    A message that was replayed from the dead-letter queue carries the operator's user, and its sender in SENDER_HEADER.
    """
    if delivery.user_id is None:
        raise Refused(
            "no_user_id", "the message carries no user_id, so the broker did not validate its sender"
        )
    sender = sender_of(delivery.user_id, delivery.headers)
    try:
        return split_user(delivery.user_id if sender is None else sender)
    except InvalidName as error:
        raise Refused("not_a_device", str(error)) from error


def sender_of(user_id: str | None, headers: Mapping[str, Any]) -> str | None:
    """The device's user that a message is from, or None when nobody vouches for one.

    user_id: as the broker validated it. A device or an owner is who it is, whatever its headers say; a user of the server, who
    may write to every queue, is believed when it names the device for which it puts a message back.
    """
    if user_id is None or not _is_of_the_server(user_id):
        return user_id
    named = headers.get(SENDER_HEADER)
    return named if isinstance(named, str) and is_device(named) else None


def is_device(user: str) -> bool:
    """Whether `user` has the form of a device's."""
    try:
        split_user(user)
    except InvalidName:
        return False
    return True


def replays_of(user_id: str | None, headers: Mapping[str, Any]) -> int:
    """How often a message was replayed, as a user of the server says; 0 when a device, an owner, or nobody says so."""
    if user_id is None or not _is_of_the_server(user_id):
        return 0
    count = headers.get(REPLAYED_HEADER)
    return max(0, count) if isinstance(count, int) else 0


def _is_of_the_server(user: str) -> bool:
    """Neither a device nor an owner: who may write to every queue, and is believed in what it says of others."""
    return not is_device(user) and owned_client(user) is None


def received(
    lender: Lender,
    channel: Channel,
    method: pika.spec.Basic.Deliver,
    properties: pika.BasicProperties,
    body: bytes,
) -> Delivery:
    """Returns what pika handed over, as a delivery."""
    headers: dict[str, Any] = properties.headers or {}
    return Delivery(
        body=body,
        type=_text(properties.type) or "",
        message_id=_text(properties.message_id) or "",
        user_id=_text(properties.user_id),
        correlation_id=_text(properties.correlation_id),
        queue=lender.queue_name,
        routing_key=_text(method.routing_key) or "",
        redelivered=method.redelivered,
        delivery_count=delivery_count(headers, redelivered=method.redelivered),
        published_at=_unix_seconds(headers.get(PUBLISHED_AT_HEADER)),
        headers=headers,
        received_at=time.time(),
        _tag=method.delivery_tag,
        _channel=channel,
        _consumer=lender,
    )


def delivery_count(headers: Mapping[str, Any], *, redelivered: bool) -> int:
    """How often a message was delivered before.

    The publisher may have written anything into these headers, of which the broker replaces the one it counts in. The larger
    is believed: so a message can be given up too soon by its own sender, and by nobody too late.
    """
    if not redelivered:
        return 0
    counts = (headers.get(name) for name in COUNT_HEADERS)
    return max([1, *(count for count in counts if isinstance(count, int))])


def dead_letter(delivery: Delivery, reason: str, detail: str) -> Outgoing:
    """The copy that the operator finds."""
    return Outgoing(
        exchange=DEFAULT_EXCHANGE,
        routing_key=QUEUE_DEAD,
        message_id=delivery.message_id,
        type=delivery.type,
        body=delivery.body,
        correlation_id=delivery.correlation_id,
        headers={
            REASON_HEADER: reason,
            DETAIL_HEADER: detail[:DETAIL_LIMIT_CHARACTERS],
            ORIGIN_HEADER: delivery.queue,
            SENDER_HEADER: sender_of(delivery.user_id, delivery.headers) or delivery.user_id or "",
            FIRST_SEEN_HEADER: int((delivery.published_at or delivery.received_at) * 1000),
            REPLAYED_HEADER: replays_of(delivery.user_id, delivery.headers),
        },
    )


def _unix_seconds(published_ms: object) -> float | None:
    """A time that a publisher wrote; what can be none counts as not given."""
    if not isinstance(published_ms, int) or not 0 <= published_ms <= LATEST_MS:
        return None
    return published_ms / 1000


def _text(value: str | bytes | None) -> str | None:
    """A property; what is not UTF-8 (pika leaves it as bytes) counts as not given."""
    return value if isinstance(value, str) else None
