"""`collafuse top` against a real broker, real endpoints and a real terminal."""

import fcntl
import itertools
import json
import os
import pty
import re
import select
import signal
import struct
import subprocess
import sys
import termios
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import httpx
import pika
import pytest
from prometheus_client import CollectorRegistry, Gauge

from broker import topology
from broker.management import Management
from broker.node.local_node import NodeInfo
from broker.settings import BrokerSettings
from monitoring.endpoints import Endpoints, serve
from monitoring.exporter.broker.collector import BrokerCollector
from monitoring.exporter.broker.reading import BrokerReader
from monitoring.metrics import BrokerMetrics, DenoiseMetrics, EdgeMetrics, TrainMetrics
from monitoring.top import units
from monitoring.top.broker_source import BrokerSource
from monitoring.top.endpoints_source import EndpointsSource
from monitoring.top.errors import NoAnswer
from monitoring.top.snapshot import QueueState
from monitoring.top.watch import Watch
from tests.conftest import wait_until
from tests.link import Link
from tests.monitoring.exporter.broker.slow_listing import slow_listing

COMMAND = [sys.executable, "-m", "collafuse", "top"]
NOWHERE = "amqp://u:hidden@127.0.0.1:1/v"
Serve = Callable[[CollectorRegistry], str]


def environment() -> dict[str, str]:
    kept = {name: value for name, value in os.environ.items() if not name.startswith("COLLAFUSE_")}
    return kept | {"COLUMNS": "200", "PYTHONPATH": str(Path(__file__).parents[3])}


def top(*arguments: str, cwd: Path) -> "subprocess.CompletedProcess[str]":
    return subprocess.run(
        [*COMMAND, *arguments],
        env=environment(),
        cwd=cwd,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


def at_broker(node: NodeInfo) -> tuple[str, ...]:
    return ("--url", node.amqp_url, "--management-url", node.management_url)


@pytest.fixture
def management(node: NodeInfo) -> Iterator[Management]:
    with Management(node.management_url, node.user, node.password) as opened:
        yield opened


@pytest.fixture
def endpoint() -> Iterator[Serve]:
    """Serves a registry; returns host:port."""
    with ExitStack() as stack:

        def make(registry: CollectorRegistry) -> str:
            served: Endpoints = serve(registry, 0)
            stack.callback(served.close)
            return f"127.0.0.1:{served.port}"

        yield make


@contextmanager
def at_work(settings: BrokerSettings) -> Iterator[None]:
    """Five requests, two of them in the hands of a worker; a device with three letters that is not there."""
    parameters = pika.URLParameters(settings.url.get_secret_value())
    parameters.client_properties = {"connection_name": "denoise"}
    with pika.BlockingConnection(parameters) as amqp:
        channel = amqp.channel()
        channel.confirm_delivery()
        topology.declare(channel, topology.inbox("ward", "topmost"))
        for _ in range(5):
            channel.basic_publish("", topology.QUEUE_DENOISE, b"\x80")
        for _ in range(3):
            channel.basic_publish(topology.EXCHANGE_DOWN, "device.ward_topmost", b"\x80", mandatory=True)
        channel.basic_qos(prefetch_count=2)
        channel.basic_consume(topology.QUEUE_DENOISE, lambda *_: None)
        channel.basic_consume(topology.QUEUE_PREFETCH, lambda *_: None)
        try:
            yield
        finally:
            channel.queue_delete("inbox.ward_topmost")


def denoise(watch: Watch) -> QueueState:
    (found,) = [queue for queue in watch.look().queues if queue.name == "denoise"]
    return found


def depth(queue: QueueState) -> int:
    return queue.ready + queue.unacked


def test_the_broker_alone_tells_of_queues_workers_and_devices(
    node: NodeInfo, server_settings: BrokerSettings, management: Management, tmp_path: Path
) -> None:
    now = [100.0]
    watch = Watch(BrokerSource(management, node.vhost, lambda: now[0]), None)
    wait_until(lambda: sum(map(depth, watch.look().queues)) == 0, "the broker tells of empty queues")
    with at_work(server_settings):

        def is_told() -> bool:
            look = watch.look()
            fleet = look.fleet
            return (
                (denoise(watch).ready, denoise(watch).unacked, denoise(watch).consumers) == (3, 2, 1)
                and fleet is not None
                and fleet.fullest is not None
                and fleet.fullest[1] >= 3
                and [worker.name for worker in look.workers] == ["denoise"]
            )

        wait_until(is_told, "the broker tells what it has")  # in its own time
        now[0] += 50
        assert denoise(watch).oldest_seconds == 50
        done = top(*at_broker(node), "--json", cwd=tmp_path)
        table = top(*at_broker(node), "--once", cwd=tmp_path)

    assert done.returncode == 0, done.stderr
    found: dict[str, Any] = json.loads(done.stdout)
    assert [queue["name"] for queue in found["queues"]] == [each.name for each in topology.FEDERATION.queues]
    queue = next(each for each in found["queues"] if each["name"] == "denoise")
    assert (queue["ready"], queue["unacked"], queue["consumers"]) == (3, 2, 1)
    assert queue["drain_seconds"] is None
    assert queue["oldest_seconds"] is None  # nobody knows at the first look
    (worker,) = found["workers"]
    assert (worker["name"], worker["queues"]) == ("denoise", ["denoise", "prefetch"])
    assert worker["where"].startswith("127.0.0.1:")
    assert found["fleet"]["inboxes"] >= 1
    assert found["fleet"]["waiting"] >= 3
    assert node.password not in done.stdout
    assert table.returncode == 0, table.stderr
    assert re.search(r"^denoise +3 +2 .* never +1 *$", table.stdout, re.MULTILINE), table.stdout
    assert "RabbitMQ" in table.stdout


def test_a_broker_too_slow_to_list_its_inboxes_is_shown_without_them_and_asked_seldom(
    node: NodeInfo, server_settings: BrokerSettings
) -> None:
    ticks = itertools.count(100.0)
    with slow_listing(node) as slow, Management(slow.url, node.user, node.password) as management:
        watch = Watch(BrokerSource(management, node.vhost, lambda: next(ticks)), None)
        first, second = watch.look(strictly=True), watch.look(strictly=True)
        assert len(first.queues) == len(second.queues) == len(topology.FEDERATION.queues)
        assert (first.fleet, second.fleet) == (None, None)
        assert all("does not list its inboxes in time" in str(look.problems) for look in (first, second))
        assert len(slow.asked) == 1
        slow.is_slow = False
        wait_until(lambda: watch.look().fleet is not None, "the list is asked for again after a while")


def test_a_missing_queue_is_said_to_be_missing(node: NodeInfo, management: Management) -> None:
    management.delete_queue(node.vhost, topology.QUEUE_TELEMETRY)
    try:
        look = Watch(BrokerSource(management, node.vhost), None).look()
    finally:
        management.declare(node.vhost, topology.FEDERATION)
    assert topology.QUEUE_TELEMETRY not in {queue.name for queue in look.queues}
    assert any("the queue telemetry is missing" in problem for problem in look.problems)


def test_endpoints_alone_tell_what_the_processes_do(
    node: NodeInfo, server_settings: BrokerSettings, management: Management, endpoint: Serve, tmp_path: Path
) -> None:
    exporter, worker, trainer, agent = (CollectorRegistry() for _ in range(4))
    exporter.register(BrokerCollector(BrokerReader(management, node.vhost)))
    devices = Gauge("collafuse_fleet_devices", "As the exporter serves it.", ["state"], registry=exporter)
    devices.labels(state="reporting").set(7)
    heads = Gauge("collafuse_fleet_heads", "Likewise.", ["head", "version", "provider"], registry=exporter)
    heads.labels("ward", "1.2", "cpu").set(5)
    troubled = Gauge("collafuse_fleet_troubled", "Likewise.", ["trouble"], registry=exporter)
    troubled.labels("ledger_incomplete").set(2)
    troubled.labels("spool_damaged").set(0)
    distrusted = Gauge("collafuse_fleet_distrusted", "Likewise.", ["device", "cause"], registry=exporter)
    for device, cause, many in (("a_1", "refused", 1), ("a_1", "flood", 1), ("other", "flood", 3)):
        distrusted.labels(device, cause).set(many)
    distrusted.labels("other", "refused").set(0)
    busy = Gauge("collafuse_gpu_utilisation_ratio", "Where there is a GPU.", ["gpu"], registry=worker)
    busy.labels("0").set(0.83)
    BrokerMetrics(worker).connected.set(1)
    metrics = DenoiseMetrics(worker)
    metrics.samples_running.set(12)
    metrics.denoise_step_seconds.labels(provider="cpu").observe(0.25)
    BrokerMetrics(trainer).connected.set(0)
    TrainMetrics(trainer).store_bytes.set(2.5e6)
    EdgeMetrics(agent).outbox_bytes.set(1_500)
    flags = [word for each in (exporter, worker, trainer, agent) for word in ("--metrics", endpoint(each))]
    found = json.loads(top(*flags, "--json", cwd=tmp_path).stdout)
    shown = top(*flags, cwd=tmp_path)  # without a terminal, once

    told = {each["name"]: each for each in found["workers"]}
    assert set(told) == {"exporter", "denoise", "train", "edge"}
    assert (told["denoise"]["told"]["running"], told["denoise"]["told"]["step"]) == ("12", "250 ms")
    assert told["train"]["told"]["store"] == "2.5 MB"
    assert told["train"]["problem"] == "not connected to the broker"
    assert told["edge"]["told"]["outbox"] == "1.5 kB"
    assert len(found["queues"]) == len(topology.FEDERATION.queues)
    assert (found["fleet"]["told"]["reporting"], found["fleet"]["told"]["head ward 1.2 cpu"]) == ("7", "5")
    assert found["fleet"]["told"]["to be looked at: ledger_incomplete"] == "2"
    assert not any("spool_damaged" in name for name in found["fleet"]["told"])
    doubted = {name: how for name, how in found["fleet"]["told"].items() if "not believed" in name}
    assert doubted == {"not believed: a_1": "flood, refused", "not believed: other": "flood 3"}
    assert told["denoise"]["told"]["GPU 0"] == "83%"
    assert "running 12" in shown.stdout
    assert "! train at 127.0.0.1" in shown.stdout


def test_a_denoise_worker_on_an_old_version_is_a_red_line_until_it_has_the_new_one(
    endpoint: Serve, tmp_path: Path
) -> None:
    trainer, old, new = (CollectorRegistry() for _ in range(3))
    trains = TrainMetrics(trainer).backbone_version
    trains.labels(follow="latest").set(7)
    trains.labels(follow="best").set(5)
    slow = DenoiseMetrics(old).backbone_version.labels(follow="latest")
    slow.set(6)
    DenoiseMetrics(new).backbone_version.labels(follow="best").set(5)
    places = {name: endpoint(each) for name, each in (("trainer", trainer), ("old", old), ("new", new))}
    flags = [word for place in places.values() for word in ("--metrics", place)]
    shown = top(*flags, "--once", cwd=tmp_path).stdout

    assert [line for line in shown.splitlines() if line.startswith("!")] == [
        f"! denoise at {places['old']}: it serves version 6 of the backbone, there is 7"
    ]
    with EndpointsSource(list(places.values())) as source:
        watch = Watch(None, source)
        slow.set(0)
        (problem,) = watch.look().problems
        assert "serves no version" in problem
        slow.set(7)
        assert watch.look().problems == ()


@pytest.mark.parametrize(("connected", "rows"), [(1, 1), (0, 2)])
def test_the_exporter_that_broker_and_endpoint_tell_of_is_one_line(
    node: NodeInfo, management: Management, endpoint: Serve, connected: int, rows: int
) -> None:
    registry = CollectorRegistry()
    registry.register(BrokerCollector(BrokerReader(management, node.vhost)))
    BrokerMetrics(registry).connected.set(connected)
    parameters = pika.URLParameters(node.amqp_url)
    parameters.client_properties = {"connection_name": "exporter"}
    with pika.BlockingConnection(parameters) as amqp, EndpointsSource([endpoint(registry)]) as source:
        amqp.channel().basic_consume(topology.QUEUE_TELEMETRY, lambda *_: None)
        alone = Watch(BrokerSource(management, node.vhost), None)
        # RabbitMQ counts a reader before it tells the reader's name.
        wait_until(
            lambda: [each.name for each in alone.look().workers] == ["exporter"],
            "the broker tells who reads the telemetry",
        )
        found = Watch(BrokerSource(management, node.vhost), source).look().workers

    # One that is not connected is not the one that the broker tells of.
    assert [each.name for each in found] == ["exporter"] * rows
    assert "broker" in found[-1].told
    assert sum(each.queues == (topology.QUEUE_TELEMETRY,) for each in found) == 1


def test_a_trainer_that_takes_nothing_is_a_red_line(endpoint: Serve) -> None:
    registry = CollectorRegistry()
    BrokerMetrics(registry).connected.set(1)
    metrics = TrainMetrics(registry)
    metrics.ingest_paused.set(1)
    with EndpointsSource([endpoint(registry)]) as source:
        watch = Watch(None, source)
        (problem,) = watch.look().problems
        assert problem.startswith("train at 127.0.0.1:")
        assert "takes no samples: its store is full" in problem
        metrics.ingest_paused.set(0)
        assert watch.look().problems == ()


def test_rates_and_means_are_those_since_the_last_look(endpoint: Serve) -> None:
    registry, now = CollectorRegistry(), [10.0]
    metrics = TrainMetrics(registry)
    with EndpointsSource([endpoint(registry)], lambda: now[0]) as source:
        watch = Watch(None, source)
        metrics.train_step_seconds.observe(8.0)
        assert watch.look().workers[0].told["steps/s"] == units.UNKNOWN
        metrics.train_steps_total.inc(20)
        metrics.train_step_seconds.observe(0.5)
        now[0] += 4
        told = watch.look().workers[0].told
        assert (told["steps/s"], told["step"]) == ("5", "500 ms")


def test_an_endpoint_that_says_nothing_of_use_is_a_line_and_the_others_are_shown(
    node: NodeInfo, endpoint: Serve, monkeypatch: pytest.MonkeyPatch
) -> None:
    good, useless = CollectorRegistry(), CollectorRegistry()
    DenoiseMetrics(good)
    Gauge("something_else", "Of another program.", registry=useless)
    broker_page = httpx.URL(node.management_url)
    urls = [endpoint(good), endpoint(useless), "127.0.0.1:1", f"{broker_page}/"]
    with EndpointsSource(urls) as source:
        problems = [worker.problem for worker in Watch(None, source).look().workers]
    assert problems[0] is None
    assert problems[1] == "it serves none of our metrics"
    assert "does not answer" in str(problems[2])
    assert problems[3] is not None
    monkeypatch.setattr("monitoring.top.scrape.MAX_BYTES", 100)
    with EndpointsSource(urls[:1]) as source, pytest.raises(NoAnswer, match="MiB"):
        Watch(None, source).look(strictly=True)


def test_a_broken_broker_or_nothing_to_watch_is_one_line_and_exit_code_1(tmp_path: Path) -> None:
    for arguments, words in (
        (("--url", NOWHERE, "--once"), "does not answer"),
        (("--url", NOWHERE, "--json"), "does not answer"),
        (("--metrics", "127.0.0.1:1", "--once"), "127.0.0.1:1 does not answer"),
        (("--metrics", "ftp://x", "--once"), "is no URL of metrics"),
        (("--once",), "nothing to watch"),
    ):
        done = top(*arguments, cwd=tmp_path)
        (error,) = done.stderr.splitlines()
        assert (done.returncode, done.stdout) == (1, "")
        assert error.startswith("error: ")
        assert words in error
        assert "hidden" not in error


@pytest.mark.parametrize(
    ("queue", "drain_seconds"),
    [
        (QueueState("q", 0, 9, 2.0, 2.0, 0.0, 1), 0.0),
        (QueueState("q", 30, 10, 1.0, 3.0, None, 1), 15.0),
        (QueueState("q", 30, 0, 3.0, 3.0, None, 1), float("inf")),
        (QueueState("q", 30, 0, None, 3.0, None, 1), None),
    ],
)
def test_the_time_to_drain(queue: QueueState, drain_seconds: float | None) -> None:
    assert queue.drain_seconds == drain_seconds


@pytest.mark.parametrize(
    ("value", "seconds", "number", "size"),
    [
        (None, "–", "–", "–"),
        (0, "0 s", "0", "0 B"),
        (0.0081, "8.1 ms", "0.0081", "0.0081 B"),
        (0.9996, "1,000 ms", "1", "1 B"),
        (141, "2.35 min", "141", "141 B"),
        (1_500.5, "25 min", "1,500", "1.5 kB"),
        (259_200, "3 d", "259,200", "259 kB"),
        (float("inf"), "never", "∞", "–"),
    ],
)
def test_figures_are_read_at_a_glance(value: float | None, seconds: str, number: str, size: str) -> None:
    assert (units.seconds(value), units.number(value), units.size(value)) == (seconds, number, size)


class Terminal:
    """The command on a pseudo-terminal of 200 × 50."""

    def __init__(self, *arguments: str, cwd: Path) -> None:
        try:
            self._ours, theirs = pty.openpty()
        except OSError as error:
            pytest.skip(f"this machine gives no pseudo-terminal: {error}")
        fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", 50, 200, 0, 0))
        self.process = subprocess.Popen(
            [*COMMAND, *arguments],
            stdin=theirs,
            stdout=theirs,
            stderr=theirs,
            env=environment() | {"TERM": "xterm-256color"},
            cwd=cwd,
            start_new_session=True,
        )
        os.close(theirs)
        self.seen = ""

    def shows(self, words: str, since: int = 0) -> bool:
        """Whether these words have come out after the first `since` characters."""
        self._read()
        return words in self.seen[since:]

    def _read(self) -> None:
        while select.select([self._ours], [], [], 0)[0]:
            try:
                self.seen += os.read(self._ours, 65_536).decode(errors="replace")
            except OSError:  # the other end is closed
                return

    def close(self) -> None:
        self.process.kill()
        self.process.wait()
        os.close(self._ours)


def test_on_a_terminal_it_goes_on_through_an_outage_until_it_is_told_to_stop(
    node: NodeInfo, tmp_path: Path
) -> None:
    with Link(node.ports.management) as link:
        where = ("--url", node.amqp_url, "--management-url", f"http://127.0.0.1:{link.port}")
        terminal = Terminal(*where, "--interval", "0.5", cwd=tmp_path)
        try:
            wait_until(lambda: terminal.shows("prefetch"), "it shows the queues")
            link.refuses = True
            link.cut()
            wait_until(
                lambda: terminal.shows("the broker cannot be asked"), "it says that the broker is away"
            )
            broken = len(terminal.seen)
            link.refuses = False
            wait_until(lambda: terminal.shows("prefetch", broken), "it shows the queues again")
            terminal.process.send_signal(signal.SIGINT)
            wait_until(lambda: terminal.process.poll() is not None, "it ends")
            assert terminal.process.returncode == 0
            assert terminal.shows("\x1b[?1049l"), "the screen is not given back"
        finally:
            terminal.close()
