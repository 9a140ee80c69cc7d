from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from broker import identities
from broker.management import Management
from broker.node.local_node import NodeInfo
from broker.settings import BrokerSettings
from edge_agent.heads.trial import Terms
from edge_agent.storage.spool import Spool
from edge_agent.storage.state import StateDirectory
from export.bundle.bundle import Bundle, read_bundle
from export.bundle.keys import PrivateKey
from tests.edge_agent.agents import COMMAND, Process
from tests.edge_agent.conftest import Device
from tests.edge_agent.heads.bundles import signed, with_ballast, write
from tests.edge_agent.heads.devices import HeadDevice

KEY = PrivateKey.generate()
BALLAST_BYTES = 25 * 64 * 1024


@pytest.fixture
def key() -> PrivateKey:
    return KEY


@pytest.fixture
def plain(make_head: Callable[[int], Path]) -> Bundle:
    """A small, good, unsigned head."""
    return read_bundle(make_head(0))


@pytest.fixture
def publish(plain: Bundle, tmp_path: Path) -> Callable[..., Path]:
    """Files of signed heads of the client `ward`: a good one of many pieces unless told otherwise."""

    def make(
        counter: int, bundle: Bundle | None = None, key: PrivateKey | None = KEY, **facts: object
    ) -> Path:
        content = signed(
            bundle or with_ballast(plain, BALLAST_BYTES),
            key,
            counter=counter,
            version=f"v{counter}",
            **facts,
        )
        return write(tmp_path / f"{len(list(tmp_path.iterdir()))}-{counter}.bundle", content)

    return make


@pytest.fixture
def head_device(state: StateDirectory, spool: Spool) -> Iterator[HeadDevice]:
    """The parts of an agent that deal with heads, driven by the test: no broker, no jobs, trials of two images."""
    device = HeadDevice(state, spool, keys=(KEY.public.text,), terms=Terms(images=2, seconds=1e6))
    yield device
    device.updater.close()


@pytest.fixture
def run_agent(state: StateDirectory, tmp_path: Path) -> Iterator[Callable[..., Process]]:
    """Agents that believe the test's key and need little to believe a head; killed at the end if they still run."""
    started: list[Process] = []

    def start(url: str, *flags: object, code: str = COMMAND, **extra: str) -> Process:
        process = Process(
            tmp_path / f"agent-{len(started)}.log",
            *("edge", "run", "--state", state.path, "--broker-url", url, "--schedule-steps", 200),
            *("--threads", 1, "--provider", "cpu", "--head-keys", KEY.public.text, "--trial", 1),
            *flags,
            code=code,
            **extra,
        )
        started.append(process)
        return process

    yield start
    for process in started:
        if process.exit_code is None:
            process.kill()


@pytest.fixture
def owner(node: NodeInfo, device: Device) -> Iterator[BrokerSettings]:
    with Management(node.management_url, node.user, node.password) as management:
        yield identities.owner(management, device.client, address=BrokerSettings.from_url(node.amqp_url))
