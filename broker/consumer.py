"""Consuming with an acknowledgement that means something: nothing is acked before its work is durable.

Deliveries leave the I/O thread through a queue that the prefetch count bounds. Whoever takes one ends it in exactly one way:
`ack` (the work is done), `requeue` (somebody else's turn), or `refuse` (set aside, with the reason). A delivery whose channel
has gone cannot be ended any more: the broker delivers it again.
"""

import queue
import random
import time
from collections.abc import Callable
from concurrent.futures import Future
from typing import Any, Protocol

import pika
import structlog
from pika.channel import Channel

from broker.delivery import DETAIL_LIMIT_CHARACTERS, Delivery, dead_letter, received
from broker.errors import ConnectionLost, PublishFailed
from broker.foreign_headers import make_harmless
from broker.names import is_inbox, is_reports
from broker.publisher import Publisher
from monitoring.metrics import BrokerMetrics

log = structlog.get_logger(__name__)

IDLE_SECONDS = 120.0
"""After so long without a delivery a consumer subscribes again. RabbitMQ 3.10 forgets one without a word when its quorum queue
is deleted and comes back within milliseconds, and no passive look can tell which consumers of a queue are the forgotten ones."""


class Loop(Protocol):
    """What a consumer needs of its connection."""

    metrics: BrokerMetrics

    def call(self, function: Callable[[], None]) -> None:
        """Run a function on the I/O thread."""

    def check_ready(self) -> None:
        """Tell the connection that this user has become ready."""

    def call_later(self, seconds: float, function: Callable[[], None]) -> None:
        """Run a function on the I/O thread after a while."""

    def renew(self, user: Any) -> None:
        """Close the channel of `user`, which is of no use any more, and open another."""

    def replace(self, user: Any, *, unless: Callable[[], bool]) -> None:
        """Open another channel for `user`, and close the one it has when that stands, unless something speaks against it."""

    def detach(self, user: Any) -> None:
        """Close the channel of `user` for good."""


class Consumer:
    """Takes from one queue on a channel of its own, at most `prefetch` messages ahead.

    dead_letters: where refused messages are set aside, or None to drop them.
    idle_seconds: after so long without a delivery it subscribes again.
    exclusive: the broker lets nobody else consume from the queue meanwhile, and refuses this one while somebody else does. For
        classic queues, which tell a consumer when they are deleted: such a consumer never subscribes a second time in between.

    A consumer that the broker cancels (its queue was deleted, its leader moved) opens a new channel: it never ends quietly.
    """

    def __init__(
        self,
        loop: Loop,
        queue_name: str,
        *,
        prefetch: int,
        dead_letters: Publisher | None,
        idle_seconds: float = IDLE_SECONDS,
        exclusive: bool = False,
    ) -> None:
        make_harmless()
        self.queue_name = queue_name
        self._loop = loop
        self._prefetch = prefetch
        self._dead_letters = dead_letters
        self._channel: Channel | None = None
        self._consumer_tag: str | None = None
        self._consuming = False
        self._paused = False
        self._idle_seconds = idle_seconds
        self._exclusive = exclusive
        self._heard = False
        self._unended = 0
        # No SimpleQueue: when a signal outlasts the timeout of its `get`, CPython 3.11 waits for ever.
        self._deliveries: queue.Queue[Delivery] = queue.Queue()

    # -- for every thread ---------------------------------------------------------------------------------------------

    def get(self, timeout_seconds: float) -> Delivery | None:
        """The next delivery, or None when none came within `timeout_seconds` (0: look and go)."""
        deadline = time.monotonic() + timeout_seconds
        while True:
            left_seconds = deadline - time.monotonic()
            try:
                delivery = (
                    self._deliveries.get(timeout=left_seconds)
                    if left_seconds > 0
                    else self._deliveries.get_nowait()
                )
            except queue.Empty:
                return None
            if delivery._channel is self._channel:
                return delivery  # one of a channel that went comes again by itself

    def pause(self) -> None:
        """Stop taking; what was taken and not handed out yet goes back to the queue."""
        self._loop.call(self._pause)

    def resume(self) -> None:
        """Go on taking."""
        self._loop.call(self._resume)

    def close(self) -> None:
        """Stop for good; what is not acked goes back to the queue."""
        self._loop.detach(self)

    def end(self, delivery: Delivery, act: Callable[[Channel], None]) -> None:
        """End a delivery on its own channel, or do nothing when that channel has gone."""

        def on_loop() -> None:
            channel = self._channel
            if channel is not None and channel is delivery._channel and channel.is_open:
                self._unended -= 1
                act(channel)

        self._loop.call(on_loop)

    def refuse(self, delivery: Delivery, reason: str, detail: str) -> None:
        """See `Delivery.refuse`."""
        log.warning(
            "message_refused",
            queue=self.queue_name,
            message_id=delivery.message_id,
            correlation_id=delivery.trace_id,
            type=delivery.type,
            user=delivery.user_id,
            reason=reason,
            detail=detail[:DETAIL_LIMIT_CHARACTERS],
        )
        self._loop.metrics.refused_total.labels(queue=_family(self.queue_name), reason=reason).inc()
        if self._dead_letters is None:
            self.end(delivery, lambda channel: channel.basic_nack(delivery._tag, requeue=False))
            return
        try:
            copy = self._dead_letters.send(dead_letter(delivery, reason, detail))
        except PublishFailed as error:
            self._not_copied(delivery, error)
        else:
            copy.add_done_callback(lambda done: self._copied(delivery, done))

    # -- on the I/O thread --------------------------------------------------------------------------------------------

    @property
    def ready(self) -> bool:
        """Whether the broker has agreed to deliver, or is not asked to."""
        return self._channel is not None and (self._consuming or self._paused)

    def opened(self, channel: Channel) -> None:
        """Consume on a new channel."""
        self._channel = channel
        self._consumer_tag = None
        self._consuming = False
        self._unended = 0
        channel.add_on_cancel_callback(self._cancelled)
        channel.basic_qos(prefetch_count=self._prefetch)
        if self._paused:
            self._loop.check_ready()
        else:
            self._consume()

    def lost(self, _: ConnectionLost) -> None:
        """What was taken and not acked is the broker's again."""
        self._channel = None
        self._consuming = False
        self._consumer_tag = None
        self._drain()

    def blocked(self, reason: str | None) -> None:
        """An alarm stops publishers, not consumers."""

    def _consume(self) -> None:
        if self._channel is not None and self._channel.is_open and self._consumer_tag is None:
            self._consumer_tag = self._channel.basic_consume(
                self.queue_name,
                self._on_message,
                exclusive=self._exclusive,
                callback=lambda _: self._agreed(),
            )

    def _agreed(self) -> None:
        self._consuming = True
        self._loop.check_ready()
        if not self._exclusive:
            self._listen(self._consumer_tag)

    def _listen(self, tag: str | None) -> None:
        """As long as this subscription lasts: if nothing came since the last look and nothing is held, subscribe again."""
        self._heard = False

        def look() -> None:
            if tag is None or self._consumer_tag != tag:
                return
            if not self._heard:
                # On a new channel: the old one may know the queue by the members it had before.
                self._loop.replace(self, unless=lambda: self._unended > 0)
            self._listen(tag)

        self._loop.call_later(self._idle_seconds * random.uniform(0.75, 1.25), look)  # noqa: S311 - jitter, not a secret

    def _cancelled(self, _: Any) -> None:
        log.warning("consumer_cancelled", queue=self.queue_name)
        self._loop.renew(self)

    def _pause(self) -> None:
        self._paused = True
        if self._channel is None or not self._channel.is_open or self._consumer_tag is None:
            return
        channel, tag, self._consumer_tag = self._channel, self._consumer_tag, None
        # What arrives between the cancel and its answer goes back too.
        channel.basic_cancel(tag, callback=lambda _: self._give_back(channel))
        self._give_back(channel)

    def _resume(self) -> None:
        self._paused = False
        self._consume()

    def _give_back(self, channel: Channel) -> None:
        for delivery in self._drain():
            if delivery._channel is channel and channel.is_open:
                self._unended -= 1
                channel.basic_nack(delivery._tag, requeue=True)

    def _drain(self) -> list[Delivery]:
        drained = []
        while True:
            try:
                drained.append(self._deliveries.get_nowait())
            except queue.Empty:
                return drained

    def _copied(self, delivery: Delivery, copy: "Future[None]") -> None:
        error = copy.exception()
        if error is None:
            delivery.ack()
        else:
            self._not_copied(delivery, error)

    def _not_copied(self, delivery: Delivery, error: BaseException) -> None:
        """The copy may or may not stand in the dead-letter queue; the message itself must not be lost."""
        log.warning("dead_letter_failed", message_id=delivery.message_id, error=str(error))
        delivery.requeue()

    def _on_message(
        self, channel: Channel, method: pika.spec.Basic.Deliver, properties: pika.BasicProperties, body: bytes
    ) -> None:
        if channel is not self._channel:
            return  # of a channel that is being replaced: it comes again
        delivery = received(self, channel, method, properties, body)
        metrics = self._loop.metrics
        metrics.consumed_total.labels(queue=_family(self.queue_name)).inc()
        if delivery.lag_seconds is not None:
            metrics.consume_lag_seconds.labels(queue=_family(self.queue_name)).observe(delivery.lag_seconds)
        self._heard = True
        self._unended += 1
        self._deliveries.put(delivery)


def _family(queue_name: str) -> str:
    """The queue as a metric's label: thousands of inboxes are one series."""
    if is_inbox(queue_name):
        return "inbox"
    return "reports" if is_reports(queue_name) else queue_name
