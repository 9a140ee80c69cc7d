from collections.abc import Iterator
from pathlib import Path

import pytest

from edge_agent.storage.state import StateDirectory, open_state
from tests.edge_agent.local.agents import Serve, Served, serving


@pytest.fixture
def serve(state: StateDirectory, tmp_path: Path) -> Iterator[Serve]:
    """Agents of the test's own."""
    with serving(state, tmp_path) as serve:
        yield serve


@pytest.fixture(scope="module")
def offline_page(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    """An agent without broker and head, for what is refused before it gets to either."""
    folder = tmp_path_factory.mktemp("offline")
    with serving(open_state(folder / "edge"), folder) as serve:
        yield serve()
