"""Where the sample store's tests keep their samples."""

import uuid
from collections.abc import Iterator
from pathlib import Path

import pytest
from fsspec.implementations.memory import MemoryFileSystem

from server_worker.storage import Storage


@pytest.fixture(params=["directory", "bucket"])
def storage(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Storage]:
    """An empty storage: a directory, and a bucket."""
    if request.param == "directory":
        yield Storage(tmp_path)
    else:
        yield Storage(f"memory://samples-{uuid.uuid4().hex}")
        MemoryFileSystem.store.clear()
