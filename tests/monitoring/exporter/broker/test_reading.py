"""The two ways in which the exporter reads a real broker: they tell the same, and the quick one never tells less."""

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from urllib.parse import quote
from uuid import uuid4

import httpx
import pika
import pytest
import structlog
from prometheus_client import CollectorRegistry

from broker import topology
from broker.management import Management
from broker.node.local_node import NodeInfo
from broker.node_metrics import NodeMetrics
from broker.settings import BrokerSettings
from monitoring.exporter.broker.collector import BrokerCollector
from monitoring.exporter.broker.reading import (
    COLUMNS,
    LISTED_AGAIN_SECONDS,
    WATCHED_QUEUES,
    BrokerReader,
    Inboxes,
    Reading,
)
from tests.brokers import Brokers
from tests.conftest import wait_until
from tests.link import Link
from tests.monitoring.exporter.broker.slow_listing import slow_listing

INCOMPLETE, COMPLETE_AGAIN = "node_metrics_incomplete", "node_metrics_complete_again"


@contextmanager
def two_inboxes(*nodes: NodeInfo) -> Iterator[None]:
    """An inbox on each node, and a letter in each; what other tests' devices left is gone."""
    with ExitStack() as stack:
        management = stack.enter_context(
            Management(nodes[0].management_url, nodes[0].user, nodes[0].password)
        )
        for left in management.queues(nodes[0].vhost, ["name"]):
            if left["name"].startswith("inbox."):
                management.delete_queue(nodes[0].vhost, left["name"])
        for number, node in enumerate(nodes):
            amqp = stack.enter_context(pika.BlockingConnection(pika.URLParameters(node.amqp_url)))
            channel = amqp.channel()
            channel.confirm_delivery()
            topology.declare(channel, topology.inbox("reading", f"device-{number}"))
            stack.callback(management.delete_queue, node.vhost, f"inbox.reading_device-{number}")
            channel.basic_publish(
                topology.EXCHANGE_DOWN, f"device.reading_device-{number}", b"\x80", mandatory=True
            )
            channel.basic_consume(f"inbox.reading_device-{number}", lambda *_: None)
        yield


@contextmanager
def readers(api: NodeInfo, *ports: int) -> Iterator[tuple[BrokerReader, BrokerReader]]:
    """One that asks the metrics on these ports of this machine too, and one that asks the management API alone."""
    with ExitStack() as stack:
        management = stack.enter_context(Management(api.management_url, api.user, api.password))
        nodes = [stack.enter_context(NodeMetrics(f"http://127.0.0.1:{port}")) for port in ports]
        yield BrokerReader(management, api.vhost, nodes), BrokerReader(management, api.vhost)


def by_name(reading: Reading) -> dict[str, object]:
    return {queue["name"]: queue for queue in reading.queues}


def is_quick(reader: BrokerReader) -> bool:
    """Reads once more: whether the nodes' metrics were enough."""
    reader()
    return reader.missed is None


def test_both_ways_tell_the_same(node: NodeInfo, server_settings: BrokerSettings) -> None:
    wanted = Inboxes(count=1, read=1, messages=1, messages_max=1)
    with two_inboxes(node), readers(node, node.ports.prometheus) as (quick, slow):
        wait_until(lambda: slow().inboxes == wanted, "the management API tells of the inbox")
        wait_until(lambda: quick().inboxes == wanted, "the nodes' metrics tell of it")
        wait_until(lambda: is_quick(quick), "the nodes' metrics tell of every queue")
        wait_until(
            lambda: by_name(quick()) == by_name(slow()), "each tells the same of the federation's queues"
        )
        assert set(by_name(quick())) == set(WATCHED_QUEUES)
        told = {column.partition(".")[0] for column in COLUMNS}
        assert all(set(queue) <= told for queue in quick().queues)


def test_metrics_that_do_not_answer_are_made_up_for_and_told_of_once(
    node: NodeInfo, server_settings: BrokerSettings
) -> None:
    wanted = Inboxes(count=1, read=1, messages=1, messages_max=1)
    with (
        two_inboxes(node),
        Link(node.ports.prometheus) as link,
        readers(node, link.port) as (quick, slow),
    ):
        wait_until(lambda: slow().inboxes == wanted, "the management API tells of the inbox")
        link.refuses = True
        link.cut()
        with structlog.testing.capture_logs() as logs:
            assert [quick().inboxes, quick().inboxes] == [wanted, wanted]
            assert set(by_name(quick())) == set(WATCHED_QUEUES)
        assert [entry["event"] for entry in logs] == [INCOMPLETE]
        assert "rabbitmq_prometheus" in logs[0]["reason"]

        link.refuses = False
        with structlog.testing.capture_logs() as logs:
            wait_until(lambda: is_quick(quick), "the metrics are read again")
        assert [entry["event"] for entry in logs] == [COMPLETE_AGAIN]


def test_a_broker_that_is_too_slow_to_list_its_queues_is_up_and_asked_for_them_seldom(
    node: NodeInfo, server_settings: BrokerSettings
) -> None:
    now, registry = [100.0], CollectorRegistry()

    def value(name: str, **labels: str) -> float | None:
        return registry.get_sample_value(f"collafuse_{name}", labels)

    def told() -> tuple[float | None, ...]:
        return value("broker_up"), value("queue_consumers", queue="denoise"), value("inboxes")

    with two_inboxes(node), slow_listing(node) as slow, Management(slow.url, node.user, node.password) as api:
        registry.register(BrokerCollector(BrokerReader(api, node.vhost, clock=lambda: now[0])))
        assert told() == (1, 0, None)
        assert told() == (1, 0, None)
        once = len(slow.asked)
        now[0] += LISTED_AGAIN_SECONDS
        slow.is_slow = False
        assert told() == (1, 0, 1)
    assert once == 1, "it is asked once, and then not until a minute is over"


def test_queues_of_other_vhosts_are_neither_counted_nor_missed(
    node: NodeInfo, server_settings: BrokerSettings
) -> None:
    wanted = Inboxes(count=1, read=1, messages=1, messages_max=1)
    elsewhere = f"elsewhere-{uuid4().hex}"
    everything = {"configure": ".*", "write": ".*", "read": ".*"}
    with (
        two_inboxes(node),
        readers(node, node.ports.prometheus) as (quick, _),
        httpx.Client(
            base_url=f"{node.management_url}/api", auth=(node.user, node.password), timeout=20
        ) as api,
    ):
        assert api.put(f"/vhosts/{elsewhere}").is_success
        try:
            assert api.put(f"/permissions/{elsewhere}/{node.user}", json=everything).is_success
            assert api.put(f"/queues/{elsewhere}/inbox.reading_far", json={"durable": True}).is_success
            wait_until(lambda: is_quick(quick), "the node's metrics tell of every queue")
            wait_until(lambda: quick().inboxes == wanted, "those of this vhost alone are counted")
        finally:
            api.delete(f"/vhosts/{elsewhere}")


@pytest.mark.parametrize("name", ['quote"', "back\\slash", 'like,queue="inbox.reading_x"} 5', "\N{SNOWMAN}"])
def test_a_queue_with_an_odd_name_disturbs_nothing(
    node: NodeInfo, server_settings: BrokerSettings, name: str
) -> None:
    wanted = Inboxes(count=1, read=1, messages=1, messages_max=1)
    with (
        two_inboxes(node),
        readers(node, node.ports.prometheus) as (quick, slow),
        pika.BlockingConnection(pika.URLParameters(node.amqp_url)) as amqp,
    ):
        channel = amqp.channel()
        channel.queue_declare(name, durable=True, arguments={"x-queue-type": "classic"})
        try:
            wait_until(lambda: quick().inboxes == slow().inboxes == wanted, "both ways tell of one inbox")
            wait_until(lambda: is_quick(quick), "the node's metrics tell of every queue")
            assert quick().inboxes == wanted
        finally:
            channel.queue_delete(name)


def test_the_inboxes_of_a_vhost_with_an_odd_name_are_told(node: NodeInfo) -> None:
    vhost = 'odd"vhost'
    everything = {"configure": ".*", "write": ".*", "read": ".*"}
    with (
        httpx.Client(
            base_url=f"{node.management_url}/api", auth=(node.user, node.password), timeout=20
        ) as api,
        Management(node.management_url, node.user, node.password) as management,
        NodeMetrics(node.prometheus_url) as metrics,
    ):
        place = quote(vhost, safe="")
        assert api.put(f"/vhosts/{place}").is_success
        try:
            assert api.put(f"/permissions/{place}/{node.user}", json=everything).is_success
            assert api.put(f"/queues/{place}/inbox.reading_odd", json={"durable": True}).is_success
            reader = BrokerReader(management, vhost, [metrics])
            wanted = Inboxes(count=1, read=0, messages=0, messages_max=0)
            wait_until(lambda: reader().inboxes == wanted, "its inbox is told of")
        finally:
            api.delete(f"/vhosts/{place}")


def test_the_inboxes_of_a_cluster_are_those_of_all_its_nodes(tmp_path: Path) -> None:
    wanted = Inboxes(count=2, read=2, messages=2, messages_max=1)
    with Brokers(tmp_path, count=2) as cluster, two_inboxes(*cluster.infos):
        first, second = (info.ports.prometheus for info in cluster.infos)
        with readers(cluster.first, first, second) as (every, slow):
            wait_until(lambda: slow().inboxes == wanted, "the management API tells of both inboxes")
            wait_until(lambda: is_quick(every), "both nodes' metrics tell of every queue")
            assert every().inboxes == wanted
        with readers(cluster.first, first) as (forgetful, _):
            assert forgetful().inboxes == wanted
            assert "and there are" in str(forgetful.missed)
