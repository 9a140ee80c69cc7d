"""Publishing with confirms: a future per message, many in flight, none forgotten.

A message is done when the broker has confirmed that it stands in a queue. Everything else is an error with a name: returned as
unroutable, refused (nack), no confirm in time, blocked by an alarm, or the link went.
"""

import itertools
import threading
import time
from collections import deque
from collections.abc import Callable, Mapping
from concurrent.futures import Future
from dataclasses import dataclass, field
from typing import Any, Protocol

import pika
import structlog
from pika.channel import Channel

from broker.codec import encode
from broker.contract.message import Message
from broker.errors import Blocked, ConfirmTimeout, ConnectionLost, Nacked, PublishFailed, Unroutable
from broker.window import Window
from monitoring.metrics import BrokerMetrics

log = structlog.get_logger(__name__)

CONTENT_TYPE = "application/msgpack"
PUBLISHED_AT_HEADER = "x-published-ms"
PERSISTENT = 2
SWEEP_SECONDS = 1.0


class Loop(Protocol):
    """What a publisher needs of its connection."""

    metrics: BrokerMetrics

    @property
    def user(self) -> str:
        """The AMQP user of the connection."""

    @property
    def unsent_bytes(self) -> int:
        """What was written and has not left this machine."""

    def call(self, function: Callable[[], None]) -> None:
        """Run a function on the I/O thread."""

    def check_ready(self) -> None:
        """Tell the connection that this user has become ready."""

    def call_later(self, seconds: float, function: Callable[[], None]) -> None:
        """Run a function on the I/O thread after a while."""


@dataclass(frozen=True)
class Outgoing:
    """One message on its way out.

    exchange, routing_key: where it goes.
    message_id: recognises a repeat.
    type: `name.vN` of the message inside.
    body: its msgpack bytes.
    ttl_seconds: after this long in a queue the broker sets it aside; None: never.
    headers: more AMQP headers.
    """

    exchange: str
    routing_key: str
    message_id: str
    type: str
    body: bytes
    correlation_id: str | None = None
    ttl_seconds: float | None = None
    headers: Mapping[str, Any] = field(default_factory=dict)


def outgoing(
    message: Message,
    *,
    exchange: str,
    routing_key: str,
    message_id: str,
    correlation_id: str | None = None,
    ttl_seconds: float | None = None,
) -> Outgoing:
    """The message encoded and addressed. Raises MessageTooLarge when its body exceeds what one message may hold."""
    return Outgoing(
        exchange=exchange,
        routing_key=routing_key,
        message_id=message_id,
        type=message.type_name,
        body=encode(message),
        correlation_id=correlation_id,
        ttl_seconds=ttl_seconds,
    )


@dataclass(eq=False)
class _Entry:
    """A message between `send` and its end."""

    outgoing: Outgoing
    future: Future[None]
    started: float
    returned: str | None = None
    answer: Future[None] | None = None
    """Of one whose time was over before it was answered; `future` has ended then."""


class Publisher:
    """Confirmed, mandatory publishing on a channel of its own.

    window, window_bytes: at most this many messages and bytes wait for their confirm; `send` blocks while there is no room.
    confirm_timeout_seconds: a message counts as failed when it has waited this long, and for as long nothing has moved: no
    confirm came, and nothing left this machine. It may have arrived all the same: whoever sends it again relies on the message id
    being recognised, or waits for the `answer` of the error. Its bytes stay in the window until it is answered or the link is
    gone.
    """

    def __init__(self, loop: Loop, *, window: int, window_bytes: int, confirm_timeout_seconds: float) -> None:
        self._loop = loop
        self._confirm_timeout_seconds = confirm_timeout_seconds
        self._window = Window(window, window_bytes)
        self._submitted: deque[_Entry] = deque()
        self._submitting = threading.Lock()
        self._called = False
        self._tags = itertools.count(1)
        self._channel: Channel | None = None
        self._confirming = False
        self._blocked_reason: str | None = None
        self._accepted: set[_Entry] = set()
        self._held: list[_Entry] = []
        self._unconfirmed: dict[int, _Entry] = {}
        self._moved_at = 0.0
        self._unsent_bytes = 0

    # -- for every thread ---------------------------------------------------------------------------------------------

    def send(self, message: Outgoing) -> Future[None]:
        """Publish, and return the future of the broker's confirm.

        The future ends with None, or with a PublishFailed. Its callbacks run on the I/O thread: keep them short.
        Raises ConfirmTimeout when the window stays full for longer than the confirm timeout.
        """
        if not self._window.acquire(len(message.body), self._confirm_timeout_seconds):
            raise ConfirmTimeout(
                f"no confirm came for any message in flight within {self._confirm_timeout_seconds:g} s; "
                f"message {message.message_id} was not sent"
            )
        entry = _Entry(message, Future(), time.monotonic())
        self._loop.metrics.confirms_outstanding.inc()
        with self._submitting:
            self._submitted.append(entry)
            called, self._called = self._called, True
        if not called:  # one wake-up of the I/O thread takes all that has come until it does
            self._loop.call(self._submit)
        return entry.future

    def publish(self, message: Outgoing, timeout_seconds: float = 10.0) -> None:
        """Publish, and wait for the confirm. Raises PublishFailed (ConfirmTimeout after `timeout_seconds`)."""
        future = self.send(message)
        try:
            future.result(timeout_seconds)
        except TimeoutError as error:
            raise ConfirmTimeout(
                f"message {message.message_id} was not confirmed within {timeout_seconds:g} s"
            ) from error

    # -- on the I/O thread --------------------------------------------------------------------------------------------

    @property
    def ready(self) -> bool:
        """Whether the broker has agreed to confirm."""
        return self._confirming

    def opened(self, channel: Channel) -> None:
        """Start afresh on a new channel: delivery tags count from one again."""
        self._channel = channel
        self._tags = itertools.count(1)
        self._blocked_reason = None
        self._unsent_bytes = 0
        channel.add_on_return_callback(self._on_return)
        channel.confirm_delivery(self._on_confirm, callback=lambda _: self._agreed())
        self._sweep(channel)

    def _agreed(self) -> None:
        self._confirming = True
        self._loop.check_ready()

    def lost(self, error: ConnectionLost) -> None:
        """Everything in flight fails; whether it arrived is unknown."""
        self._channel = None
        self._confirming = False
        self._held.clear()
        self._unconfirmed.clear()
        for entry in list(self._accepted):
            self._finish(entry, error)
        self._submit()

    def blocked(self, reason: str | None) -> None:
        """Hold back while the broker is in alarm, so that the socket's buffer does not grow; then send what was held."""
        self._blocked_reason = reason
        if reason is None:
            held, self._held = self._held, []
            for entry in held:
                self._write(entry)

    def _submit(self) -> None:
        with self._submitting:
            submitted, self._submitted = self._submitted, deque()
            self._called = False
        for entry in submitted:
            self._accept(entry)

    def _accept(self, entry: _Entry) -> None:
        self._accepted.add(entry)
        if self._channel is None:
            self._finish(entry, ConnectionLost("the broker is not connected at the moment"))
            return
        if self._blocked_reason is None:
            self._write(entry)
        else:
            self._held.append(entry)

    def _write(self, entry: _Entry) -> None:
        if entry not in self._accepted:
            return
        if self._channel is None or not self._channel.is_open:
            self._finish(entry, ConnectionLost("the connection to the broker is being closed"))
            return
        message = entry.outgoing
        self._unconfirmed[next(self._tags)] = entry
        self._channel.basic_publish(
            message.exchange,
            message.routing_key,
            message.body,
            properties_of(message, self._loop.user),
            mandatory=True,
        )

    def _on_return(self, _: Channel, method: Any, properties: pika.BasicProperties, __: bytes) -> None:
        # The return comes before the confirm of the same message: remember it until then.
        reason = f"{method.reply_text} (exchange {method.exchange!r}, routing key {method.routing_key!r})"
        for entry in self._unconfirmed.values():
            if entry.outgoing.message_id == properties.message_id and entry.returned is None:
                entry.returned = reason
                return

    def _on_confirm(self, frame: Any) -> None:
        self._moved_at = time.monotonic()
        method = frame.method
        positive = isinstance(method, pika.spec.Basic.Ack)
        tags = (
            [tag for tag in self._unconfirmed if tag <= method.delivery_tag]
            if method.multiple
            else [method.delivery_tag]
        )
        for tag in tags:
            entry = self._unconfirmed.pop(tag, None)
            if entry is not None:
                self._finish(entry, None if positive and entry.returned is None else _verdict(entry))

    def _sweep(self, channel: Channel) -> None:
        """Once a second, as long as this channel stands: fail what waited too long."""
        if self._channel is not channel:
            return
        self._look_whether_it_moves()
        oldest = time.monotonic() - self._confirm_timeout_seconds
        for entry in [entry for entry in self._accepted if entry.answer is None]:
            if max(entry.started, self._moved_at) < oldest:
                self._expire(entry)
        self._loop.call_later(SWEEP_SECONDS, lambda: self._sweep(channel))

    def _look_whether_it_moves(self) -> None:
        """Over a slow link a large message takes its time, and all that can be seen of it is that less of it is left here."""
        before, self._unsent_bytes = self._unsent_bytes, self._loop.unsent_bytes
        if self._unsent_bytes < before:
            self._moved_at = time.monotonic()

    def _expire(self, entry: _Entry) -> None:
        """Tell the sender; what was written goes on taking room until the broker answers it or the channel is gone."""
        waited = f"message {entry.outgoing.message_id} was not confirmed within {self._confirm_timeout_seconds:g} s"
        answer: Future[None] | None = None if entry in self._held else Future()
        error = ConfirmTimeout(waited, answer)
        if self._blocked_reason is not None:
            error = Blocked(f"{waited}: the broker is in alarm ({self._blocked_reason})", answer)
        if answer is None:
            self._held.remove(entry)
            self._finish(entry, error)
            return
        entry.answer = answer
        self._loop.metrics.publish_failures_total.labels(reason=error.reason).inc()
        entry.future.set_exception(error)

    def _finish(self, entry: _Entry, error: PublishFailed | None) -> None:
        if entry not in self._accepted:
            return
        self._accepted.remove(entry)
        metrics = self._loop.metrics
        metrics.confirms_outstanding.dec()
        self._window.release(len(entry.outgoing.body))
        if error is None:
            metrics.published_total.labels(type=entry.outgoing.type).inc()
            metrics.publish_confirm_seconds.observe(time.monotonic() - entry.started)
            (entry.answer or entry.future).set_result(None)
        else:
            if entry.answer is None:
                metrics.publish_failures_total.labels(reason=error.reason).inc()
            (entry.answer or entry.future).set_exception(error)


def _verdict(entry: _Entry) -> PublishFailed:
    """Why a message that the broker answered is not in a queue."""
    message = entry.outgoing
    if entry.returned is not None:
        return Unroutable(f"message {message.message_id} ({message.type}) reached no queue: {entry.returned}")
    return Nacked(
        f"the broker refused message {message.message_id} ({message.type}) for "
        f"{message.exchange!r}/{message.routing_key!r}: the queue is full or could not write it"
    )


def properties_of(message: Outgoing, user: str) -> pika.BasicProperties:
    """The envelope. The broker refuses a `user_id` that is not the connection's own, so readers can believe it."""
    expiration = None if message.ttl_seconds is None else str(max(1, round(message.ttl_seconds * 1000)))
    now = time.time()
    return pika.BasicProperties(
        content_type=CONTENT_TYPE,
        delivery_mode=PERSISTENT,
        message_id=message.message_id,
        correlation_id=message.correlation_id,
        type=message.type,
        timestamp=int(now),
        user_id=user,
        expiration=expiration,
        headers={**message.headers, PUBLISHED_AT_HEADER: int(now * 1000)},
    )
