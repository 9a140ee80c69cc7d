"""The unit of the edge agent: what it names exists, systemd takes it, and its command line starts an agent."""

import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.conftest import WAIT_SECONDS
from tests.deploy.commands import unknown_options
from tests.edge_agent.agents import Process, ready

ROOT = Path(__file__).parents[2]
UNIT = ROOT / "deploy" / "systemd" / "collafuse-edge.service"
USERS = ROOT / "deploy" / "systemd" / "collafuse-edge.sysusers.conf"
INSTALLED = "/opt/collafuse/bin/collafuse"
MOST_EXPOSED = 2.0
"""Of systemd's ten: 9.6 is a service without any of these lines."""

needs_systemd = pytest.mark.skipif(
    shutil.which("systemd-analyze") is None, reason="systemd-analyze is not on this machine"
)


def assignments() -> list[tuple[str, str]]:
    lines = UNIT.read_text(encoding="utf-8").splitlines()
    return [
        (key, value)
        for key, sign, value in (line.partition("=") for line in lines if line[:1] not in "#[")
        if sign
    ]


def value_of(name: str) -> str:
    (value,) = [value for key, value in assignments() if key == name]
    return value


def analyze(*words: object) -> "subprocess.CompletedProcess[str]":
    return subprocess.run(
        ["systemd-analyze", *(str(word) for word in words)],
        check=False,
        capture_output=True,
        text=True,
        timeout=WAIT_SECONDS,
    )


def runnable(tmp_path: Path) -> Path:
    """The unit with a program of this machine in the place of the installed one."""
    copy = tmp_path / UNIT.name
    copy.write_text(UNIT.read_text(encoding="utf-8").replace(INSTALLED, sys.executable), encoding="utf-8")
    return copy


@needs_systemd
def test_systemd_takes_the_unit_without_a_word(tmp_path: Path) -> None:
    done = analyze("verify", "--man=no", runnable(tmp_path))

    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


@needs_systemd
def test_systemd_would_complain_of_a_line_that_it_does_not_know(tmp_path: Path) -> None:
    broken = runnable(tmp_path)
    broken.write_text(broken.read_text().replace("ProtectHome=yes", "ProtectHouse=yes"))

    assert "ProtectHouse" in analyze("verify", "--man=no", broken).stderr


@needs_systemd
def test_the_service_is_shut_in(tmp_path: Path) -> None:
    done = analyze("security", "--offline=true", runnable(tmp_path))

    (exposure,) = re.findall(r"Overall exposure level for \S+: ([\d.]+)", done.stdout)
    assert float(exposure) <= MOST_EXPOSED


def test_its_command_and_every_flag_and_variable_in_it_exist() -> None:
    program, *words = value_of("ExecStart").split()
    assert program == INSTALLED
    assert not unknown_options(words)
    given = {"STATE_DIRECTORY": "StateDirectory", "CREDENTIALS_DIRECTORY": "LoadCredential"}
    used = set(re.findall(r"\$\{(\w+)\}", value_of("ExecStart")))
    assert used == set(given), "systemd sets these, and each because of another line"
    assert {given[name] for name in used} <= {key for key, _ in assignments()}
    credential, _, source = value_of("LoadCredential").partition(":")
    assert f"${{CREDENTIALS_DIRECTORY}}/{credential}" in value_of("ExecStart")
    assert Path(source).name == credential


def test_no_variable_overrides_the_one_file() -> None:
    names = [
        word.partition("=")[0]
        for key, value in assignments()
        if key == "Environment"
        for word in value.split()
    ]

    assert names
    assert not [name for name in names if name.startswith("COLLAFUSE_")]
    assert "EnvironmentFile" not in dict(assignments())


def test_its_user_is_the_one_that_is_made() -> None:
    (line,) = [line for line in USERS.read_text(encoding="utf-8").splitlines() if line[:1] not in {"#", ""}]

    assert line.split()[:2] == ["u", value_of("User")]
    assert value_of("Group") == value_of("User")


def test_it_starts_again_for_ever_and_leaves_no_core_behind() -> None:
    assert value_of("Restart") == "always"
    assert value_of("StartLimitIntervalSec") == "0"
    assert value_of("LimitCORE") == "0"


def test_its_command_line_starts_an_agent_that_ends_when_it_is_told(tmp_path: Path) -> None:
    credentials, state = tmp_path / "credentials", tmp_path / "state"
    credentials.mkdir()
    (credentials / "device.toml").write_text(
        'client = "ward"\ndevice = "pc"\nbroker_url = "amqp://ward_pc:x@127.0.0.1:1/x"\napi_port = 0\n'
    )
    line = value_of("ExecStart").replace("${CREDENTIALS_DIRECTORY}", str(credentials))
    _, *words = line.replace("${STATE_DIRECTORY}", str(state)).split()
    words[words.index("--metrics-port") + 1] = "0"

    agent = ready(Process(tmp_path / "log", *words))

    assert (state / "spool.sqlite3").exists()
    assert agent.stop() == 0


def test_memory_has_room_for_what_an_agent_needs() -> None:
    """An idle one with its head takes 120 MB; a new head is tried beside it, in a process of its own."""
    limits = {
        key: int(value.removesuffix("M"))
        for key, value in assignments()
        if key in {"MemoryHigh", "MemoryMax"}
    }

    assert 2 * 120 <= limits["MemoryHigh"] < limits["MemoryMax"]
