"""From the outbox to the broker: several messages in flight, and none forgotten before its confirm."""

import contextlib
import queue
import random
import threading
import time
from collections.abc import Callable
from concurrent.futures import Future
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Protocol

import structlog

from broker.backoff import Backoff
from broker.contract.denoise import DenoiseV1
from broker.errors import ConfirmTimeout, ConnectionLost, PublishFailed
from broker.publisher import Outgoing
from broker.topology import EXCHANGE_UP, up_key
from edge_agent.errors import SpoolError
from edge_agent.link import outbox
from edge_agent.link.allowance import Allowance
from edge_agent.link.pace import Pace
from edge_agent.storage.spool import Spool
from monitoring.errors import Disposition

log = structlog.get_logger(__name__)

WINDOW = 64
_POLL_SECONDS = 0.2
_IDLE_SECONDS = 2.0
"""How long the thread rests when nothing is in flight; every waking costs a small device more than the look it is for, and
whoever knows of something calls `wake`."""
_NOTHING = 0  # no row of the outbox has this sequence number


class Sender(Protocol):
    """What the relay needs of a publisher."""

    def send(self, message: Outgoing) -> Future[None]:
        """Publish; the future ends with the broker's confirm or with a PublishFailed."""


@dataclass(frozen=True)
class _Sent:
    """A row in flight, and when it went by the monotonic clock."""

    entry: outbox.Entry
    at_seconds: float

    @property
    def size_bytes(self) -> int:
        """Of its message."""
        return len(self.entry.body)


class Relay:
    """A thread that publishes what the outbox holds, interactive messages first, else the oldest first.

    A row goes only when the broker has confirmed its message; whatever else happens, it stays and is sent again. A message may
    thus be sent twice, and is recognised by its id. One whose confirm is late is not sent again over the same link: it is on its
    way, or lies in a buffer, and a second copy would only wait behind the first.

    spool_path: the outbox's database; the thread opens a connection of its own.
    sender, connected: the link to the broker, and whether it stands.
    user: who this device is; its routing keys begin with it.
    remaining_seconds: how long a row is of use yet, asked with the thread's own connection; None for ever, 0 for no longer:
        it is not sent, and what it is for will be ended in a moment.
    bytes_per_second: cap of what is sent, or None. Interactive messages do not wait for it, and count.
    metered: the link costs by the byte: interactive messages alone are sent, the others stay in the outbox.
    """

    def __init__(
        self,
        spool_path: Path,
        sender: Sender,
        *,
        user: str,
        connected: Callable[[], bool],
        remaining_seconds: Callable[[Spool, outbox.Entry], float | None] = lambda _spool, _entry: None,
        bytes_per_second: int | None = None,
        metered: bool = False,
        backoff: Backoff | None = None,
    ) -> None:
        self.error: SpoolError | None = None
        self._spool_path = spool_path
        self._sender = sender
        self._user = user
        self._connected = connected
        self._remaining_seconds = remaining_seconds
        self._allowance = Allowance(bytes_per_second)
        self._metered = metered
        self._backoff = backoff or Backoff()
        self._ended: queue.Queue[tuple[int, BaseException | None]] = queue.Queue()
        self._in_flight: dict[int, _Sent] = {}
        self._pace = Pace()
        self._not_before = 0.0
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._run, name="relay", daemon=True)

    def start(self) -> None:
        """Begin; returns at once."""
        self._thread.start()

    def wake(self) -> None:
        """There may be something new in the outbox, or the link has changed: look now."""
        self._ended.put((_NOTHING, None))

    def stop(self, timeout_seconds: float = 5.0) -> None:
        """End the thread. What is in flight stays in the outbox and is sent again next time."""
        self._stopping.set()
        self.wake()
        if self._thread.is_alive():
            self._thread.join(timeout_seconds)

    def _run(self) -> None:
        try:
            with Spool(self._spool_path) as spool:
                while not self._stopping.is_set():
                    self._guarded_turn(spool)
        except SpoolError as error:
            self.error = error
            log.critical("relay_stopped", error=str(error))

    def _guarded_turn(self, spool: Spool) -> None:
        """One turn; a full disk is waited for, a damaged spool ends the thread."""
        try:
            self._turn(spool)
        except SpoolError as error:
            if error.disposition is not Disposition.RETRY:
                raise
            self._hold_back(str(error))

    def _turn(self, spool: Spool) -> None:
        if not self._in_flight and not self._connected():
            # Nothing to send to: look again soon, and begin afresh when the link is back.
            self._not_before = 0.0
            self._backoff.reset()
            self._pace.reset()
            self._rest(_IDLE_SECONDS)
            return
        if time.monotonic() >= self._not_before:
            self._send(spool)
        self._settle(spool)

    def _send(self, spool: Spool) -> None:
        room = WINDOW - len(self._in_flight)
        if room <= 0:
            return
        room_bytes = self._pace.window_bytes - sum(sent.size_bytes for sent in self._in_flight.values())
        allowed_bytes = self._allowance.available(time.monotonic())
        for entry in outbox.next_entries(
            spool,
            besides=sorted(self._in_flight),
            limit=room,
            limit_bytes=int(max(1.0, min(room_bytes, allowed_bytes))),
            first_bytes=room_bytes if self._in_flight else None,
            urgent=self._metered or allowed_bytes <= 0 or room_bytes <= 0,
        ):
            message = self._outgoing(spool, entry)
            if message is None:
                continue
            self._in_flight[entry.sequence] = _Sent(entry, time.monotonic())
            self._allowance.spend(len(entry.body), time.monotonic())
            _tell("request_sent", entry)
            try:
                future = self._sender.send(message)
            except PublishFailed as error:
                self._ended.put((entry.sequence, error))
                return
            future.add_done_callback(partial(self._note_end, entry.sequence))

    def _note_end(self, sequence: int, done: Future[None]) -> None:
        """On the connection's thread: hand the outcome over and be gone."""
        error = done.exception()
        self._ended.put((sequence, error))
        if isinstance(error, ConfirmTimeout) and error.answer is not None:
            error.answer.add_done_callback(partial(self._note_end, sequence))

    def _outgoing(self, spool: Spool, entry: outbox.Entry) -> Outgoing | None:
        """The message as it is sent now; None when its time has run out."""
        ttl_seconds = self._remaining_seconds(spool, entry)
        if ttl_seconds == 0.0:
            return None
        return Outgoing(
            exchange=EXCHANGE_UP,
            routing_key=up_key(self._user, entry.kind),
            message_id=entry.message_id,
            # What the request is for: the server says it in its log beside the request, so that an image can be followed.
            correlation_id=entry.job_id,
            type=entry.type,
            body=entry.body,
            ttl_seconds=ttl_seconds,
        )

    def _settle(self, spool: Spool) -> None:
        """Wait a moment for confirms, then write down all that have come, in one transaction."""
        busy = self._in_flight or self._not_before or self._allowance.available(time.monotonic()) <= 0
        patience_seconds = _POLL_SECONDS if busy else _IDLE_SECONDS
        try:
            ended = [self._ended.get(timeout=patience_seconds)]
        except queue.Empty:
            return
        while not self._ended.empty():
            ended.append(self._ended.get())
        for sequence, error in ended:
            self._land(sequence, error)
        confirmed = [sequence for sequence, error in ended if error is None and sequence != _NOTHING]
        failures = [(sequence, error) for sequence, error in ended if error is not None]
        if confirmed:
            outbox.confirmed(spool, confirmed)
            self._backoff.reset()
            self._not_before = 0.0
        if failures:
            # A lost link says nothing about the message, and in a long outage each note would cost the disk a write.
            telling = [
                (sequence, str(error))
                for sequence, error in failures
                if not isinstance(error, ConnectionLost)
            ]
            if telling:
                outbox.failed(spool, telling)
            self._hold_back(str(failures[0][1]))
        elif confirmed and not self._in_flight:
            spool.give_back_disk()

    def _land(self, sequence: int, error: BaseException | None) -> None:
        """A row is not in flight any more, unless its confirm is only late."""
        if isinstance(error, ConfirmTimeout) and error.answer is not None:
            return
        sent = self._in_flight.pop(sequence, None)
        if isinstance(error, ConnectionLost):
            self._pace.reset()
        elif sent is not None and error is None:
            self._pace.confirmed(sent.size_bytes, time.monotonic() - sent.at_seconds)
            _tell("request_confirmed", sent.entry)

    def _rest(self, seconds: float) -> None:
        """Wait for a wake, for about so long."""
        with contextlib.suppress(queue.Empty):
            self._ended.get(timeout=seconds * random.uniform(0.5, 1.0))  # noqa: S311 - jitter, not a secret

    def _hold_back(self, reason: str) -> None:
        wait_seconds = self._backoff.next_seconds()
        self._not_before = time.monotonic() + wait_seconds
        log.warning("relay_holds_back", error=reason, retry_in_seconds=round(wait_seconds, 2))


def _tell(event: str, entry: outbox.Entry) -> None:
    """Log what happened to a request; of samples and telemetry there are too many, and nobody waits for one of them."""
    if entry.type == DenoiseV1.type_name:
        log.info(event, request_id=entry.message_id, job_id=entry.job_id, size_bytes=len(entry.body))
