import socket
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import httpx
import pytest
from prometheus_client import CollectorRegistry

from edge_agent.local import connections
from edge_agent.local.connections import HEAD_SECONDS, MAX_CONNECTIONS, MAX_PER_PEER
from edge_agent.local.server import LocalServer
from edge_agent.settings import EdgeSettings
from edge_agent.storage.spool import Spool
from edge_agent.storage.state import StateDirectory
from tests.conftest import wait_until
from tests.edge_agent.local.test_api import problem

UNFINISHED = (
    b"POST /v1/images HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
    b"Content-Length: 9\r\nExpect: 100-continue\r\n\r\n"
)


@pytest.fixture
def url(
    spool: Spool, state: StateDirectory, settings: Callable[..., EdgeSettings], tmp_path: Path
) -> Iterator[str]:
    """A page in this process."""
    port_file = tmp_path / "port"
    server = LocalServer(settings(api_port=0, api_port_file=port_file), state, CollectorRegistry())
    server.start()
    wait_until(port_file.exists, "the page is served")
    yield f"http://127.0.0.1:{int(port_file.read_text())}"
    server.stop()


def connect(url: str) -> socket.socket:
    place = httpx.URL(url)
    return socket.create_connection((place.host, place.port or 0), timeout=HEAD_SECONDS + 5)


def connect_and_keep_busy(url: str) -> socket.socket:
    """A connection on which a request is in hand, of which the page waits for the rest."""
    connection = connect(url)
    connection.sendall(UNFINISHED)
    assert connection.recv(4096).startswith(b"HTTP/1.1 100 "), "the page reads on"
    return connection


def test_silent_connections_close_the_page_to_nobody(url: str) -> None:
    with ExitStack() as held:
        silent = [held.enter_context(connect(url)) for _ in range(MAX_CONNECTIONS + 10)]
        assert httpx.get(f"{url}/healthz").status_code == 200
        assert silent[0].recv(1) == b"", "the oldest made way"


def test_a_connection_that_sends_no_whole_head_is_closed_however_slowly_it_goes_on(
    url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(connections, "HEAD_SECONDS", 0.5)
    with connect(url) as silent, connect(url) as slow, connect(url) as second:
        second.sendall(b"GET /healthz HTTP/1.1\r\nHost: localhost\r\n\r\n")
        answer = b""
        while not answer.endswith(b"}"):
            answer += second.recv(4096)
        assert answer.startswith(b"HTTP/1.1 200")
        second.sendall(b"GET /healthz HTT")
        assert silent.recv(1) == b""
        assert second.recv(1) == b""

        def is_closed() -> bool:
            try:
                slow.sendall(b"G")
            except OSError:
                return True
            return False

        wait_until(is_closed, "the slow one is closed")


def test_when_all_connections_are_in_use_one_more_is_told_so(url: str) -> None:
    with ExitStack() as held:
        for _ in range(MAX_CONNECTIONS):
            held.enter_context(connect_and_keep_busy(url))
        answer = httpx.get(f"{url}/healthz")
    assert problem(answer, 503) == "busy"
    assert (answer.headers["connection"], answer.headers["retry-after"]) == ("close", "5")
    assert answer.headers["x-content-type-options"] == "nosniff"
    wait_until(lambda: httpx.get(f"{url}/healthz").status_code == 200, "there is room again")


def test_another_machine_cannot_have_all_connections(url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    with ExitStack() as held:
        for _ in range(MAX_PER_PEER):
            held.enter_context(connect_and_keep_busy(url))
        assert httpx.get(f"{url}/healthz").status_code == 200, "this machine may"
        monkeypatch.setattr(connections, "is_loopback", lambda _: False)
        assert problem(httpx.get(f"{url}/healthz"), 503) == "busy"
