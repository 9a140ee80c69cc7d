"""The connections of the local page: whoever says nothing is not waited for, and nobody can hold them all.

uvicorn counts connections and waits for a first request as long as it takes, so that a few silent ones would close the page to
everyone. Here a connection without a request in hand has a time limit, and is the first to go when there are too many.
"""

import asyncio
from collections.abc import Iterable
from typing import Any

from starlette.types import Receive, Scope, Send
from uvicorn.protocols.http.h11_impl import H11Protocol

from edge_agent.local.access import is_loopback, secured
from edge_agent.local.problem import SOON, Problem, answer_of

HEAD_SECONDS = 10.0
"""For the head of a request, from its first byte, or from the connection's beginning."""
MAX_CONNECTIONS = 128
MAX_PER_PEER = 32
"""Of another machine; this one may have them all."""


class PatientConnection(H11Protocol):
    """One connection; uvicorn makes it."""

    def __init__(self, *arguments: Any, **options: Any) -> None:
        super().__init__(*arguments, **options)
        self._idle_since = self.loop.time()
        self._head_timer: asyncio.TimerHandle | None = None
        self._gone = False

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]  # as uvicorn has it
        """Find room, if need be that of a connection with nothing to do; else say that there is none."""
        super().connection_made(transport)
        self._watch()
        peer = self.client[0] if self.client else ""
        others = [one for one in self.connections if isinstance(one, PatientConnection) and one is not self]
        room = _make_room(others, MAX_CONNECTIONS)
        if not is_loopback(peer):
            room &= _make_room((one for one in others if one.client and one.client[0] == peer), MAX_PER_PEER)
        if not room:
            self.app = _crowded

    def connection_lost(self, exc: Exception | None) -> None:
        """Nothing is waited for any more."""
        self._gone = True
        self._watch()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        """What comes without being a request is given the time of a head, however slowly it comes."""
        super().data_received(data)
        self._watch()

    def on_response_complete(self) -> None:
        """From now on it may make way again."""
        self._idle_since = self.loop.time()
        super().on_response_complete()

    @property
    def idle(self) -> bool:
        """Whether no request is in hand."""
        return self.cycle is None or self.cycle.response_complete

    def leave(self) -> None:
        """End at once; what its peer has not read by now is lost."""
        self._gone = True
        self.transport.abort()

    def _watch(self) -> None:
        """Start the time limit, or end it; while it runs it is not begun anew."""
        waits = self.idle and not self._gone
        if waits and self._head_timer is None:
            self._head_timer = self.loop.call_later(HEAD_SECONDS, self._out_of_time)
        elif not waits and self._head_timer is not None:
            self._head_timer.cancel()
            self._head_timer = None

    def _out_of_time(self) -> None:
        self._head_timer = None
        if self.idle:
            self.leave()


def _make_room(others: Iterable[PatientConnection], limit: int) -> bool:
    """Whether one more is within the limit, after the one that has been idle for longest has left if need be."""
    there = [one for one in others if not one._gone]
    if len(there) < limit:
        return True
    idle = [one for one in there if one.idle]
    if idle:
        min(idle, key=lambda one: one._idle_since).leave()
    return bool(idle)


async def _crowded(scope: Scope, receive: Receive, send: Send) -> None:
    """The answer to a request on a connection too many."""
    problem = Problem(
        503,
        "busy",
        "too many connections are open already: close some, or try again in a few seconds",
        SOON | {"Connection": "close"},
    )
    await answer_of(problem)(scope, receive, secured(send))
