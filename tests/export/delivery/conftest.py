import threading
import uuid
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from prometheus_client import CollectorRegistry

from broker import identities
from broker.connection import Connection
from broker.credentials import write_worker
from broker.management import Management
from broker.node.local_node import NodeInfo
from broker.settings import BrokerSettings
from edge_agent.agent import Agent
from edge_agent.assembly import assemble
from edge_agent.settings import EdgeSettings
from edge_agent.storage.spool import Spool
from edge_agent.storage.state import open_state
from export.bundle.bundle import Bundle, read_bundle
from export.bundle.keys import PrivateKey
from export.head_export import export_head
from monitoring.metrics import BrokerMetrics, EdgeMetrics
from tests.conftest import WAIT_SECONDS
from tests.edge_agent.heads.bundles import signed, with_ballast, write
from tests.export.heads import random_network, write_checkpoint

KEY = PrivateKey.generate()


@dataclass
class RealDevice:
    """An enrolled device whose agent runs in a thread, with its own spool; started and stopped by the test."""

    user: str
    broker: BrokerSettings
    directory: Path
    settings: dict[str, Any]
    stopping: threading.Event = field(default_factory=threading.Event)
    thread: threading.Thread | None = None

    def start(self) -> None:
        self.stopping = threading.Event()
        self.thread = threading.Thread(target=self._run, daemon=True)
        self.thread.start()

    def stop(self) -> None:
        self.stopping.set()
        if self.thread is not None:
            self.thread.join(WAIT_SECONDS)

    @property
    def has_spool(self) -> bool:
        """Whether the agent has made it; before that nobody else of this process may open it, for they would make it both."""
        return (self.directory / "spool.sqlite3").exists()

    def heads(self) -> dict[str, tuple[str, str | None]]:
        """States and reasons by bundle."""
        with Spool(open_state(self.directory).spool) as spool:
            return {
                row["bundle"]: (row["state"], row["reason"])
                for row in spool.rows("SELECT bundle, state, reason FROM heads")
            }

    def counted(self, name: str) -> int:
        with Spool(open_state(self.directory).spool) as spool:
            row = spool.row("SELECT value FROM counters WHERE name = ?", (name,))
        return 0 if row is None else int(row["value"])

    def _run(self) -> None:
        registry = CollectorRegistry()
        settings = EdgeSettings(state=self.directory, threads=1, provider="cpu", **self.settings)
        connection = Connection(self.broker, name=self.user, metrics=BrokerMetrics(registry))
        with assemble(settings, open_state(self.directory), connection, EdgeMetrics(registry)) as parts:
            Agent(parts, self.stopping).run()


@dataclass
class Fleet:
    """Devices of one client, and their owner."""

    client: str
    owner: BrokerSettings
    config: Path
    devices: list[RealDevice]

    @property
    def users(self) -> list[str]:
        return [device.user for device in self.devices]


@pytest.fixture
def fleet(node: NodeInfo, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[..., Fleet]]:
    """Makes so many devices of a client of its own; whichever agents run are stopped at the end."""
    made: list[Fleet] = []
    # A head takes half a dozen looks from its first piece to its use: ten times as many of them in the same time.
    monkeypatch.setattr("edge_agent.agent._LOOK_SECONDS", 0.2)

    def make(count: int, **settings: Any) -> Fleet:
        client = f"c{uuid.uuid4().hex[:10]}"
        address = BrokerSettings.from_url(node.amqp_url)
        values = {"head_keys": (KEY.public.text,), "trial_seconds": 0.2, "telemetry_seconds": 60.0} | settings
        with Management(node.management_url, node.user, node.password) as management:
            owner = identities.owner(management, client, address=address)
            enrolled = [
                identities.enroll(management, client, f"d{number}", address=address)
                for number in range(count)
            ]
        config = tmp_path / f"{client}.toml"
        write_worker(owner, config)
        devices = [
            RealDevice(
                f"{client}_{credentials.device}",
                BrokerSettings.from_url(credentials.amqp_url),
                tmp_path / f"{client}-{credentials.device}",
                values,
            )
            for credentials in enrolled
        ]
        made.append(Fleet(client, owner, config, devices))
        return made[-1]

    yield make
    for one in made:
        for device in one.devices:
            device.stopping.set()
        for device in one.devices:
            device.stop()


@pytest.fixture(scope="session")
def good(tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    """A small head in a bundle of many pieces, for any client; signed by nobody yet."""
    directory = tmp_path_factory.mktemp("good")
    checkpoint = write_checkpoint(directory / "head.safetensors", random_network())
    export_head(checkpoint, directory / "head.bundle")
    return with_ballast(read_bundle(directory / "head.bundle"), 24 * 256 * 1024)


@pytest.fixture
def signed_for(good: Bundle, tmp_path: Path) -> Callable[..., Path]:
    """Bundles of a fleet's client, signed by the key that its devices believe."""

    def make(fleet: Fleet, counter: int = 1, bundle: Bundle | None = None, **facts: Any) -> Path:
        key = facts.pop("key", KEY)
        content = signed(bundle or good, key, client=fleet.client, counter=counter, **facts)
        return write(tmp_path / f"{fleet.client}-{uuid.uuid4().hex[:6]}.bundle", content)

    return make
