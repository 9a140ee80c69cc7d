"""compose.yaml and its GPU profile keep to the published schema of the Compose specification."""

import subprocess
import sys
from pathlib import Path

import pytest

from tests.deploy.composition import ROOT


def check(file: Path) -> "subprocess.CompletedProcess[str]":
    """Asks the schema that the package check-jsonschema carries; nothing is fetched."""
    return subprocess.run(
        [sys.executable, "-m", "check_jsonschema", "--builtin-schema", "vendor.compose-spec", file],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


@pytest.mark.parametrize("name", ["compose.yaml", "deploy/compose.gpu.yaml"])
def test_the_file_keeps_to_the_schema(name: str) -> None:
    done = check(ROOT / name)

    assert done.returncode == 0, done.stdout


@pytest.mark.parametrize(
    ("right", "wrong"),
    [
        ("read_only: true", "readonly: true"),
        ("condition: service_healthy", "condition: service_is_healthy"),
        ("internal: true", "internal: [true]"),
    ],
)
def test_a_key_or_value_that_compose_does_not_know_is_found(tmp_path: Path, right: str, wrong: str) -> None:
    text = (ROOT / "compose.yaml").read_text(encoding="utf-8")
    assert right in text
    (tmp_path / "compose.yaml").write_text(text.replace(right, wrong), encoding="utf-8")

    assert check(tmp_path / "compose.yaml").returncode == 1
