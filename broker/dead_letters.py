"""The dead-letter queue as its operator works on it: what was set aside, by whom and why, and back to where it came from.

Letters come in two kinds. Our consumers publish a copy under the name of a worker, with headers that say why. The broker itself
sets aside what expired or came back too often: that message still has the user of its device and every header that the device
chose, so none of those is believed. Of RabbitMQ's own record only the newest entry of `x-death` is: a device may have sent
older ones along, and `x-first-death-queue` with them.
"""

import datetime
import hashlib
import re
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from types import TracebackType
from typing import Any, Self

import pika
from pika.exceptions import (
    AMQPError,
    ChannelClosedByBroker,
    ConnectionBlockedTimeout,
    NackError,
    UnroutableError,
)

from broker.codec import decode
from broker.consumer import (
    DEFAULT_EXCHANGE,
    DETAIL_HEADER,
    FIRST_SEEN_HEADER,
    ORIGIN_HEADER,
    REASON_HEADER,
    REPLAYED_HEADER,
    SENDER_HEADER,
    is_device,
    replays_of,
    sender_of,
)
from broker.errors import (
    Blocked,
    BrokerUnreachable,
    ConfigError,
    Nacked,
    PublishFailed,
    Refused,
    Unroutable,
)
from broker.foreign_headers import make_harmless
from broker.messages import DenoiseV1
from broker.names import split_user
from broker.parameters import connection_parameters
from broker.publisher import PERSISTENT, PUBLISHED_AT_HEADER
from broker.settings import BrokerSettings
from broker.topology import QUEUE_DEAD, QUEUE_SAMPLES, WORK_QUEUES

BLOCKED_TIMEOUT_SECONDS = 15.0
KEY_CHARACTERS = 12
UNKNOWN_REASON = "unknown"
_EXPIRATION = re.compile(r"[0-9]{1,9}")

PAYLOAD_REASONS = frozenset(
    {
        "not_msgpack",
        "not_a_map",
        "repeated_key",
        "too_complex",
        "bad_array",
        "unknown_type",
        "wrong_type",
        "wrong_message_id",
    }
)
"""The message itself is at fault: it would be refused again, whatever is mended here."""

UNANSWERED_REASONS = frozenset({"delivery_limit", "unknown_version"})
"""Of a request that was set aside for any other reason the device has been told, or it has given up by itself."""


@dataclass(frozen=True)
class Letter:
    """What is known of one letter, and believed.

    key: twelve hex digits that stay the same from one look to the next.
    message_id, type: as the publisher wrote them; anything at all.
    reason: a code of ours, or of RabbitMQ's (`delivery_limit`, `expired`, `rejected`, `maxlen`).
    detail: one line for a person, None when the broker set the message aside.
    origin: the queue it was set aside from.
    sender: the device's user, as the broker validated it; None when nobody vouches for one.
    by_broker: whether the broker set it aside, and not a consumer.
    set_aside_at, first_seen_at: unix seconds; None when unknown.
    expiration: the milliseconds it had to live in its queue, when it had any.
    replayed: how often it was replayed before.
    """

    key: str
    message_id: str
    type: str
    reason: str
    detail: str | None
    origin: str | None
    sender: str | None
    by_broker: bool
    set_aside_at: float | None
    first_seen_at: float | None
    expiration: str | None
    replayed: int
    size_bytes: int

    def age_seconds(self, now: float) -> float | None:
        """Seconds since it was set aside; `now` in unix seconds."""
        return None if self.set_aside_at is None else max(0.0, now - self.set_aside_at)

    @property
    def obstacle(self) -> str | None:
        """Why it cannot be replayed at all, or None."""
        if self.sender is None:
            return "its sender was never validated"
        if self.origin not in WORK_QUEUES:
            return "it does not come from a work queue"
        return None


@dataclass(frozen=True)
class Wanted:
    """Which letters are meant: those that agree with everything that is given.

    names: message ids or keys; None for all.
    """

    names: frozenset[str] | None = None
    reason: str | None = None
    client: str | None = None
    device: str | None = None
    queue: str | None = None

    def takes(self, letter: Letter) -> bool:
        """Says whether `letter` is meant."""
        client, device = (None, None) if letter.sender is None else split_user(letter.sender)
        return (
            (self.names is None or bool(self.names & {letter.key, letter.message_id}))
            and self.reason in (None, letter.reason)
            and self.client in (None, client)
            and self.device in (None, device)
            and self.queue in (None, letter.origin)
        )


@dataclass(frozen=True, eq=False)
class Held:
    """A letter on loan: until it is ended, nobody else sees it, and it returns by itself."""

    letter: Letter
    body: bytes
    properties: pika.BasicProperties
    tag: int


def read(properties: pika.BasicProperties, body: bytes) -> Letter:
    """Returns what may be believed of a message in the dead-letter queue. Never raises, whatever is in the headers."""
    headers: Mapping[str, Any] = properties.headers or {}
    death = _newest_death(headers)
    user = _text(properties.user_id)
    by_consumer = user is not None and not is_device(user) and _text(headers.get(REASON_HEADER)) is not None
    if by_consumer:
        reason, detail = headers[REASON_HEADER], _text(headers.get(DETAIL_HEADER))
        origin, set_aside_at = _text(headers.get(ORIGIN_HEADER)), _seconds(headers.get(PUBLISHED_AT_HEADER))
        first_seen_at = _seconds(headers.get(FIRST_SEEN_HEADER))
    else:
        reason, detail = _text(death.get("reason")) or UNKNOWN_REASON, None
        origin, set_aside_at = _text(death.get("queue")), _moment(death.get("time"))
        first_seen_at = _seconds(headers.get(PUBLISHED_AT_HEADER))
    sender = sender_of(user, headers)
    message_id, type_name = _text(properties.message_id) or "", _text(properties.type) or ""
    identity = (message_id, type_name, user, reason, origin, sender, set_aside_at, first_seen_at)
    return Letter(
        key=hashlib.sha256(repr(identity).encode() + body).hexdigest()[:KEY_CHARACTERS],
        message_id=message_id,
        type=type_name,
        reason=reason,
        detail=detail,
        origin=origin,
        sender=sender,
        by_broker=not by_consumer,
        set_aside_at=set_aside_at,
        first_seen_at=first_seen_at,
        expiration=_milliseconds(death.get("original-expiration")),
        replayed=replays_of(user, headers),
        size_bytes=len(body),
    )


def why_skipped(held: Held, now: float) -> str | None:
    """Returns why a replay of everything leaves this letter where it is, or None. Named, it is replayed all the same.

    A request is of use only while its device waits for the answer: a late one is dropped there, and counted.
    """
    letter = held.letter
    if letter.reason in PAYLOAD_REASONS:
        return "the message itself is at fault"
    if letter.origin == QUEUE_SAMPLES:
        return None
    if letter.reason not in UNANSWERED_REASONS:
        return "its device does not wait for it any more"
    try:
        request = decode(letter.type, held.body)
    except Refused:
        return None
    age_seconds = letter.age_seconds(now)
    if not isinstance(request, DenoiseV1) or request.ttl_seconds is None or age_seconds is None:
        return None
    return "its time to live has passed" if age_seconds > request.ttl_seconds else None


class DeadLetters:
    """The dead-letter queue of one broker, on a connection of its own; a context manager.

    settings: a server-side user; it may not be a device's, for its word on whom a replayed message is from is believed.

    Letters that are looked at and not ended return to the queue, in the order in which they were read. Nothing is held here but
    one body at a time.

    Raises:
        BrokerUnreachable: by every method, if the broker cannot be used.
        ConfigError: if the user is a device's.
    """

    def __init__(self, settings: BrokerSettings) -> None:
        if is_device(settings.user):
            raise ConfigError(
                f"user {settings.user!r} has the form of a device's, <client>_<device>: take a user without an underscore"
            )
        make_harmless()
        self._settings = settings
        self._held: dict[int, None] = {}
        parameters = connection_parameters(settings, name="collafuse broker dead")
        parameters.blocked_connection_timeout = BLOCKED_TIMEOUT_SECONDS
        with self._translated():
            self._connection = pika.BlockingConnection(parameters)
            self._channel = self._connection.channel()
            self._channel.confirm_delivery()
            found = self._channel.queue_declare(QUEUE_DEAD, passive=True)
        self.total = int(found.method.message_count)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Gives back what was not ended, and closes the connection."""
        if not self._connection.is_open:
            return
        with self._translated():
            # One by one: what a closing connection gives back all at once returns in no order.
            for tag in self._held:
                self._channel.basic_nack(tag, requeue=True)
            self._held.clear()
            self._connection.close()

    def letters(self, wanted: Wanted) -> Iterator[Held]:
        """Yields the letters that are meant, each at most once, of those that were there when the connection was opened."""
        for _ in range(self.total):
            with self._translated():
                method, properties, body = self._channel.basic_get(QUEUE_DEAD)
            if method is None:
                return
            self._held[method.delivery_tag] = None
            held = Held(read(properties, body), body, properties, method.delivery_tag)
            del properties, body
            if wanted.takes(held.letter):
                yield held

    def replay(self, held: Held) -> None:
        """Puts a copy into the queue the letter was set aside from, and takes the letter away once the broker has the copy.

        Between the two it may exist twice, never not at all; a repeat is recognised by its message id.

        Raises:
            ValueError: if the letter has an obstacle.
            PublishFailed: if the broker does not take the copy; the letter stays.
        """
        if held.letter.obstacle is not None:
            raise ValueError(held.letter.obstacle)
        self._publish(held)
        self.drop(held)

    def drop(self, held: Held) -> None:
        """Takes the letter away for good."""
        with self._translated():
            self._channel.basic_ack(held.tag)
        del self._held[held.tag]

    def _publish(self, held: Held) -> None:
        letter = held.letter
        name = f"letter {letter.key}"
        try:
            self._channel.basic_publish(
                DEFAULT_EXCHANGE,
                letter.origin,
                held.body,
                _properties(held, self._settings.user),
                mandatory=True,
            )
        except UnroutableError as error:
            raise Unroutable(
                f"{name} was not replayed: there is no queue {letter.origin}, run `collafuse broker init`"
            ) from error
        except NackError as error:
            raise Nacked(f"{name} was not replayed: the queue {letter.origin} is full") from error
        except ConnectionBlockedTimeout as error:
            raise Blocked(f"{name} was not replayed: the broker is in alarm and takes no messages") from error
        except (AMQPError, OSError) as error:
            raise PublishFailed(
                f"{name} may have been replayed, and stays: the connection ended ({error})"
            ) from error

    def _translated(self) -> "_Translated":
        return _Translated(self._settings)


class _Translated:
    """Turns what pika raises into one line about the broker."""

    def __init__(self, settings: BrokerSettings) -> None:
        self._settings = settings

    def __enter__(self) -> None:
        return

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if isinstance(error, ChannelClosedByBroker):
            hint = "; run `collafuse broker init`" if error.reply_code == 404 else ""
            raise BrokerUnreachable(
                f"cannot read the queue {QUEUE_DEAD} on {self._settings}: {error.reply_text}{hint}"
            ) from error
        if isinstance(error, AMQPError | OSError):
            raise BrokerUnreachable(
                f"cannot use the broker at {self._settings}: {error or type(error).__name__}"
            ) from error


def _properties(held: Held, user: str) -> pika.BasicProperties:
    """The envelope of a copy: the message's own, under the replayer's name, with the sender's beside it.

    Of the headers only ours are kept, for the others are the device's choice, and an old `x-reason` or `x-death` would be read
    as the story of the copy.
    """
    original, letter = held.properties, held.letter
    return pika.BasicProperties(
        content_type=original.content_type,
        delivery_mode=PERSISTENT,
        message_id=original.message_id,
        correlation_id=original.correlation_id,
        type=original.type,
        timestamp=original.timestamp,
        user_id=user,
        expiration=letter.expiration,
        headers={
            SENDER_HEADER: letter.sender,
            REPLAYED_HEADER: letter.replayed + 1,
            PUBLISHED_AT_HEADER: int(time.time() * 1000),
        },
    )


def _newest_death(headers: Mapping[str, Any]) -> Mapping[str, Any]:
    """The broker's record of how the message came to be here: it writes the newest first, before whatever was there."""
    deaths = headers.get("x-death")
    first = deaths[0] if isinstance(deaths, list) and deaths else None
    return first if isinstance(first, dict) else {}


def _text(value: object) -> str | None:
    return value if isinstance(value, str) else None


def _seconds(milliseconds: object) -> float | None:
    return milliseconds / 1000 if isinstance(milliseconds, int) and 0 <= milliseconds < 2**53 else None


def _moment(value: object) -> float | None:
    """Seconds of a time as pika reads it: in UTC, whether it says so or not."""
    if not isinstance(value, datetime.datetime):
        return None
    return (value if value.tzinfo else value.replace(tzinfo=datetime.UTC)).timestamp()


def _milliseconds(value: object) -> str | None:
    """An expiration that the broker would take again."""
    text = _text(value)
    return text if text is not None and _EXPIRATION.fullmatch(text) else None
