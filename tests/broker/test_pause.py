"""A link that is closed by intent and opened again, on the real broker."""

from collections.abc import Iterator

import pytest
from prometheus_client import CollectorRegistry

from broker.connection import Connection
from broker.errors import PublishFailed
from broker.publisher import Outgoing
from broker.settings import BrokerSettings
from monitoring.metrics import BrokerMetrics
from tests.conftest import WAIT_SECONDS, wait_until

MESSAGE = Outgoing(exchange="", routing_key="samples", message_id="m", type="samples.v1", body=b"x")


@pytest.fixture
def registry() -> CollectorRegistry:
    return CollectorRegistry()


@pytest.fixture
def connection(server_settings: BrokerSettings, registry: CollectorRegistry) -> Iterator[Connection]:
    connection = Connection(server_settings, name="test-pause", metrics=BrokerMetrics(registry))
    yield connection
    connection.stop()


def reconnects(registry: CollectorRegistry) -> float | None:
    return registry.get_sample_value("collafuse_reconnects_total")


def test_a_paused_link_is_closed_stays_closed_and_serves_again_after_it(
    connection: Connection, registry: CollectorRegistry
) -> None:
    publisher = connection.publisher()
    connection.start()
    connection.wait_connected(WAIT_SECONDS)
    publisher.publish(MESSAGE)

    connection.pause()
    connection.pause()
    wait_until(lambda: not connection.connected, "the link is closed")
    with pytest.raises(PublishFailed):
        publisher.publish(MESSAGE)
    connection.resume()
    connection.resume()
    connection.wait_connected(WAIT_SECONDS)

    publisher.publish(MESSAGE)
    assert reconnects(registry) == 0.0, "what is meant is no fault"


def test_one_that_is_paused_before_its_start_begins_without_a_link(connection: Connection) -> None:
    publisher = connection.publisher()
    connection.pause()
    connection.start()
    with pytest.raises(PublishFailed):
        publisher.publish(MESSAGE)
    assert not connection.connected

    connection.resume()

    connection.wait_connected(WAIT_SECONDS)
    publisher.publish(MESSAGE)


def test_changing_ones_mind_quickly_leaves_one_link_that_works(connection: Connection) -> None:
    publisher = connection.publisher()
    connection.start()
    for _ in range(20):
        connection.pause()
        connection.resume()
    connection.wait_connected(WAIT_SECONDS)
    for _ in range(5):
        connection.pause()
        wait_until(lambda: not connection.connected, "the link is closed")
        connection.resume()
        connection.wait_connected(WAIT_SECONDS)

    publisher.publish(MESSAGE)


def test_a_paused_connection_can_be_stopped(connection: Connection) -> None:
    connection.start()
    connection.wait_connected(WAIT_SECONDS)
    connection.pause()
    wait_until(lambda: not connection.connected, "the link is closed")

    connection.stop()

    assert not connection._thread.is_alive()
