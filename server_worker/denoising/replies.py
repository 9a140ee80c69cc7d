"""Sending replies without ever holding up the computing: a queue before the publisher's window, and a queue of outcomes."""

import queue
from collections import deque
from concurrent.futures import Future
from dataclasses import dataclass, replace
from functools import partial

from broker.errors import ConfirmTimeout, PublishFailed, Unroutable
from broker.publisher import Outgoing, Publisher

WINDOW = 64
WINDOW_BYTES = 16 * 2**20
ATTEMPTS = 6
RETRY_SECONDS = 1.0
UNROUTABLE_ATTEMPTS = 30
"""An inbox that is not there may be one whose node is down: in a cluster it is back when that node is."""


@dataclass(frozen=True, eq=False)
class Reply:
    """One message to a device on behalf of the request `key`."""

    key: str
    outgoing: Outgoing
    attempts: int = 0
    not_before_seconds: float = 0.0


@dataclass(frozen=True, eq=False)
class Outcome:
    """How a reply ended: confirmed (error None), without a recipient (Unroutable), or given up."""

    key: str
    error: PublishFailed | None


class Replies:
    """Replies on their way. One thread calls in; the confirms come from the publisher's thread.

    publisher: must have a window of WINDOW messages and WINDOW_BYTES bytes or more, and no other user.
    unroutable_attempts: how often to try, once a second, before an inbox counts as gone.
    """

    def __init__(self, publisher: Publisher, *, unroutable_attempts: int = UNROUTABLE_ATTEMPTS) -> None:
        self._publisher = publisher
        self._unroutable_attempts = unroutable_attempts
        self._waiting: deque[Reply] = deque()
        self._ended: queue.SimpleQueue[tuple[Reply, BaseException | None]] = queue.SimpleQueue()
        self._in_flight = 0
        self._in_flight_bytes = 0

    @property
    def idle(self) -> bool:
        """Nothing waits to be sent or confirmed."""
        return not self._waiting and not self._in_flight

    def send(self, key: str, outgoing: Outgoing) -> None:
        """Queue a reply; `pump` sends it."""
        self._waiting.append(Reply(key, outgoing))

    def pump(self, now_seconds: float) -> list[Outcome]:
        """Send what the window allows, and return how replies ended. Never blocks.

        A reply that the broker did not take is sent again a second later, a few times; its repeat is recognised by its id.
        """
        outcomes = []
        while True:
            try:
                reply, error = self._ended.get_nowait()
            except queue.Empty:
                break
            self._in_flight -= 1
            self._in_flight_bytes -= len(reply.outgoing.body)
            outcome = self._judge(reply, error, now_seconds)
            if outcome is not None:
                outcomes.append(outcome)
        for _ in range(len(self._waiting)):
            reply = self._waiting.popleft()
            if reply.not_before_seconds > now_seconds or not self._has_room(len(reply.outgoing.body)):
                self._waiting.append(reply)
            else:
                self._start(reply)
        return outcomes

    def drop(self, key: str) -> None:
        """Do not send what has not been sent for this request."""
        self._waiting = deque(reply for reply in self._waiting if reply.key != key)

    def _has_room(self, size_bytes: int) -> bool:
        if self._in_flight == 0:
            return True
        return self._in_flight < WINDOW and self._in_flight_bytes + size_bytes <= WINDOW_BYTES

    def _start(self, reply: Reply) -> None:
        self._in_flight += 1
        self._in_flight_bytes += len(reply.outgoing.body)
        try:
            future = self._publisher.send(reply.outgoing)
        except PublishFailed as error:
            self._ended.put((reply, error))
            return
        future.add_done_callback(partial(self._note_end, reply))

    def _note_end(self, reply: Reply, done: "Future[None]") -> None:
        """On the connection's thread. What the broker is late to answer still takes room there, and is not sent twice."""
        error = done.exception()
        if isinstance(error, ConfirmTimeout) and error.answer is not None:
            error.answer.add_done_callback(partial(self._note_end, reply))
            return
        self._ended.put((reply, error))

    def _judge(self, reply: Reply, error: BaseException | None, now_seconds: float) -> Outcome | None:
        if error is None:
            return Outcome(reply.key, None)
        if not isinstance(error, PublishFailed):
            raise error
        limit = self._unroutable_attempts if isinstance(error, Unroutable) else ATTEMPTS
        if reply.attempts + 1 >= limit:
            return Outcome(reply.key, error)
        again = replace(reply, attempts=reply.attempts + 1, not_before_seconds=now_seconds + RETRY_SECONDS)
        self._waiting.append(again)
        return None
