"""compose.yaml and its GPU profile keep to the published schema of the Compose specification, and Compose itself takes them."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.deploy.composition import BY_HAND, ROOT, SERVICES


def compose() -> str | None:
    """Compose as a program of its own, which needs no engine to read a file; version 1 knows the old format alone."""
    program = shutil.which("docker-compose")
    if program is None:
        return None
    told = subprocess.run(
        [program, "version", "--short"], capture_output=True, text=True, timeout=60, check=False
    )
    return None if told.stdout.startswith("1.") else program


COMPOSE = compose()


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


@pytest.mark.skipif(COMPOSE is None, reason="Compose 2 is not on this machine")
@pytest.mark.parametrize("files", [["compose.yaml"], ["compose.yaml", "deploy/compose.gpu.yaml"]])
def test_compose_itself_takes_it_and_leaves_alone_what_is_called_by_hand(files: list[str]) -> None:
    done = subprocess.run(
        [str(COMPOSE), *(word for file in files for word in ("-f", file)), "config", "--services"],
        cwd=ROOT,
        env={name: os.environ[name] for name in ("PATH", "HOME") if name in os.environ},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )

    assert (done.returncode, done.stderr) == (0, "")
    assert set(done.stdout.split()) == set(SERVICES) - BY_HAND
