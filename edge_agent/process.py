"""The agent as a process: its lock, its signals, its metrics."""

import contextlib
import signal
import threading
from collections.abc import Iterator

import structlog
from prometheus_client import CollectorRegistry

from broker.connection import Connection
from broker.settings import BrokerSettings
from edge_agent.agent import Agent, assemble
from edge_agent.settings import EdgeSettings
from edge_agent.storage.state import agent_lock, open_state
from monitoring.endpoints import serve
from monitoring.metrics import BrokerMetrics, EdgeMetrics

log = structlog.get_logger(__name__)


def serve_device(settings: EdgeSettings, broker: BrokerSettings) -> None:
    """Run the agent until SIGTERM or SIGINT.

    Raises AgentRunning when another one works on the state directory, SpoolError when the spool cannot be used.
    """
    state = open_state(settings.state)
    stopping = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: stopping.set())
    registry = CollectorRegistry()
    with agent_lock(state), _metrics(registry, settings) as port:
        connection = Connection(broker, name=f"edge-{broker.user}", metrics=BrokerMetrics(registry))
        with assemble(settings, state, connection, EdgeMetrics(registry), port) as parts:
            Agent(parts, stopping).run()


@contextlib.contextmanager
def _metrics(registry: CollectorRegistry, settings: EdgeSettings) -> Iterator[int]:
    """Serve /metrics; yields the real port."""
    server = serve(registry, settings.metrics_port, settings.metrics_address, settings.metrics_port_file)
    try:
        log.info("metrics_listening", port=server.port, address=server.address)
        yield server.port
    finally:
        server.close()
