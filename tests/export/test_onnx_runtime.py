"""onnxruntime reports to nobody: what it would leave in the user's cache to be sent is not there."""

import ast
import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.conftest import WAIT_SECONDS

ROOT = Path(__file__).parents[2]
ROOMS = (
    "broker",
    "server_worker",
    "edge_agent",
    "export",
    "monitoring",
    "diffusion",
    "evaluation",
    "collafuse",
    "benchmarks",
)
A_SESSION = """
from importlib.resources import files
network = files("edge_agent.heads").joinpath("ddim_step.onnx").read_bytes()
ort.InferenceSession(network, providers=["CPUExecutionProvider"])
"""
NEEDED = ("PATH", "PYTHONPATH", "LD_LIBRARY_PATH", "OMP_NUM_THREADS")
"""Of the environment, no more: by `CI` and its like it knows the machines that test, and tells of none of them."""


def left_in_home(home: Path, *lines: str) -> set[str]:
    """The files that a process with a session leaves in an empty home; it trusts no authority and so reaches nobody."""
    kept = {name: os.environ[name] for name in NEEDED if name in os.environ}
    subprocess.run(
        [sys.executable, "-c", "\n".join((*lines, A_SESSION))],
        check=True,
        timeout=WAIT_SECONDS,
        cwd=ROOT,
        env=kept | {"HOME": str(home), "SSL_CERT_FILE": "/dev/null"},
    )
    return {path.name for path in home.rglob("*") if path.is_file()}


@pytest.mark.parametrize(
    "room", ["export.conversion.running", "edge_agent.heads.head", "export.conversion.quantisation"]
)
def test_a_process_with_a_head_keeps_nothing_to_be_sent(tmp_path: Path, room: str) -> None:
    assert left_in_home(tmp_path, f"import {room}", "from export.onnx_runtime import ort") == set()


def test_it_would_if_it_were_not_told(tmp_path: Path) -> None:
    assert "deviceid" in left_in_home(tmp_path, "import onnxruntime as ort")


def test_nobody_loads_it_by_another_way() -> None:
    others = []
    for path in (file for room in ROOMS for file in (ROOT / room).rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            names += [node.module or ""] if isinstance(node, ast.ImportFrom) else []
            others += [path.relative_to(ROOT) for name in names if name.partition(".")[0] == "onnxruntime"]

    # The second begins with an import of the first.
    assert set(others) == {Path("export/onnx_runtime.py"), Path("export/conversion/quantisation.py")}
