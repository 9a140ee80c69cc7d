"""Every panel of the dashboard shows something when a real Prometheus scrapes a real broker and our registries."""

import json
import re
from collections.abc import Iterator
from contextlib import ExitStack, closing
from pathlib import Path
from typing import Any

import pika
import pytest
import yaml
from pika.adapters.blocking_connection import BlockingChannel
from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram

from broker import topology
from broker.management import Management
from broker.node.local_node import NodeInfo
from broker.settings import BrokerSettings
from monitoring.broker_reading import BrokerReader
from monitoring.catalogue import catalogue
from monitoring.endpoints import serve
from monitoring.exporter import BrokerCollector
from monitoring.metrics import BrokerMetrics, DenoiseMetrics, EdgeMetrics, TrainMetrics
from tests.conftest import wait_until
from tests.monitoring import live_prometheus
from tests.monitoring.live_prometheus import LivePrometheus

ROOT = Path(__file__).parents[2]
GRAFANA = ROOT / "monitoring" / "grafana"
FOREIGN = {"up", "rabbitmq_alarms_memory_used_watermark", "rabbitmq_alarms_free_disk_space_watermark"}
"""Metrics of Prometheus and RabbitMQ themselves."""


def dashboard() -> dict[str, Any]:
    found: dict[str, Any] = json.loads(
        (GRAFANA / "dashboards" / "collafuse.json").read_text(encoding="utf-8")
    )
    return found


def panels() -> list[dict[str, Any]]:
    return [panel for panel in dashboard()["panels"] if panel["type"] != "row"]


def panel_expressions() -> dict[str, str]:
    return {
        f"{panel['title']} {target['refId']}": target["expr"]
        for panel in panels()
        for target in panel["targets"]
    }


def rules() -> list[dict[str, Any]]:
    files = [ROOT / "monitoring" / "prometheus" / name for name in ("recording.yml", "alerts.yml")]
    groups = [group for file in files for group in yaml.safe_load(file.read_text(encoding="utf-8"))["groups"]]
    return [rule for group in groups for rule in group["rules"]]


def metric_names(expression: str) -> set[str]:
    """Everything in an expression that can only be a metric: it has one of our prefixes or an exporter's."""
    return set(re.findall(r"\b(?:collafuse[:_][\w:]+|rabbitmq_\w+|up\b)", expression))


def test_every_metric_in_a_panel_or_a_rule_exists() -> None:
    known = {series for metric in catalogue() for series in metric.series}
    known |= {rule["record"] for rule in rules() if "record" in rule} | FOREIGN
    for expression in [*panel_expressions().values(), *(rule["expr"] for rule in rules())]:
        assert metric_names(expression), expression
        assert metric_names(expression) <= known, expression


def test_every_metric_of_the_catalogue_is_watched_by_a_panel_or_a_rule() -> None:
    texts = [*panel_expressions().values(), *(rule["expr"] for rule in rules())]
    watched = set().union(*map(metric_names, texts))
    for metric in catalogue():
        assert watched & set(metric.series), f"nothing looks at {metric.name}"


def test_panels_have_distinct_ids_their_datasource_and_do_not_overlap() -> None:
    source = yaml.safe_load((GRAFANA / "provisioning/datasources/prometheus.yml").read_text(encoding="utf-8"))
    uid = source["datasources"][0]["uid"]
    cells: set[tuple[int, int]] = set()
    everything = dashboard()["panels"]
    assert len({panel["id"] for panel in everything}) == len(everything)
    for panel in everything:
        place = panel["gridPos"]
        own = {
            (x, y)
            for x in range(place["x"], place["x"] + place["w"])
            for y in range(place["y"], place["y"] + place["h"])
        }
        assert max(x for x, _ in own) < 24
        assert not cells & own, panel["title"]
        cells |= own
    for panel in panels():
        assert panel["description"]
        assert {target["datasource"]["uid"] for target in panel["targets"]} == {uid}


class Traffic:
    """Work that goes on while Prometheus looks: every metric of ours moves, and a real queue drains."""

    def __init__(self, registries: list[list[object]], channel: BlockingChannel) -> None:
        self._metrics = [
            metric for owners in registries for owner in owners for metric in vars(owner).values()
        ]
        self._channel = channel

    def fill(self, messages: int) -> None:
        for _ in range(messages):
            self._channel.basic_publish("", topology.QUEUE_SAMPLES, b"\x80", mandatory=True)

    def move(self) -> None:
        for metric in self._metrics:
            names = metric._labelnames
            child = metric.labels(*(("samples",) * len(names))) if names else metric
            _move(child)

    def take_one(self) -> None:
        method, _, _ = self._channel.basic_get(topology.QUEUE_SAMPLES)
        if method is not None:
            self._channel.basic_ack(method.delivery_tag)


def _move(metric: object) -> None:
    if isinstance(metric, Counter):
        metric.inc()
    elif isinstance(metric, Gauge):
        metric.set(1)
    elif isinstance(metric, Histogram):
        metric.observe(0.02)
    else:
        raise TypeError(f"a metric of unknown kind: {metric!r}")


@pytest.fixture
def traffic_and_prometheus(
    node: NodeInfo, server_settings: BrokerSettings, tmp_path: Path
) -> Iterator[tuple[Traffic, LivePrometheus]]:
    management = Management(node.management_url, node.user, node.password)
    management.declare(node.vhost, topology.inbox("clinic", "dashboard"))
    exported = CollectorRegistry()
    exported.register(BrokerCollector(BrokerReader(management, node.vhost)))
    processes = {"trainer": TrainMetrics, "denoiser": DenoiseMetrics, "edge": EdgeMetrics}
    registries = {job: CollectorRegistry() for job in processes}
    owners = [[BrokerMetrics(registries[job]), make(registries[job])] for job, make in processes.items()]
    with ExitStack() as stack:
        stack.enter_context(management)
        stack.callback(management.delete_queue, node.vhost, "inbox.clinic_dashboard")
        servers = {
            job: stack.enter_context(closing(serve(registry, 0)))
            for job, registry in (registries | {"exporter": exported}).items()
        }
        amqp = stack.enter_context(
            closing(pika.BlockingConnection(pika.URLParameters(server_settings.url.get_secret_value())))
        )
        channel = amqp.channel()
        channel.confirm_delivery()
        traffic = Traffic(owners, channel)
        traffic.fill(400)
        live = stack.enter_context(
            live_prometheus.run(tmp_path, {job: [server.port] for job, server in servers.items()})
        )
        yield traffic, live
        channel.queue_purge(topology.QUEUE_SAMPLES)


def test_every_panel_and_every_rule_works_on_a_real_prometheus(
    traffic_and_prometheus: tuple[Traffic, LivePrometheus],
) -> None:
    traffic, live = traffic_and_prometheus
    waiting = {
        name: expression.replace("$__rate_interval", "1m") for name, expression in panel_expressions().items()
    }

    def all_panels_have_data() -> bool:
        traffic.move()
        traffic.take_one()
        for name in [name for name, expression in waiting.items() if live.query(expression)]:
            del waiting[name]
        return not waiting

    wait_until(all_panels_have_data, "all these panels have data: " + ", ".join(waiting))

    assert len(live.rules()) == len(rules())
    wait_until(lambda: all(rule["health"] == "ok" for rule in live.rules()), "every rule has been evaluated")
    alarmed = {rule["name"] for rule in live.rules() if rule["type"] == "alerting" and rule["alerts"]}
    assert not alarmed & {"CollafuseBrokerDown", "CollafuseProcessDown", "CollafuseQueueMissing"}
