import uuid
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from broker.identities import enroll
from broker.management import Management
from broker.node.local_node import NodeInfo
from broker.settings import BrokerSettings
from edge_agent.settings import EdgeSettings
from edge_agent.storage.spool import Spool
from edge_agent.storage.state import StateDirectory, open_state
from tests.edge_agent.server import Server
from tests.export.heads import SCHEDULE, exported


@dataclass(frozen=True)
class Device:
    """An enrolled device: who it is and where the broker is for it."""

    client: str
    name: str
    broker: BrokerSettings

    @property
    def user(self) -> str:
        return f"{self.client}_{self.name}"

    @property
    def url(self) -> str:
        return self.broker.url.get_secret_value()


@pytest.fixture
def state(tmp_path: Path) -> StateDirectory:
    return open_state(tmp_path / "edge")


@pytest.fixture
def spool(state: StateDirectory) -> Iterator[Spool]:
    with Spool(state.spool) as spool:
        yield spool


@pytest.fixture
def settings(state: StateDirectory) -> Callable[..., EdgeSettings]:
    """Settings on the test's state directory, with the schedule of the test heads unless told otherwise."""

    def make(**changes: Any) -> EdgeSettings:
        values: dict[str, Any] = {"state": state.path, "schedule_steps": 200, "cut_ratio": 0.3}
        return EdgeSettings(**(values | changes))

    return make


@pytest.fixture(scope="session")
def make_head(tmp_path_factory: pytest.TempPathFactory) -> Callable[[int], Path]:
    """Real bundles of small networks: by seed of the weights."""
    directory = tmp_path_factory.mktemp("heads")

    def make(seed: int) -> Path:
        path = directory / f"{seed}.bundle"
        if not path.exists():  # an agent that runs would take a file written again for another head
            path.write_bytes(exported(seed))
        return path

    return make


@pytest.fixture
def head_bundle(make_head: Callable[[int], Path]) -> Path:
    return make_head(0)


@pytest.fixture
def whole_head(tmp_path: Path) -> Path:
    """A bundle whose head takes the whole chain, and needs no server."""
    path = tmp_path / "whole.bundle"
    path.write_bytes(exported(t_cut=SCHEDULE.T))
    return path


@pytest.fixture
def device(node: NodeInfo) -> Device:
    """A device of its own for each test, so that no test finds another's letters."""
    client, name = "ward", f"d{uuid.uuid4().hex[:12]}"
    with Management(node.management_url, node.user, node.password) as management:
        credentials = enroll(management, client, name, address=BrokerSettings.from_url(node.amqp_url))
    return Device(client, name, BrokerSettings.from_url(credentials.amqp_url))


@pytest.fixture
def server(server_settings: BrokerSettings) -> Iterator[Server]:
    """The server's half of the chain, played with the optimal denoiser of a Gaussian."""
    with Server(server_settings) as server:
        yield server


@pytest.fixture
def pictures() -> np.ndarray:
    """Ten different grey images, (10, 1, 8, 8) float32 in [-1, 1]."""
    return np.random.default_rng(5).uniform(-1, 1, (10, 1, 8, 8)).astype(np.float32)
