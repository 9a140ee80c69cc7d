"""The exporter against a real broker, and against none."""

import json
import os
import signal
import socket
import subprocess
import sys
import threading
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pika
import pytest
from prometheus_client import CollectorRegistry, generate_latest

from broker import topology
from broker.management import Management
from broker.names import is_inbox
from broker.node.local_node import NodeInfo
from broker.node_metrics import NodeMetrics
from broker.settings import BrokerSettings
from monitoring.exporter.broker.collector import BrokerCollector
from monitoring.exporter.broker.reading import BrokerReader
from tests.conftest import WAIT_SECONDS, wait_until

COMMAND = [sys.executable, "-m", "collafuse", "monitor", "exporter"]


@pytest.fixture
def management(node: NodeInfo) -> Iterator[Management]:
    with Management(node.management_url, node.user, node.password) as opened:
        yield opened


@pytest.fixture(params=["with the node's metrics", "by the management API alone"])
def reader(request: pytest.FixtureRequest, node: NodeInfo, management: Management) -> Iterator[BrokerReader]:
    """Each of the exporter's two ways to ask."""
    with NodeMetrics(node.prometheus_url) as metrics:
        nodes = [metrics] if request.param.startswith("with") else []
        yield BrokerReader(management, node.vhost, nodes)


class Clock:
    """A monotonic clock that the test moves."""

    def __init__(self) -> None:
        self.seconds = 100.0

    def __call__(self) -> float:
        return self.seconds


def value(registry: CollectorRegistry, name: str, **labels: str) -> float | None:
    return registry.get_sample_value(name, labels)


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def test_depth_age_and_counts_follow_a_real_queue(
    server_settings: BrokerSettings, reader: BrokerReader
) -> None:
    clock, registry = Clock(), CollectorRegistry()
    registry.register(BrokerCollector(reader, clock))

    def depth(state: str) -> float | None:
        return value(registry, "collafuse_queue_messages", queue="denoise", state=state)

    def age() -> float | None:
        return value(registry, "collafuse_queue_oldest_message_age_seconds", queue="denoise")

    def published() -> float:
        return value(registry, "collafuse_queue_published_total", queue="denoise") or 0.0

    def consumers() -> float | None:
        return value(registry, "collafuse_queue_consumers", queue="denoise")

    # What another test left is still told of for a while after it was purged.
    wait_until(lambda: (depth("ready"), depth("unacked")) == (0, 0), "the exporter sees an empty queue")
    before = published()
    with pika.BlockingConnection(pika.URLParameters(server_settings.url.get_secret_value())) as amqp:
        channel = amqp.channel()
        channel.confirm_delivery()
        for _ in range(3):
            channel.basic_publish("", "denoise", b"\x80")
        channel.basic_qos(prefetch_count=1)
        channel.basic_consume("denoise", lambda *_: None)
        # RabbitMQ tells each of these figures in its own time.
        wait_until(lambda: (depth("ready"), depth("unacked")) == (2, 1), "the exporter sees one unacked")
        wait_until(lambda: consumers() == 1, "the exporter sees the consumer")
        wait_until(lambda: published() == before + 3, "the exporter sees what was published")
        clock.seconds += 50
        assert age() == 50
    assert value(registry, "collafuse_broker_up") == 1
    assert {queue.name for queue in topology.FEDERATION.queues} == {
        sample.labels["queue"]
        for family in registry.collect()
        for sample in family.samples
        if sample.name == "collafuse_queue_consumers"
    }


def test_inboxes_are_counted_together_and_not_named(
    node: NodeInfo, management: Management, reader: BrokerReader
) -> None:
    for left in management.queues(
        node.vhost
    ):  # what other tests' devices have in their inboxes would be counted too
        if is_inbox(str(left["name"])):
            management.delete_queue(node.vhost, str(left["name"]))
    for device in ("exporter-one", "exporter-two"):
        management.declare(node.vhost, topology.inbox("clinic", device))
    registry = CollectorRegistry()
    registry.register(BrokerCollector(reader))
    try:
        with pika.BlockingConnection(pika.URLParameters(node.amqp_url)) as amqp:
            channel = amqp.channel()
            channel.confirm_delivery()
            for key in ("device.clinic_exporter-one", "client.clinic"):
                channel.basic_publish(topology.EXCHANGE_DOWN, key, b"\x80", mandatory=True)
            channel.basic_consume("inbox.clinic_exporter-two", lambda *_: None)
            wait_until(
                lambda: (
                    value(registry, "collafuse_inbox_messages_max") == 2
                    and (value(registry, "collafuse_inbox_messages") or 0) >= 3
                    and (value(registry, "collafuse_inboxes_read") or 0) >= 1
                ),
                "the exporter sees two messages in one inbox, one in the other, and its reader",
            )
        assert (value(registry, "collafuse_inboxes") or 0) >= 2
        assert b"clinic" not in generate_latest(registry)
    finally:
        for device in ("exporter-one", "exporter-two"):
            management.delete_queue(node.vhost, f"inbox.clinic_{device}")


def test_without_a_broker_the_scrape_still_answers() -> None:
    registry = CollectorRegistry()
    url = f"http://127.0.0.1:{free_port()}"
    with Management(url, "monitor", "wrong") as nowhere, NodeMetrics(url) as no_metrics:
        registry.register(BrokerCollector(BrokerReader(nowhere, "collafuse", [no_metrics])))
        assert value(registry, "collafuse_broker_up") == 0
        assert value(registry, "collafuse_inboxes") is None
        assert value(registry, "collafuse_queue_messages", queue="samples", state="ready") is None


@pytest.mark.parametrize(
    "answer", [b"<html>", b"[1]", b"null", b'{"items": 5}', b'{"total_count": 1, "items": [{}]}', b"\xff"]
)
@pytest.mark.parametrize("quick", [True, False])
def test_a_broker_that_answers_nonsense_counts_as_down(answer: bytes, quick: bool) -> None:
    registry = CollectorRegistry()
    with answering(answer) as url, Management(url, "monitor", "x") as odd, NodeMetrics(url) as metrics:
        registry.register(BrokerCollector(BrokerReader(odd, "collafuse", [metrics] if quick else [])))
        assert value(registry, "collafuse_broker_up") == 0
        assert value(registry, "collafuse_inboxes") is None


@contextmanager
def answering(body: bytes) -> Iterator[str]:
    """The URL of a server that says the same to everybody, whatever is asked."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(200)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, format: str, *args: object) -> None:  # noqa: A002  # the name is the standard library's
            """Nothing: the test's output is not for this."""

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever, daemon=True)
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.server_port}"
        finally:
            server.shutdown()
            thread.join()


def test_a_wrong_password_counts_as_down(node: NodeInfo) -> None:
    registry = CollectorRegistry()
    with Management(node.management_url, node.user, "wrong") as refused:
        registry.register(BrokerCollector(BrokerReader(refused, node.vhost)))
        assert value(registry, "collafuse_broker_up") == 0


def run_refused(tmp_path: Path, *options: str, **environment: str) -> str:
    ended = subprocess.run(
        [*COMMAND, *options],
        env=os.environ | environment,
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
        timeout=WAIT_SECONDS,
    )
    assert ended.returncode == 1
    error = [line for line in ended.stderr.splitlines() if line.startswith("error: ")]
    assert len(error) == 1, ended.stderr
    assert "Traceback" not in ended.stderr
    return error[0]


@pytest.mark.parametrize("hears_devices", [False, True])
def test_the_command_serves_until_it_is_told_to_stop(
    node: NodeInfo, server_settings: BrokerSettings, tmp_path: Path, hears_devices: bool
) -> None:
    url = node.management_url.replace("://", f"://{node.user}:{node.password}@")
    told = {"COLLAFUSE_MONITOR_MANAGEMENT_URL": url}
    process = subprocess.Popen(
        [*COMMAND, "--vhost", node.vhost, "--port", "0"],
        env=os.environ | told | ({"COLLAFUSE_BROKER_URL": node.amqp_url} if hears_devices else {}),
        cwd=tmp_path,
        stderr=subprocess.PIPE,
        text=True,
    )
    # A process that hangs is ended, and then the reads below see the end of its output and the test fails.
    deadline = threading.Timer(60, process.kill)
    deadline.start()
    try:
        assert process.stderr is not None
        lines = (json.loads(line) for line in process.stderr)
        started = next(line for line in lines if line["event"] == "exporter_started")
        assert started["hears_devices"] == hears_devices
        assert node.password not in json.dumps(started)

        def scraped() -> str:
            with urllib.request.urlopen(
                f"http://127.0.0.1:{started['port']}/metrics", timeout=WAIT_SECONDS
            ) as answer:
                return str(answer.read().decode())

        assert "collafuse_broker_up 1.0" in scraped()
        assert ("collafuse_fleet_devices" in scraped()) == hears_devices
        if hears_devices:
            with pika.BlockingConnection(pika.URLParameters(node.amqp_url)) as amqp:
                amqp.channel().basic_publish("", "telemetry", b"no report")
            wait_until(
                lambda: 'collafuse_fleet_reports_refused_total{reason="no_user_id"} 1.0' in scraped(),
                "what is in the queue is read",
            )
        process.send_signal(signal.SIGTERM)
        assert process.wait(timeout=WAIT_SECONDS) == 0
    finally:
        deadline.cancel()
        process.kill()
        process.wait()


def test_bad_settings_of_the_command_are_one_line_each(tmp_path: Path) -> None:
    url = "http://monitor:secret@127.0.0.1:1"
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = str(taken.getsockname()[1])
        assert f"127.0.0.1:{port}" in run_refused(tmp_path, "--management-url", url, "--port", port)
    assert "COLLAFUSE_MONITOR_PROT" in run_refused(tmp_path, COLLAFUSE_MONITOR_PROT="9419")
    assert "http[s]://user:password@host" in run_refused(tmp_path, "--management-url", "http://127.0.0.1:1")
    bad = "http://127.0.0.1:15692,15692"
    assert "node_metrics_urls: must read http[s]://host" in run_refused(
        tmp_path, "--management-url", url, "--node-metrics-urls", bad
    )
    assert "no broker to watch" in run_refused(tmp_path)
