"""What a node's own metrics tell of its queues, and what becomes of those that tell nothing."""

import socket
from collections.abc import Iterator
from contextlib import closing
from uuid import uuid4

import pika
import pytest
from pika.adapters.blocking_connection import BlockingChannel

from broker.errors import ManagementError
from broker.node.local_node import NodeInfo
from broker.node_metrics import NodeMetrics, QueueDepth
from tests.conftest import wait_until


@pytest.fixture
def channel(node: NodeInfo) -> Iterator[BlockingChannel]:
    with pika.BlockingConnection(pika.URLParameters(node.amqp_url)) as amqp:
        yield amqp.channel()


@pytest.fixture
def metrics(node: NodeInfo) -> Iterator[NodeMetrics]:
    with NodeMetrics(node.prometheus_url) as opened:
        yield opened


def test_depth_and_consumers_of_a_real_queue(
    node: NodeInfo, channel: BlockingChannel, metrics: NodeMetrics
) -> None:
    name = f"depth-{uuid4().hex}"
    channel.confirm_delivery()
    channel.queue_declare(name, durable=True, arguments={"x-queue-type": "classic"})
    try:
        for _ in range(3):
            channel.basic_publish("", name, b"\x80", mandatory=True)
        channel.basic_qos(prefetch_count=1)
        tag = channel.basic_consume(name, lambda *_: None)
        wait_until(
            lambda: metrics.queues(node.vhost).get(name) == QueueDepth(3, 1),
            "ready and unacked messages are told, and the consumer",
        )
        channel.basic_cancel(tag)
        wait_until(
            lambda: metrics.queues(node.vhost).get(name) == QueueDepth(3, 0), "the consumer is gone again"
        )
    finally:
        channel.queue_delete(name)


def test_only_the_queues_of_the_vhost_are_told_of(
    node: NodeInfo, channel: BlockingChannel, metrics: NodeMetrics
) -> None:
    name = f"here-{uuid4().hex}"
    channel.queue_declare(name, durable=True, arguments={"x-queue-type": "classic"})
    try:
        wait_until(lambda: name in metrics.queues(node.vhost), "the queue is told of in its vhost")
        assert metrics.queues("elsewhere") == {}
    finally:
        channel.queue_delete(name)


def test_a_node_that_does_not_answer_is_one_line() -> None:
    with closing(socket.socket()) as taken:
        taken.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{taken.getsockname()[1]}"
        with NodeMetrics(url) as nobody, pytest.raises(ManagementError, match="rabbitmq_prometheus enabled"):
            nobody.queues("collafuse")


def test_another_server_is_told_by_its_answer(node: NodeInfo) -> None:
    with NodeMetrics(node.management_url) as wrong, pytest.raises(ManagementError, match="answered 404"):
        wrong.queues(node.vhost)


@pytest.mark.parametrize("url", ["amqp://127.0.0.1:5672", "127.0.0.1:15692", "http://a:b"])
def test_a_url_of_something_else_is_refused(url: str) -> None:
    with pytest.raises(ManagementError, match="not the URL of a node's metrics"):
        NodeMetrics(url)
