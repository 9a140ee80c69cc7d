"""What a node's own metrics tell of its queues, and what becomes of those that tell nothing."""

import socket
from collections.abc import Iterator
from contextlib import closing
from uuid import uuid4

import httpx
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
            lambda: metrics.queues().get((node.vhost, name)) == QueueDepth(3, 1),
            "ready and unacked messages are told, and the consumer",
        )
        channel.basic_cancel(tag)
        wait_until(
            lambda: metrics.queues().get((node.vhost, name)) == QueueDepth(3, 0), "the consumer is gone again"
        )
    finally:
        channel.queue_delete(name)


def test_queues_of_the_same_name_are_told_apart_by_their_vhost(
    node: NodeInfo, channel: BlockingChannel, metrics: NodeMetrics
) -> None:
    name, elsewhere = f"here-{uuid4().hex}", f"elsewhere-{uuid4().hex}"
    api = httpx.Client(base_url=f"{node.management_url}/api", auth=(node.user, node.password), timeout=20)
    channel.queue_declare(name, durable=True, arguments={"x-queue-type": "classic"})
    try:
        assert api.put(f"/vhosts/{elsewhere}").is_success
        everything = {"configure": ".*", "write": ".*", "read": ".*"}
        assert api.put(f"/permissions/{elsewhere}/{node.user}", json=everything).is_success
        assert api.put(f"/queues/{elsewhere}/{name}", json={"durable": True}).is_success
        wait_until(
            lambda: {(node.vhost, name), (elsewhere, name)} <= metrics.queues().keys(),
            "both queues are told of",
        )
    finally:
        channel.queue_delete(name)
        api.delete(f"/vhosts/{elsewhere}")
        api.close()


def test_a_node_that_does_not_answer_is_one_line() -> None:
    with closing(socket.socket()) as taken:
        taken.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{taken.getsockname()[1]}"
        with NodeMetrics(url) as nobody, pytest.raises(ManagementError, match="rabbitmq_prometheus enabled"):
            nobody.queues()


def test_another_server_is_told_by_its_answer(node: NodeInfo) -> None:
    with NodeMetrics(node.management_url) as wrong, pytest.raises(ManagementError, match="answered 404"):
        wrong.queues()


@pytest.mark.parametrize("url", ["amqp://127.0.0.1:5672", "127.0.0.1:15692", "http://a:b"])
def test_a_url_of_something_else_is_refused(url: str) -> None:
    with pytest.raises(ManagementError, match="not the URL of a node's metrics"):
        NodeMetrics(url)
