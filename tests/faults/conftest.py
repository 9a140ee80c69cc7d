"""What the faults are done to: links that misbehave, a node of one's own to mistreat, small disks, and the server's pieces."""

import os
import shutil
import subprocess
import sys
import threading
import uuid
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pika
import pytest
from prometheus_client import CollectorRegistry

from broker.address import BrokerSettings
from broker.connection import Connection
from broker.identities import enroll
from broker.management import Management
from broker.node.local_node import LocalNode, NodeInfo
from broker.topology import FEDERATION, QUEUE_SAMPLES, declare
from edge_agent.storage.spool import Spool
from edge_agent.storage.state import open_state
from monitoring.metrics import BrokerMetrics, TrainMetrics
from server_worker.samples.ingest import RECEIPTS_IN_FLIGHT, Ingest
from server_worker.samples.store import SampleStore
from server_worker.storage import Storage
from tests.conftest import WAIT_SECONDS, wait_until
from tests.link import Link
from tests.server_worker.backbones import CONTRACT

Connect = Callable[..., Connection]


@pytest.fixture
def link(node: NodeInfo) -> Iterator[Link]:
    """A way to the broker that the test can spoil."""
    with Link(node.ports.amqp) as link:
        yield link


@pytest.fixture
def connect() -> Iterator[Connect]:
    """Connections that are started at once and closed at the end."""
    opened: list[Connection] = []

    def make(settings: BrokerSettings, *, heartbeat_seconds: int = 30) -> Connection:
        settings = settings.model_copy(update={"heartbeat_seconds": heartbeat_seconds})
        opened.append(Connection(settings, name="test", metrics=BrokerMetrics(CollectorRegistry())))
        opened[-1].start()
        return opened[-1]

    yield make
    for connection in opened:
        connection.stop()


@pytest.fixture
def device_url(node: NodeInfo, server_settings: BrokerSettings) -> str:
    """The URL of a new device, straight to the broker."""
    with Management(node.management_url, node.user, node.password) as management:
        return enroll(management, "ward", f"d{uuid.uuid4().hex[:8]}", address=server_settings).amqp_url


def through(url: str, node: NodeInfo, link: Link) -> BrokerSettings:
    """The settings of a URL, by way of a link."""
    return BrokerSettings.from_url(url.replace(f":{node.ports.amqp}/", f":{link.port}/"))


@pytest.fixture
def own_node(tmp_path: Path) -> Iterator[LocalNode]:
    """A node of this test's own, with the topology, for what no other test should suffer."""
    local = LocalNode(tmp_path / "own")
    info = local.start()
    try:
        with pika.BlockingConnection(pika.URLParameters(info.amqp_url)) as amqp:
            declare(amqp.channel(), FEDERATION)
        yield local
    finally:
        local.kill()


@pytest.fixture
def spool(tmp_path: Path) -> Iterator[Spool]:
    """A device's, empty."""
    with Spool(open_state(tmp_path / "edge").spool) as spool:
        yield spool


class Store:
    """The server's ingest, in a thread of this process, over a store of its own."""

    def __init__(self, root: Path, connection: Connection) -> None:
        self.store = SampleStore(Storage(root))
        self._stop = threading.Event()
        ingest = Ingest(
            CONTRACT,
            Storage(root),
            self.store,
            consumer=connection.consumer(QUEUE_SAMPLES, 16),
            publisher=connection.publisher(window=RECEIPTS_IN_FLIGHT),
            metrics=TrainMetrics(registry := CollectorRegistry()),
            messages_in_hand=16,
        )
        self._registry = registry
        self._thread = threading.Thread(target=ingest.run, args=(self._stop,))
        self._thread.start()

    @property
    def repeats(self) -> float:
        """Samples that came again and were recognised."""
        return self._registry.get_sample_value("collafuse_samples_duplicate_total") or 0.0

    def close(self) -> None:
        self._stop.set()
        self._thread.join(WAIT_SECONDS)


@pytest.fixture
def store(server_settings: BrokerSettings, connect: Connect, tmp_path: Path) -> Iterator[Store]:
    running = Store(tmp_path / "store", connect(server_settings))
    yield running
    running.close()


@dataclass(frozen=True)
class SmallDisk:
    """A real file system of a few megabytes that only one process, and this one through it, can see."""

    process: "subprocess.Popen[bytes]"
    inside: Path
    log: Path

    @property
    def outside(self) -> Path:
        """Where the test finds it."""
        return Path(f"/proc/{self.process.pid}/root{self.inside}")

    def fill(self) -> None:
        """Take all the room that is left."""
        with (self.outside / "filler").open("ab", buffering=0) as filler:
            for block in (65_536, 4096, 512):
                while True:
                    try:
                        filler.write(b"x" * block)
                    except OSError:
                        break

    def make_room(self) -> None:
        """Give it back."""
        (self.outside / "filler").unlink()

    def events(self) -> str:
        """What the process logged."""
        return self.log.read_text(errors="replace")


@pytest.fixture
def on_small_disk(tmp_path: Path) -> Iterator[Callable[..., SmallDisk]]:
    """Starts `collafuse` commands in a mount namespace of their own, with a tmpfs of so many megabytes at `inside`."""
    assert shutil.which("unshare"), "unshare (util-linux) is needed to mount a small file system"
    started: list[SmallDisk] = []

    def start(*arguments: object, megabytes: int, environment: dict[str, str] | None = None) -> SmallDisk:
        inside, log = tmp_path / "small", tmp_path / f"small-{len(started)}.log"
        inside.mkdir(exist_ok=True)
        mount = f'mount -t tmpfs -o size={megabytes}m small {inside} && exec "$@"'
        user = [] if os.geteuid() == 0 else ["--map-root-user"]
        command = ["unshare", "--mount", *user, "sh", "-c", mount, "sh", sys.executable, "-m", "collafuse"]
        with log.open("ab") as output:
            process = subprocess.Popen(
                [*command, *(str(argument) for argument in arguments)],
                stdout=output,
                stderr=output,
                env={**os.environ, "OMP_NUM_THREADS": "1"} | (environment or {}),
            )
        started.append(SmallDisk(process, inside, log))
        return started[-1]

    yield start
    for disk in started:
        disk.process.kill()
        disk.process.wait()


def wait_for_event(disk: SmallDisk, event: str, count: int = 1) -> None:
    """Wait until a process has logged an event so often."""
    wait_until(
        lambda: disk.events().count(f'"event": "{event}"') >= count,
        f"it logged {event}: {disk.events()[-500:]}",
    )
