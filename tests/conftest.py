"""What every room's tests share: one real RabbitMQ node of our own, and identities on it.

There is no imitation of the broker and no skipping: without RabbitMQ the tests that need it fail and say how to install it.
"""

import logging
import os
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pika
import pytest
import structlog
from hypothesis import settings as hypothesis_settings

from broker.node.local_node import LocalNode, NodeInfo
from broker.settings import BrokerSettings
from broker.topology import FEDERATION, declare

WAIT_SECONDS = 180.0
"""Long, for a busy machine is slow and that says nothing of the code: a test that passes does not wait for it."""

# On a busy machine an example may take long, and that says nothing of the code.
hypothesis_settings.register_profile("any machine", deadline=None)
hypothesis_settings.load_profile("any machine")


def wait_until(condition: Callable[[], bool], what: str, timeout_seconds: float = WAIT_SECONDS) -> None:
    """Wait for a condition with a deadline; fail with `what` when it does not come true."""
    deadline = time.monotonic() + timeout_seconds
    while not condition():
        if time.monotonic() > deadline:
            pytest.fail(f"within {timeout_seconds:g} s it did not happen that {what}")
        time.sleep(0.01)


def processes_of(directory: Path) -> list[int]:
    """The pids of processes that carry `directory` on their command line or in their environment."""
    found = []
    for entry in Path("/proc").iterdir():
        try:
            words = (
                (entry / "environ").read_bytes() + (entry / "cmdline").read_bytes()
                if entry.name.isdigit()
                else b""
            )
        except OSError:
            continue
        if str(directory).encode() in words and int(entry.name) != os.getpid():
            found.append(int(entry.name))
    return found


def is_registered(directory: Path, queue: str) -> bool:
    """Whether a quorum queue would survive: RabbitMQ writes the register of these queues about a second late."""
    registers = directory.glob("data/*/quorum/*/names.dets")
    return any(queue.encode() in register.read_bytes() for register in registers)


@pytest.fixture(autouse=True)
def logging_as_before() -> Iterator[None]:
    """A command that is called in this process sets how it logs, and from which level on; the next test knows nothing of it."""
    root = logging.getLogger()
    handlers, level = root.handlers, root.level
    yield
    root.handlers = handlers
    root.setLevel(level)
    structlog.reset_defaults()


@pytest.fixture(scope="session")
def node(tmp_path_factory: pytest.TempPathFactory) -> Iterator[NodeInfo]:
    """A private RabbitMQ node with the topology declared, for the whole run."""
    local = LocalNode(tmp_path_factory.mktemp("broker"))
    info = local.start()
    try:
        with pika.BlockingConnection(pika.URLParameters(info.amqp_url)) as amqp:
            declare(amqp.channel(), FEDERATION)
        yield info
    finally:
        local.kill()  # an orderly end takes six seconds, and for files that nobody reads again


@pytest.fixture
def server_settings(node: NodeInfo) -> BrokerSettings:
    """The settings of a server-side process; the federation's queues are empty."""
    settings = BrokerSettings.from_url(node.amqp_url)
    with pika.BlockingConnection(pika.URLParameters(node.amqp_url)) as amqp:
        channel = amqp.channel()
        for queue in FEDERATION.queues:
            channel.queue_purge(queue.name)
    return settings
