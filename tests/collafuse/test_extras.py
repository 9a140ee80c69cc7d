"""Where a package is missing, the extra that is named brings it, and with it the command goes on."""

import os
import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

from collafuse.cli import ROOMS
from collafuse.extras import BROUGHT, WANTED, extra_for
from tests.conftest import WAIT_SECONDS

ROOT = Path(__file__).parents[2]
PACKAGES = {
    "PIL": "pillow",
    "opentelemetry": "opentelemetry-sdk",
    "pynvml": "nvidia-ml-py",
    "sklearn": "scikit-learn",
}
"""Module → the package that has it, where their names differ."""
NOT_ADVISED = {"edge-gpu", "bench", "dev", "all"}
"""Another kind of machine, whoever works on the project, and all together."""

MODULES = frozenset[str]().union(*BROUGHT.values())

COMMANDS = {
    "demo": ("demo", "--out", "demo"),
    "definitions": ("backup", "create", "copy", "--without-storage", "--url", "amqp://u:p@127.0.0.1:1/v"),
    "check": ("backup", "check", "absent"),
    "plan": ("plan", "--devices", "3", "--images-per-day", "1", "--json"),
    "doctor": ("doctor", "--url", "amqp://u:p@127.0.0.1:1/v"),
    "secrets": ("deploy", "init"),
    "certificates": ("broker", "certs", "--host", "localhost", "--out", "certs"),
    "enrolment": ("broker", "enroll", "a", "b", "--url", "amqp://u:p@127.0.0.1:1/v", "--out", "a.toml"),
    "trainer": ("worker", "train", "--storage", "/dev/null", "--broker-url", "amqp://u:p@127.0.0.1:1/v"),
    "keys": ("export", "keygen", "owner.key"),
    "bundle": ("export", "inspect", "absent.bundle"),
    "exporter": (
        "monitor",
        "exporter",
        "--management-url",
        "http://u:p@127.0.0.1:1",
        "--address",
        "203.0.113.1",
    ),
    "top": ("top", "--once", "--url", "amqp://u:p@127.0.0.1:1/v", "--management-url", "http://127.0.0.1:1"),
}
"""Commands of every kind, none of which gets far."""


def extras() -> dict[str, set[str]]:
    """Extra → names of its packages, as pyproject.toml has them."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    listed: dict[str, list[str]] = project["optional-dependencies"]
    return {extra: {re.split(r"[><=\[;]", line)[0] for line in lines} for extra, lines in listed.items()}


def test_every_extra_brings_what_is_said_of_it() -> None:
    said = {
        extra: {PACKAGES.get(module, module.replace("_", "-")) for module in modules}
        for extra, modules in BROUGHT.items()
    }
    there = {extra: names for extra, names in extras().items() if extra not in NOT_ADVISED}
    there["otel"] -= {"opentelemetry-exporter-otlp-proto-http"}  # the same module

    assert said == there


def test_every_room_has_extras_of_its_own_that_there_are() -> None:
    assert WANTED.keys() == ROOMS.keys()
    assert {extra for wanted in WANTED.values() for extra in wanted} <= extras().keys()


@pytest.mark.parametrize("module", sorted(MODULES))
def test_whatever_the_command_the_extra_that_is_named_brings_the_package(module: str) -> None:
    for command in (None, *ROOMS):
        extra = extra_for(f"{module}.inside", command)
        assert extra is not None
        assert extra == "all" or module in BROUGHT[extra]


@pytest.mark.parametrize(
    ("module", "command", "extra"),
    [
        ("fsspec", "backup", "operator"),
        ("fsspec", "worker", "server"),
        ("cryptography", "edge", "edge"),
        ("cryptography", "deploy", "operator"),
        ("cryptography", "export", "export"),
        ("torch", "edge", "train"),
        ("torch", "export", "export"),
        ("httpx", "top", "monitoring"),
        ("httpx", "edge", "operator"),
        ("sklearn", "demo", "all"),
        ("opentelemetry", "trace", "otel"),
        ("no_such_module", "worker", None),
    ],
)
def test_one_package_is_in_many_extras_and_the_commands_own_is_named(
    module: str, command: str, extra: str | None
) -> None:
    assert extra_for(module, command) == extra


def run_without(modules: frozenset[str], words: tuple[str, ...], cwd: Path) -> str:
    """What a command says where these modules are not installed."""
    program = (
        "import sys\n"
        f"sys.modules.update(dict.fromkeys({sorted(modules)}))\n"  # None there: importing it fails
        f"sys.argv = ['collafuse', *{words!r}]\n"
        "from collafuse.cli import main\n"
        "main()\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", program],
        cwd=cwd,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        timeout=WAIT_SECONDS,
        check=False,
    )
    assert "Traceback" not in done.stderr
    assert done.stdout or done.stderr.startswith("error: ")
    return done.stdout + done.stderr


@pytest.mark.parametrize("name", [name for name in COMMANDS if name != "demo"])
def test_with_the_extra_that_is_named_a_command_lacks_nothing(name: str, tmp_path: Path) -> None:
    """With no optional package at all, and then with those of the extra, as if the advice was taken.

    So the operator's commands need the operator's packages alone, which are all that their image has.
    """
    advised = re.findall(
        r"needs the package .* pip install 'collafuse-edge\[([\w-]+)\]'",
        run_without(MODULES, COMMANDS[name], tmp_path),
    )

    if advised:
        assert advised == [WANTED[COMMANDS[name][0]][0]]
        assert "needs the package" not in run_without(MODULES - BROUGHT[advised[0]], COMMANDS[name], tmp_path)


def test_the_demonstration_needs_all_of_them(tmp_path: Path) -> None:
    assert "pip install 'collafuse-edge[all]'" in run_without(MODULES, COMMANDS["demo"], tmp_path)
