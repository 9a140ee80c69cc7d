"""The small HTTP server of every process: `/metrics` for Prometheus, `/livez` and `/readyz` for whoever starts and feeds it.

The two probes answer 200 with `ok`, or 503 with one line that says what is wrong. A process that is not live should be
restarted; one that is not ready is left alone, and given no work.
"""

import socket
import threading
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from socketserver import ThreadingMixIn
from typing import Any
from wsgiref.simple_server import WSGIRequestHandler, WSGIServer, make_server
from wsgiref.types import StartResponse, WSGIEnvironment

from prometheus_client import CollectorRegistry, disable_created_metrics, make_wsgi_app

from monitoring.errors import MonitoringError

Probe = Callable[[], str | None]
"""What is wrong, in one line; None when nothing is. Called from the server's threads."""


def nothing_wrong() -> None:
    """The probe of a process that is live, or ready, as long as it answers at all."""


@dataclass(frozen=True, eq=False)
class Endpoints:
    """A running server; `port` is the real one when 0 was asked for."""

    port: int
    address: str
    _server: WSGIServer
    _thread: threading.Thread

    def close(self) -> None:
        """Stop answering and free the port."""
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()


def serve(
    registry: CollectorRegistry,
    port: int,
    address: str = "127.0.0.1",
    port_file: Path | None = None,
    *,
    live: Probe = nothing_wrong,
    ready: Probe = nothing_wrong,
) -> Endpoints:
    """Answer GET /metrics, /livez and /readyz, in daemon threads.

    Args:
        registry: what /metrics shows.
        port: 0 for any free one, else 1..65535.
        address: the interface; keep the loopback default unless Prometheus runs elsewhere.
        port_file: where to write the real port, as digits and a newline, for whoever asked for any free one.
        live: why the process should be restarted.
        ready: why it should be given no work at the moment.

    Raises:
        MonitoringError: the port is held by another process, the address is not of this machine, or the file cannot be written.
    """
    # When a counter was made nobody asks, and it would be one more series of each.
    disable_created_metrics()  # type: ignore[no-untyped-call]  # it takes and returns nothing
    application = _Application(registry, {"/livez": live, "/readyz": ready})
    try:
        kind = _Server6 if ":" in address else _Server
        server = make_server(address, port, application, kind, _QuietHandler)
    except (OSError, OverflowError) as error:
        raise MonitoringError(
            f"cannot serve metrics on {address}:{port} ({error}): choose another port, or 0 for any free one"
        ) from error
    thread = threading.Thread(target=server.serve_forever, name="endpoints", daemon=True)
    thread.start()
    serving = Endpoints(int(server.server_port), address, server, thread)
    if port_file is not None:
        try:
            write_port(serving.port, port_file)
        except OSError as error:
            serving.close()
            raise MonitoringError(
                f"cannot write the metrics port to {port_file}: {error.strerror}"
            ) from error
    return serving


def write_port(port: int, path: Path) -> None:
    """Write a port's digits and a newline, whole or not at all, so that whoever waits for the file can read it at once.

    Raises OSError.
    """
    draft = path.with_name(f".{path.name}.draft")
    draft.write_text(f"{port}\n")
    draft.replace(path)


class _Application:
    """Routes a request to the metrics or to a probe."""

    def __init__(self, registry: CollectorRegistry, probes: dict[str, Probe]) -> None:
        self._metrics: Any = make_wsgi_app(registry)
        self._probes = probes

    def __call__(self, environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
        path = environ["PATH_INFO"].rstrip("/")
        if path == "/metrics":
            answer: Iterable[bytes] = self._metrics(environ, start_response)
            return answer
        probe = self._probes.get(path)
        if probe is None:
            return _text(start_response, "404 Not Found", f"there are /metrics, {', '.join(self._probes)}")
        problem = probe()
        return _text(start_response, "503 Service Unavailable" if problem else "200 OK", problem or "ok")


def _text(start_response: StartResponse, status: str, line: str) -> list[bytes]:
    start_response(status, [("Content-Type", "text/plain; charset=utf-8")])
    return [f"{line}\n".encode()]


class _Server(ThreadingMixIn, WSGIServer):
    daemon_threads = True


class _Server6(_Server):
    address_family = socket.AF_INET6


class _QuietHandler(WSGIRequestHandler):
    timeout = 10  # a connection that says nothing does not hold a thread for ever

    def log_message(self, format: str, *args: Any) -> None:  # noqa: A002  # the name is the standard library's
        """A probe every few seconds is no event."""
