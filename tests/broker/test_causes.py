"""What people read when a connection fails: real failures of real connections."""

import contextlib
import re
import socket
import ssl
import threading
from collections.abc import Callable, Iterator

import pytest
from prometheus_client import CollectorRegistry

from broker.causes import in_words
from broker.connection import Connection
from broker.node.local_node import NodeInfo
from broker.settings import BrokerSettings
from monitoring.metrics import BrokerMetrics
from tests.broker.conftest import wait_refused


def fails(url: str, words: str) -> str:
    """Waits until a connection fails for a reason that people read in these words; returns all they read."""
    settings = BrokerSettings.from_url(url).model_copy(update={"connect_timeout_seconds": 0.3})
    with Connection(settings, name="test", metrics=BrokerMetrics(CollectorRegistry())) as connection:
        return wait_refused(connection, re.escape(words))


@contextlib.contextmanager
def listening(deal: Callable[[socket.socket], None]) -> Iterator[int]:
    """A port on which somebody deals with each connection in a way of his own."""
    with socket.create_server(("127.0.0.1", 0)) as server:

        def serve() -> None:
            with contextlib.suppress(OSError):
                while True:
                    deal(server.accept()[0])

        threading.Thread(target=serve, daemon=True).start()
        yield server.getsockname()[1]


def test_a_port_on_which_nobody_listens(node: NodeInfo) -> None:
    fails("amqp://user:secret@127.0.0.1:1/x", "nothing listens there")


def test_a_wrong_password(node: NodeInfo) -> None:
    fails(node.amqp_url.replace(node.password, "wrong"), "does not accept the user or the password")


def test_a_vhost_that_is_not_there(node: NodeInfo) -> None:
    fails(node.amqp_url.replace("/collafuse", "/nowhere"), "may not enter the vhost")


def test_somebody_who_hangs_up() -> None:
    with listening(lambda link: link.close()) as port:
        fails(f"amqp://user:secret@127.0.0.1:{port}/x", "is that the broker's port?")


@pytest.mark.parametrize("scheme", ["amqp", "amqps"])
def test_somebody_who_says_nothing(scheme: str) -> None:
    held: list[socket.socket] = []
    with listening(held.append) as port:
        fails(f"{scheme}://user:secret@127.0.0.1:{port}/x", "did not answer in time")


def test_tls_where_there_is_none(node: NodeInfo) -> None:
    fails(f"amqps://user:secret@127.0.0.1:{node.ports.amqp}/x", "is this the TLS port")


def test_a_failure_is_one_line_without_the_secret() -> None:
    text = fails("amqp://user:secret@127.0.0.1:1/x", "nothing listens there")

    assert "\n" not in text
    assert "secret" not in text


@pytest.mark.parametrize(
    ("error", "words"),
    [
        ("as it was said", "as it was said"),
        (
            socket.gaierror(-2, "Name or service not known"),
            "its name cannot be resolved (Name or service not known)",
        ),
        (ssl.SSLCertVerificationError(1, "x"), "its certificate cannot be trusted"),
        (ValueError("of\nour own"), "ValueError: of our own"),
    ],
)
def test_errors_of_libraries_are_put_into_words(error: BaseException | str, words: str) -> None:
    if isinstance(error, ssl.SSLCertVerificationError):
        error.verify_message = "self-signed certificate"

    assert in_words(error).startswith(words)
