"""The agent as a process: its lock, its signals, its metrics."""

import contextlib
import signal
import threading
from collections.abc import Iterator

import structlog
from prometheus_client import CollectorRegistry

from broker.backoff import Backoff
from broker.connection import Connection
from broker.settings import BrokerSettings
from edge_agent.agent import Agent, assemble
from edge_agent.errors import SpoolDamaged, SpoolFull
from edge_agent.settings import EdgeSettings
from edge_agent.storage import quarantine
from edge_agent.storage.state import agent_lock, open_state
from monitoring.endpoints import serve
from monitoring.metrics import BrokerMetrics, EdgeMetrics

log = structlog.get_logger(__name__)

_FULL_DISK_SECONDS = 2.0


def serve_device(settings: EdgeSettings, broker: BrokerSettings) -> None:
    """Run the agent until SIGTERM or SIGINT. A damaged spool is set aside and a new one begun, a full disk is waited for.

    Raises AgentRunning when another one works on the state directory, SpoolError when the spool cannot be used.
    """
    state = open_state(settings.state)
    stopping = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: stopping.set())
    registry = CollectorRegistry()
    with agent_lock(state), _metrics(registry, settings) as port:
        broker_metrics, metrics = BrokerMetrics(registry), EdgeMetrics(registry)
        backoff = Backoff(first_seconds=1.0, limit_seconds=60.0)
        damage: SpoolDamaged | None = None
        while not stopping.is_set():
            try:
                if damage is not None:
                    folder = quarantine.set_aside(state)
                    log.critical("spool_quarantined", error=str(damage), folder=str(folder))
                    damage = None
                connection = Connection(broker, name=f"edge-{broker.user}", metrics=broker_metrics)
                with assemble(settings, state, connection, metrics, port) as parts:
                    Agent(parts, stopping).run()
            except SpoolDamaged as error:
                damage = error
                # A disk that spoils every new spool at once must not be kept busy with nothing else.
                stopping.wait(backoff.next_seconds() if backoff.failures else 0.0)
                backoff.failures += 1
            except SpoolFull as error:
                log.warning("spool_full", error=str(error))
                stopping.wait(_FULL_DISK_SECONDS)


@contextlib.contextmanager
def _metrics(registry: CollectorRegistry, settings: EdgeSettings) -> Iterator[int]:
    """Serve /metrics; yields the real port."""
    server = serve(registry, settings.metrics_port, settings.metrics_address, settings.metrics_port_file)
    try:
        log.info("metrics_listening", port=server.port, address=server.address)
        yield server.port
    finally:
        server.close()
