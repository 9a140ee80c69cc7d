"""The server of the local page: a thread of the agent that never stands in its way, and tries again when its port is taken."""

import asyncio
import socket
import threading
from typing import Any

import structlog
import uvicorn
from prometheus_client import CollectorRegistry
from starlette.types import ASGIApp

from edge_agent import status
from edge_agent.errors import SpoolError
from edge_agent.local.access import Access
from edge_agent.local.application import make_application
from edge_agent.local.connections import PatientConnection
from edge_agent.local.desk import Desk
from edge_agent.local.office import Office
from edge_agent.settings import EdgeSettings
from edge_agent.storage.spool import Spool
from edge_agent.storage.state import StateDirectory
from monitoring.endpoints import write_port

log = structlog.get_logger(__name__)

RETRY_SECONDS = 5.0
_BACKLOG = 64
_KEEP_ALIVE_SECONDS = 15
_GRACE_SECONDS = 1
_STOP_SECONDS = 2.0


class LocalServer:
    """Serves the page and the API of one agent.

    settings: `api_address`, `api_port`, `api_token`, `api_port_file`.  state: whose spool and results are shown; the spool has to
    be there when `start` is called.  registry: what /metrics shows.

    Raises ConfigError when the settings would leave the page open to the network.
    """

    def __init__(self, settings: EdgeSettings, state: StateDirectory, registry: CollectorRegistry) -> None:
        self._settings = settings
        self._state = state
        self._registry = registry
        self._access = Access.of(settings)
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._run, name="page", daemon=True)
        self._told: str | None = None

    def start(self) -> None:
        """Begin to serve, or to try to."""
        self._thread.start()

    def stop(self) -> None:
        """End every stream and connection, and free the port; takes two seconds at most."""
        self._stopping.set()
        self._thread.join(_STOP_SECONDS)

    def _run(self) -> None:
        while not self._stopping.is_set():
            try:
                with self._listen() as listener:
                    self._report_port(int(listener.getsockname()[1]))
                    self._serve(listener)
            except OSError as error:
                self._report_problem(error)
            except Exception:  # the agent works on without its page, and says so
                log.exception("page_ended")
            self._stopping.wait(RETRY_SECONDS)

    def _listen(self) -> socket.socket:
        address, port = self._settings.api_address, self._settings.api_port
        family, kind, protocol, _, place = socket.getaddrinfo(
            address, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )[0]
        listener = socket.socket(family, kind, protocol)
        try:
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            listener.bind(place)
            listener.listen(_BACKLOG)
        except BaseException:
            listener.close()
            raise
        return listener

    def _serve(self, listener: socket.socket) -> None:
        desk = Desk(self._state.spool)
        try:
            office = Office(self._settings, self._state, self._registry, self._access, desk, self._stopping)
            server = _Server(_config(make_application(office)), self._stopping)
            asyncio.run(server.serve([listener]))
        finally:
            desk.close()

    def _report_port(self, port: int) -> None:
        log.info("page_listening", address=self._settings.api_address, port=port)
        self._told = None
        self._note({"port": port, "error": None})
        path = self._settings.api_port_file
        if path is None:
            return
        try:
            write_port(port, path)
        except OSError as error:
            log.warning("page_port_not_written", path=str(path), error=error.strerror)

    def _report_problem(self, error: OSError) -> None:
        """Say it once, loudly; the next try follows."""
        where = f"{self._settings.api_address}:{self._settings.api_port}"
        words = (
            f"the local page cannot be served on {where} ({error.strerror or error}): choose another api_port"
        )
        if words == self._told:
            return
        self._told = words
        log.error("page_not_served", error=words, retry_seconds=RETRY_SECONDS)
        self._note({"port": None, "error": words})

    def _note(self, facts: dict[str, Any]) -> None:
        """For the status command."""
        try:
            with Spool(self._state.spool) as spool:
                status.note(spool, {"page": facts})
        except SpoolError as error:
            log.warning("page_not_noted", error=str(error))


class _Server(uvicorn.Server):
    """Ends when the agent does, and sleeps until then: it shall cost nothing while nobody looks."""

    def __init__(self, config: uvicorn.Config, stopping: threading.Event) -> None:
        super().__init__(config)
        self._agent_stops = stopping

    async def main_loop(self) -> None:
        """Wait for the end; called by uvicorn between its start and its shutdown."""
        await asyncio.to_thread(self._agent_stops.wait)


def _config(application: ASGIApp) -> uvicorn.Config:
    return uvicorn.Config(
        application,
        loop="asyncio",
        http=PatientConnection,
        ws="none",
        lifespan="off",
        log_config=None,
        log_level="warning",
        access_log=False,
        proxy_headers=False,
        server_header=False,
        date_header=False,
        timeout_keep_alive=_KEEP_ALIVE_SECONDS,
        timeout_graceful_shutdown=_GRACE_SECONDS,
        h11_max_incomplete_event_size=16 * 1024,
    )
