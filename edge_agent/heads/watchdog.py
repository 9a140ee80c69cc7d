"""A head on trial that never answers: the process is ended, so that the next one counts it as a death by this head.

A call into the runtime cannot be broken off. The beginning of a trial was written down before the head ran, so an end without
a word is one of the starts that a head is allowed; the service manager starts the agent again, and after the second the head is
given up.
"""

import contextlib
import os
import threading
from collections.abc import Callable, Iterator
from typing import Protocol

import structlog

log = structlog.get_logger(__name__)

EXIT_CODE = 70
LIMIT_SECONDS = 300.0
"""Far more than one step of any head on any device; so long the agent's thread has to stand still."""
_LOOKS = 10


class Watched(Protocol):
    """Who is watched; see `edge_agent.agent.Agent`."""

    @property
    def beats(self) -> int:
        """Rises while its thread gets on."""

    @property
    def on_trial(self) -> bool:
        """Whether the head in use is on trial; no other is worth a life."""


@contextlib.contextmanager
def watching(watched: Watched, end: Callable[[int], None] = os._exit) -> Iterator[None]:
    """Watch the agent's thread from another one, for as long as the block runs.

    end: ends the process with an exit code, at once.
    """
    stopping = threading.Event()
    thread = threading.Thread(target=_watch, args=(watched, end, stopping), name="head-watchdog", daemon=True)
    thread.start()
    try:
        yield
    finally:
        stopping.set()
        thread.join()


def _watch(watched: Watched, end: Callable[[int], None], stopping: threading.Event) -> None:
    # Looks are counted and not seconds: a process that was stopped and goes on has had none meanwhile.
    seen, in_vain = watched.beats, 0
    while not stopping.wait(LIMIT_SECONDS / _LOOKS):
        now = watched.beats
        in_vain = in_vain + 1 if now == seen and watched.on_trial else 0
        seen = now
        if in_vain >= _LOOKS:
            log.critical("head_hangs", limit_seconds=LIMIT_SECONDS, exit_code=EXIT_CODE)
            end(EXIT_CODE)
            return
