from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from edge_agent.heads.trial import Terms
from edge_agent.storage.spool import Spool
from edge_agent.storage.state import StateDirectory
from export.bundle import Bundle, read_bundle
from export.keys import PrivateKey
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
