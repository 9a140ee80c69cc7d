"""One exported head for all tests of this room that only read it."""

from pathlib import Path

import pytest

from export.bundle.bundle import read_bundle
from export.head_export import Issue, export_head
from tests.export.heads import random_network, write_checkpoint


@pytest.fixture(scope="session")
def checkpoint_path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_checkpoint(tmp_path_factory.mktemp("head") / "head.safetensors", random_network())


@pytest.fixture(scope="session")
def bundle_path(checkpoint_path: Path) -> Path:
    out = checkpoint_path.with_name("head.bundle")
    export_head(checkpoint_path, out, issue=Issue(issued_at=1_800_000_000))
    return out


@pytest.fixture(scope="session")
def model(bundle_path: Path) -> bytes:
    """The ONNX model of `random_network()`."""
    return read_bundle(bundle_path).onnx
