"""What the answers of the local API share: where things are, the desk that does the work, and what is remembered meanwhile."""

import threading
from dataclasses import dataclass

from prometheus_client import CollectorRegistry

from edge_agent.local.access import Access
from edge_agent.local.desk import Desk
from edge_agent.settings import EdgeSettings
from edge_agent.storage.state import StateDirectory

MAX_STREAMS = 32


@dataclass(eq=False)
class Office:
    """One per server; `streams` is the number of event streams that are open, `stopping` ends them."""

    settings: EdgeSettings
    state: StateDirectory
    registry: CollectorRegistry
    access: Access
    desk: Desk
    stopping: threading.Event
    streams: int = 0
