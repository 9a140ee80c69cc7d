"""The agent as a process: its lock, its signals, its metrics, its page."""

import contextlib
import signal
import threading
import time
from collections.abc import Iterator
from typing import TYPE_CHECKING

import structlog
from prometheus_client import CollectorRegistry

from broker.backoff import Backoff
from broker.connection import Connection
from broker.settings import BrokerSettings
from edge_agent.agent import Agent
from edge_agent.assembly import assemble
from edge_agent.errors import SpoolBusy, SpoolDamaged, SpoolFull, SpoolReplaced
from edge_agent.heads import watchdog
from edge_agent.settings import EdgeSettings
from edge_agent.status import note
from edge_agent.storage import quarantine
from edge_agent.storage.state import StateDirectory, agent_lock, open_state
from monitoring.endpoints import serve
from monitoring.errors import CollafuseError
from monitoring.metrics import BrokerMetrics, EdgeMetrics

if TYPE_CHECKING:
    from edge_agent.local.server import LocalServer

log = structlog.get_logger(__name__)

_FULL_DISK_SECONDS = 2.0
_OF_DATA = (ValueError, TypeError, LookupError, ArithmeticError, AttributeError)
"""What is raised where a value is not what this program writes; a library that is missing, say, is nobody's data."""
_AT_ONCE_SECONDS = 10.0
_PATIENCE = 2


def serve_device(settings: EdgeSettings, broker: BrokerSettings) -> None:
    """Run the agent until SIGTERM or SIGINT. A damaged spool is set aside and a new one begun, a full disk is waited for.

    So is a spool over whose content the agent stumbles twice at once, although its structure is whole.

    Raises AgentRunning when another one works on the state directory, SpoolError when the spool cannot be used, ConfigError when
    the local page would be open to the network without a token.
    """
    state = open_state(settings.state)
    stopping = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: stopping.set())
    registry = CollectorRegistry()
    with agent_lock(state), _metrics(registry, settings) as port:
        broker_metrics, metrics = BrokerMetrics(registry), EdgeMetrics(registry)
        backoff = Backoff(first_seconds=0.5, limit_seconds=60.0)
        damage: SpoolDamaged | None = None
        stumbles = _Stumbles(state)
        while not stopping.is_set():
            stumbles.begin()
            try:
                if damage is not None:
                    folder = quarantine.set_aside(state)
                    log.critical("spool_quarantined", error=str(damage), folder=str(folder))
                    damage = None
                page = _make_page(settings, state, registry)
                with (
                    _connection(broker, broker_metrics) as connection,
                    assemble(settings, state, connection, metrics, port) as parts,
                    _page(page),
                ):
                    if page is None:
                        note(parts.spool, {"page": None})
                    agent = Agent(parts, stopping)
                    with watchdog.watching(agent):
                        agent.run()
            except SpoolDamaged as error:
                damage = error
                # A disk that spoils every new spool at once must not be kept busy with nothing else.
                stopping.wait(backoff.next_seconds())
            except SpoolReplaced as error:
                log.critical("spool_gone", error=str(error))  # somebody removed the file by hand
                stopping.wait(backoff.next_seconds())
            except (SpoolFull, SpoolBusy) as error:
                log.warning(error.event, error=str(error))
                stopping.wait(_FULL_DISK_SECONDS)
            except _OF_DATA as error:
                damage = stumbles.met(error)
                stopping.wait(backoff.next_seconds())


class _Stumbles:
    """How often in a row the agent has stumbled, just after a start, over values that this program would not write."""

    def __init__(self, state: StateDirectory) -> None:
        self._state = state
        self._times = 0
        self._began_at = 0.0

    def begin(self) -> None:
        """The agent is about to start."""
        self._began_at = time.monotonic()

    def met(self, error: Exception) -> SpoolDamaged | None:
        """It stumbled: what the spool is to be set aside for, or None for another try. Raises the error when that is no help."""
        if isinstance(error, CollafuseError):
            raise error
        self._times = self._times + 1 if time.monotonic() - self._began_at < _AT_ONCE_SECONDS else 1
        log.error("agent_stumbled", times=self._times, exc_info=error)
        if self._times < _PATIENCE:
            return None
        # Once only, until somebody has looked: it may be the program's fault, and then the next spool would go the same way.
        if quarantine.names(self._state):
            raise error
        return SpoolDamaged(f"the agent stumbles over what is in the spool {self._state.spool}: {error!r}")


@contextlib.contextmanager
def _connection(broker: BrokerSettings, metrics: BrokerMetrics) -> Iterator[Connection]:
    """A connection that is not begun yet, and that is closed even when it never is."""
    connection = Connection(broker, name=f"edge-{broker.user}", metrics=metrics)
    try:
        yield connection
    finally:
        connection.stop()


def _make_page(
    settings: EdgeSettings, state: StateDirectory, registry: CollectorRegistry
) -> "LocalServer | None":
    if not settings.api:
        return None
    # A device without a page should not pay for a web server.
    from edge_agent.local.server import LocalServer  # noqa: PLC0415

    return LocalServer(settings, state, registry)


@contextlib.contextmanager
def _page(server: "LocalServer | None") -> Iterator[None]:
    """Serve the local page while the agent works."""
    if server is None:
        yield
        return
    server.start()
    try:
        yield
    finally:
        server.stop()


@contextlib.contextmanager
def _metrics(registry: CollectorRegistry, settings: EdgeSettings) -> Iterator[int]:
    """Serve /metrics; yields the real port."""
    server = serve(registry, settings.metrics_port, settings.metrics_address, settings.metrics_port_file)
    try:
        log.info("metrics_listening", port=server.port, address=server.address)
        yield server.port
    finally:
        server.close()
