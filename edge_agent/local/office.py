"""What the answers of the local API share: where things are, the desk that does the work, and what is remembered meanwhile."""

import threading
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass, field

from prometheus_client import CollectorRegistry

from edge_agent.local.access import Access
from edge_agent.local.desk import Desk
from edge_agent.local.problem import Problem
from edge_agent.settings import EdgeSettings
from edge_agent.storage.state import StateDirectory

MAX_STREAMS = 32
REMEMBERED_KEYS = 1024


class Repeats:
    """Remembers which request an Idempotency-Key came with and which job it made: the last 1024, until the agent ends."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._known: OrderedDict[str, tuple[bytes, str]] = OrderedDict()

    def once(self, key: str | None, body: bytes, accept: Callable[[], str]) -> str:
        """The job of this key, made by `accept` the first time; without a key it is made each time.

        Raises Problem 409 when the key came with another body before.
        """
        if key is None:
            return accept()
        with self._lock:
            known = self._known.get(key)
            if known is None:
                known = self._known[key] = (body, accept())
                if len(self._known) > REMEMBERED_KEYS:
                    self._known.popitem(last=False)
        if known[0] != body:
            raise Problem(
                409, "key_reused", "this Idempotency-Key came with another request before: choose a new one"
            )
        return known[1]


@dataclass(eq=False)
class Office:
    """One per server; `streams` is the number of event streams that are open, `stopping` ends them."""

    settings: EdgeSettings
    state: StateDirectory
    registry: CollectorRegistry
    access: Access
    desk: Desk
    stopping: threading.Event
    repeats: Repeats = field(default_factory=Repeats)
    streams: int = 0
