"""What may be believed of a message in the dead-letter queue.

Letters come in two kinds. Our consumers publish a copy under the name of a worker, with headers that say why. The broker itself
sets aside what expired or came back too often: that message still has the user of its device and every header that the device
chose, so none of those is believed. Of RabbitMQ's own record only the newest entry of `x-death` is: a device may have sent
older ones along, and `x-first-death-queue` with them.
"""

import datetime
import hashlib
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import pika

from broker.codec import decode
from broker.contract.denoise import DenoiseV1
from broker.delivery import (
    DETAIL_HEADER,
    FIRST_SEEN_HEADER,
    ORIGIN_HEADER,
    REASON_HEADER,
    is_device,
    replays_of,
    sender_of,
)
from broker.errors import Refused
from broker.names import split_user
from broker.publisher import PUBLISHED_AT_HEADER
from broker.topology import QUEUE_SAMPLES, WORK_QUEUES

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
    message_id, type, correlation_id: as the publisher wrote them; anything at all.
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
    correlation_id: str | None
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
        correlation_id=_text(properties.correlation_id),
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


def why_skipped(letter: Letter, body: bytes, now: float) -> str | None:
    """Returns why a replay of everything leaves this letter where it is, or None. Named, it is replayed all the same.

    A request is of use only while its device waits for the answer: a late one is dropped there, and counted.
    """
    if letter.reason in PAYLOAD_REASONS:
        return "the message itself is at fault"
    if letter.origin == QUEUE_SAMPLES:
        return None
    if letter.reason not in UNANSWERED_REASONS:
        return "its device does not wait for it any more"
    try:
        request = decode(letter.type, body)
    except Refused:
        return None
    age_seconds = letter.age_seconds(now)
    if not isinstance(request, DenoiseV1) or request.ttl_seconds is None or age_seconds is None:
        return None
    return "its time to live has passed" if age_seconds > request.ttl_seconds else None


def printable(text: str, limit_characters: int = 160) -> str:
    """Returns `text` on one line and without what could move a terminal's cursor; a device may have written it."""
    shown = "".join(sign if sign.isprintable() else ascii(sign)[1:-1] for sign in text[:limit_characters])
    return shown if len(text) <= limit_characters else f"{shown}…"


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
