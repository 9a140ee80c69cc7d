"""A connection that stays: one thread, one AMQP connection, reconnected for ever with jittered backoff.

The thread does nothing but move bytes. Everything else calls in through `Connection.call`, and what comes in leaves through the
queues and futures of consumers and publishers, so a computation of any length never delays a heartbeat.
"""

import contextlib
import fcntl
import itertools
import logging
import random
import socket
import struct
import termios
import threading
import time
from collections.abc import Callable
from types import TracebackType
from typing import Protocol, Self

import pika
import structlog
from pika.adapters.select_connection import IOLoop
from pika.channel import Channel
from pika.exceptions import ChannelClosedByBroker

from broker.address import BrokerSettings
from broker.backoff import Backoff
from broker.causes import in_words, is_queue_in_use, why_refused
from broker.consumer import IDLE_SECONDS, Consumer
from broker.errors import BrokerUnreachable, ConnectionLost
from broker.names import is_inbox, is_reports
from broker.parameters import connection_parameters
from broker.publisher import Publisher
from broker.topology import QUEUE_TELEMETRY
from monitoring.metrics import BrokerMetrics

log = structlog.get_logger(__name__)

WINDOW_BYTES = 16 * 2**20
"""What a publisher has in flight at most: on a link with a round trip of 200 ms enough for 80 MB a second."""
_CUT_SECONDS = 2.0
_IN_USE = (
    "another process reads this queue, and only one may: end one of the two, unless it is this one's own broken link,"
    " which the broker forgets within two heartbeats; this one goes on trying"
)
LASTING_SECONDS = 5.0
"""What stood for this long was a success: the next failure is the first again."""


class ChannelUser(Protocol):
    """Who works on a channel. Every method is called on the I/O thread."""

    @property
    def ready(self) -> bool:
        """Whether the channel stands and the broker has agreed to what it is for."""

    def opened(self, channel: Channel) -> None:
        """A fresh channel stands; what the last one had in flight is gone."""

    def lost(self, error: ConnectionLost) -> None:
        """The channel is gone; another will come."""

    def blocked(self, reason: str | None) -> None:
        """The broker stopped reading what is published (an alarm), or with None goes on reading."""


class Connection:
    """One AMQP connection on a thread of its own.

    settings: where the broker is and as whom to log in.
    name: shown in RabbitMQ's list of connections, and in logs.
    metrics: counters and histograms of this process's traffic.
    backoff: how long to wait between attempts.

    Publishers and consumers are asked for before or after `start`; they outlive every single connection.
    """

    def __init__(
        self, settings: BrokerSettings, *, name: str, metrics: BrokerMetrics, backoff: Backoff | None = None
    ) -> None:
        self.name = name
        self.metrics = metrics
        self._settings = settings
        self._ioloop = IOLoop()
        self._thread = threading.Thread(target=self._run, name=f"amqp-{name}", daemon=True)
        self._users: dict[ChannelUser, Channel | None] = {}
        self._user_backoff: dict[ChannelUser, Backoff] = {}
        self._replacing: set[ChannelUser] = set()
        self._shut_out: set[ChannelUser] = set()
        """Whose queue somebody else reads alone; it was told."""
        self._backoff = backoff or Backoff()
        self._opened_at: dict[object, float] = {}
        self._amqp: pika.SelectConnection | None = None
        self._last_error = "no attempt was made yet"
        self._refused_with: int | None = None
        # Each process begins elsewhere, so that a fleet spreads over the nodes of a cluster.
        self._addresses = itertools.cycle(random.sample(settings.addresses, len(settings.addresses)))
        self._address = settings.addresses[0]
        self._ready = threading.Event()
        self._stopping = False
        self._paused = False
        self._dialling = False
        self._hung_up = False

    # -- for every thread ---------------------------------------------------------------------------------------------

    @property
    def user(self) -> str:
        """The AMQP user this connection logs in as; the broker vouches for it on every message."""
        return self._settings.user

    @property
    def connected(self) -> bool:
        """Whether the connection stands and all its publishers and consumers are at work."""
        return self._ready.is_set()

    @property
    def refused_with(self) -> int | None:
        """The AMQP code with which the broker closed a channel last, such as 404 for a queue that is not there; or None."""
        return self._refused_with

    @property
    def unsent_bytes(self) -> int:
        """What was written and the other end's machine has not acknowledged yet. On the I/O thread only."""
        amqp = self._amqp
        if amqp is None or not amqp.is_open:
            return 0
        # Neither of the two can be had from pika in public.
        return int(amqp._get_write_buffer_size()) + _kernel_bytes(amqp._transport._sock)

    def start(self) -> None:
        """Begin connecting; returns at once."""
        # What pika tells of a lost link in many lines, a stack among them, is told here in one.
        logging.getLogger("pika").setLevel(logging.CRITICAL)
        self._thread.start()

    def wait_connected(self, timeout_seconds: float) -> None:
        """Wait until everything stands.

        Raises BrokerUnreachable with the last failure after `timeout_seconds`; the attempts go on all the same.
        """
        if not self._ready.wait(timeout_seconds):
            stop = "" if self._last_error.endswith("?") else "."
            raise BrokerUnreachable(
                f"the broker at {self._settings.places} (vhost {self._settings.vhost!r}, "
                f"user {self.user!r}) could not be used within {timeout_seconds:g} s: {self._last_error}{stop} "
                "Check that it runs, the address and the credentials"
            )

    def stop(self, timeout_seconds: float = 5.0) -> None:
        """Close the connection and end the thread; calling it again does nothing.

        What is not confirmed by then fails with ConnectionLost. A goodbye waits behind all that was written before it, so that on
        a slow link it is waited for no longer than `timeout_seconds`: then the link is cut.
        """
        begun = self._thread.ident is not None
        if not begun and not self._stopping:
            self._ioloop.close()
        self._stopping = True
        if self._thread.is_alive():
            self.call(self._close)
            self._thread.join(timeout_seconds)
        if self._thread.is_alive():
            self.call(self._cut)
            self._thread.join(_CUT_SECONDS)

    def pause(self) -> None:
        """Close the link and leave it closed until `resume`; what is not confirmed by then fails with ConnectionLost.

        Before `start` as well, to begin without a link. Calling it again does nothing.
        """
        self._paused = True
        self.call(self._hang_up)

    def resume(self) -> None:
        """Connect again, at once, after `pause`. Calling it again does nothing."""
        if self._paused:
            self._paused = False
            self.call(self._connect)

    def cut(self) -> None:
        """End the link without a word of AMQP, as a broken wire does; it is made again like any that was lost."""
        self.call(self._cut)

    def call(self, function: Callable[[], None]) -> None:
        """Run `function` on the I/O thread, soon."""
        self._ioloop.add_callback_threadsafe(function)

    def call_later(self, seconds: float, function: Callable[[], None]) -> None:
        """Run `function` on the I/O thread after a while. On the I/O thread only."""
        self._ioloop.call_later(seconds, function)

    def publisher(
        self, window: int = 64, *, window_bytes: int = WINDOW_BYTES, confirm_timeout_seconds: float = 30.0
    ) -> Publisher:
        """A publisher on a channel of its own, with at most so many messages and bytes awaiting their confirm."""
        publisher = Publisher(
            self, window=window, window_bytes=window_bytes, confirm_timeout_seconds=confirm_timeout_seconds
        )
        self.attach(publisher)
        return publisher

    def consumer(
        self, queue: str, prefetch: int, *, idle_seconds: float = IDLE_SECONDS, exclusive: bool = False
    ) -> Consumer:
        """A consumer of `queue` that holds at most `prefetch` unacknowledged deliveries (the rest: see there).

        What it refuses is set aside in the dead-letter queue with the reason; a device's inbox and what devices report have none,
        since who reads them may not write there: there a refused message is dropped.
        """
        may_drop = is_inbox(queue) or is_reports(queue) or queue == QUEUE_TELEMETRY
        dead_letters = None if may_drop else self.publisher(window=prefetch)
        consumer = Consumer(
            self,
            queue,
            prefetch=prefetch,
            dead_letters=dead_letters,
            idle_seconds=idle_seconds,
            exclusive=exclusive,
        )
        self.attach(consumer)
        return consumer

    def attach(self, user: ChannelUser) -> None:
        """Give `user` a channel now and after every reconnection."""
        self._ready.clear()
        self.call(lambda: self._attach(user))

    def detach(self, user: ChannelUser) -> None:
        """Close the channel of `user` for good."""
        self.call(lambda: self._detach(user))

    def renew(self, user: ChannelUser) -> None:
        """The channel of `user` is of no use any more: close it and open another. On the I/O thread only."""
        channel = self._users.get(user)
        if channel is not None and channel.is_open:
            channel.close(320, "renewed")

    def replace(self, user: ChannelUser, *, unless: Callable[[], bool]) -> None:
        """Open another channel for `user`, and close the one it has when that stands, unless something speaks against it then.

        On the I/O thread only.
        """
        # One at a time: a broker that is slow to answer would be asked for more and more of them.
        if self._users.get(user) is not None and user not in self._replacing:
            self._replacing.add(user)
            self._open_channel(user, unless)

    def check_ready(self) -> None:
        """A user became ready: perhaps everything stands now. On the I/O thread only."""
        if self._amqp is not None and all(user.ready for user in self._users):
            self._ready.set()
            self._shut_out.clear()
            self.metrics.connected.set(1)

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    # -- on the I/O thread --------------------------------------------------------------------------------------------

    def _run(self) -> None:
        self._connect()
        while True:
            try:
                self._ioloop.start()
            except Exception as error:  # noqa: BLE001  # a thread that ended would leave a process that looks alive
                self._abandon(error)
            else:
                break
        self._ioloop.close()

    def _abandon(self, error: Exception) -> None:
        """Something failed here that should not have: say so, end this connection and make another."""
        log.error(
            "io_thread_failed", connection=self.name, error=f"{type(error).__name__}: {error}", exc_info=error
        )
        if self._amqp is None:
            self._dialling = False
            self._ioloop.call_later(self._backoff.next_seconds(), self._connect)
            return
        # Not `close`, which waits for an answer that the fault may keep from coming; pika offers no public abort.
        self._amqp._terminate_stream(error)

    def _connect(self) -> None:
        if self._stopping or self._paused or self._dialling:
            return
        self._dialling = True
        self._address = next(self._addresses)
        pika.SelectConnection(
            connection_parameters(self._settings, name=self.name, address=self._address),
            on_open_callback=self._opened,
            on_open_error_callback=self._closed,
            on_close_callback=self._closed,
            custom_ioloop=self._ioloop,
        )

    def _opened(self, amqp: pika.SelectConnection) -> None:
        log.info("broker_connected", connection=self.name, host=self._address[0], port=self._address[1])
        self._amqp = amqp
        self._replacing.clear()
        self._opened_at[self] = time.monotonic()
        amqp.add_on_connection_blocked_callback(lambda _, frame: self._tell_blocked(str(frame.method.reason)))
        amqp.add_on_connection_unblocked_callback(lambda _, __: self._tell_blocked(None))
        for user in list(self._users):
            self._open_channel(user)
        self.check_ready()
        if self._stopping:
            self._close()
        elif self._paused:
            self._hang_up()

    def _closed(self, _: pika.SelectConnection, error: BaseException | str) -> None:
        was_open, self._amqp = self._amqp is not None, None
        self._dialling = False
        self._last_error = in_words(error) if was_open else why_refused(error, self._settings.certificate)
        self._ready.clear()
        self.metrics.connected.set(0)
        for user, channel in list(self._users.items()):
            self._users[user] = None
            if channel is not None:
                user.lost(ConnectionLost(f"the connection to the broker was lost: {self._last_error}"))
        if self._stopping:
            self._ioloop.stop()
            return
        if self._paused:
            self._hung_up = False
            self._backoff.reset()
            log.info("broker_link_closed", connection=self.name)
            return
        if was_open and self._hung_up:
            self._hung_up = False
            self._connect()  # `resume` came while the link was being closed
            return
        wait_seconds = self._wait_seconds(self, self._backoff)
        self.metrics.reconnects_total.inc()
        log.warning(
            "broker_lost" if was_open else "broker_unreachable",
            connection=self.name,
            host=self._address[0],
            port=self._address[1],
            error=self._last_error,
            retry_in_seconds=round(wait_seconds, 2),
        )
        self._ioloop.call_later(wait_seconds, self._connect)

    def _close(self) -> None:
        """Close what stands; the I/O loop ends once it is closed."""
        if self._amqp is None:
            for user in self._users:
                user.lost(ConnectionLost("the connection was stopped"))
            self._ioloop.stop()
        elif self._amqp.is_open:
            self._amqp.close()

    def _hang_up(self) -> None:
        """Close the link, if it stands and nobody has called `resume` since."""
        if self._paused and self._amqp is not None and self._amqp.is_open:
            self._hung_up = True
            self._amqp.close()

    def _cut(self) -> None:
        if self._amqp is not None:
            # Not `close`, which says goodbye; pika offers no public abort.
            self._amqp._terminate_stream(ConnectionLost("the link was cut"))

    def _attach(self, user: ChannelUser) -> None:
        self._users[user] = None
        self._user_backoff[user] = Backoff()
        self._open_channel(user)

    def _detach(self, user: ChannelUser) -> None:
        channel = self._users.pop(user, None)
        self._user_backoff.pop(user, None)
        self._replacing.discard(user)
        self._opened_at.pop(user, None)
        self._shut_out.discard(user)
        if channel is not None and channel.is_open:
            channel.close()
        user.lost(ConnectionLost("the channel was closed"))
        self.check_ready()

    def _open_channel(self, user: ChannelUser, unless: Callable[[], bool] = lambda: False) -> None:
        if self._amqp is None or not self._amqp.is_open or user not in self._users:
            return

        def opened(channel: Channel) -> None:
            self._replacing.discard(user)
            if user not in self._users or unless():
                channel.close()
                return
            channel.add_on_close_callback(lambda _, reason: self._channel_closed(user, channel, reason))
            replaced, self._users[user] = self._users[user], channel
            self._opened_at[user] = time.monotonic()
            user.opened(channel)
            if replaced is not None and replaced.is_open:
                replaced.close(200, "replaced")

        self._amqp.channel(on_open_callback=opened)

    def _channel_closed(self, user: ChannelUser, channel: Channel, reason: BaseException) -> None:
        if self._users.get(user) is not channel:
            return  # the whole connection went, or the user left: told already
        self._users[user] = None
        self._ready.clear()
        in_use = is_queue_in_use(reason)
        self._last_error = _IN_USE if in_use else f"the broker closed a channel: {reason}"
        self._refused_with = reason.reply_code if isinstance(reason, ChannelClosedByBroker) else None
        user.lost(ConnectionLost(self._last_error))
        if self._amqp is not None and self._amqp.is_open:
            # Whoever is there stays, as a rule for hours: never a short wait by chance.
            wait_seconds = self._wait_seconds(user, self._user_backoff[user], 0.5 if in_use else 0.0)
            self._tell_channel_lost(user, reason, in_use, round(wait_seconds, 2))
            self._ioloop.call_later(wait_seconds, lambda: self._open_channel(user))

    def _tell_channel_lost(
        self, user: ChannelUser, reason: BaseException, in_use: bool, wait_seconds: float
    ) -> None:
        """One line; of a queue that somebody else reads one for all attempts, until it can be read."""
        if in_use and user not in self._shut_out:
            self._shut_out.add(user)
            log.warning("queue_in_use", connection=self.name, error=str(reason), what_to_do=_IN_USE)
        elif not in_use:
            self._shut_out.discard(user)
            log.warning(
                "channel_lost", connection=self.name, error=str(reason), retry_in_seconds=wait_seconds
            )

    def _wait_seconds(self, what: object, backoff: Backoff, least_share: float = 0.0) -> float:
        """The seconds until the next attempt at `what`, which just failed."""
        opened_at = self._opened_at.pop(what, None)
        if opened_at is not None and time.monotonic() - opened_at >= LASTING_SECONDS:
            backoff.reset()
        return backoff.next_seconds(least_share)

    def _tell_blocked(self, reason: str | None) -> None:
        if reason is None:
            log.info("broker_unblocked", connection=self.name)
        else:
            log.warning("broker_blocked", connection=self.name, reason=reason)
        for user in self._users:
            user.blocked(reason)


def _kernel_bytes(sock: socket.socket) -> int:
    """What the kernel holds of a socket until the other end has acknowledged it; 0 where it does not say."""
    count = bytearray(4)
    with contextlib.suppress(OSError):
        fcntl.ioctl(sock.fileno(), termios.TIOCOUTQ, count)
    return int(struct.unpack("i", count)[0])
