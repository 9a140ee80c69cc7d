"""`collafuse doctor`, as somebody types it."""

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from broker.command import declare_on
from broker.management import Management
from broker.node.local_node import LocalNode, NodeInfo
from broker.settings import BrokerSettings

OK, UNREACHABLE, UNSAFE = 0, 1, 2


def doctor(*arguments: object, code: int) -> subprocess.CompletedProcess[str]:
    """Runs the command, which has to end with `code`."""
    environment = {name: value for name, value in os.environ.items() if not name.startswith("COLLAFUSE_")}
    done = subprocess.run(
        [sys.executable, "-m", "collafuse", "doctor", *map(str, arguments)],
        env=environment | {"COLUMNS": "200"},
        cwd=Path(__file__).parents[2],
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == code, done.stdout + done.stderr
    assert "Traceback" not in done.stderr
    return done


@pytest.fixture(scope="module")
def sound(tmp_path_factory: pytest.TempPathFactory) -> Iterator[NodeInfo]:
    """A node of these tests' own about which there is nothing to say."""
    local = LocalNode(tmp_path_factory.mktemp("sound"))
    info = local.start()
    try:
        local.control("set_disk_free_limit", "2GB")
        declare_on(BrokerSettings.from_url(info.amqp_url))
        yield info
    finally:
        local.kill()


def found(node: NodeInfo, *arguments: object, code: int) -> dict[str, Any]:
    done = doctor("--url", node.amqp_url, "--json", *arguments, code=code)
    assert done.stderr == ""
    assert node.password not in done.stdout
    parsed: dict[str, Any] = json.loads(done.stdout)
    return parsed


def test_a_sound_broker_ends_well_and_an_unsafe_one_does_not(sound: NodeInfo) -> None:
    management_url = ("--management-url", sound.management_url)
    healthy = found(sound, *management_url, code=OK)
    assert healthy["broker"]["nodes"] == {"collafuse@localhost": "running"}
    assert healthy["broker"]["management"] is True
    assert healthy["limits"]["message"] == "4.19 MB passes"

    with Management(sound.management_url, sound.user, sound.password) as management:
        management.put_user("clinic-z_pc-9", "a password")
        management.put_permissions(sound.vhost, "clinic-z_pc-9", configure=".*", write=".*", read=".*")
        try:
            ill = found(sound, *management_url, code=UNSAFE)
        finally:
            management.delete_user("clinic-z_pc-9")
    worst = ill["findings"][0]
    assert (worst["severity"], worst["subject"]) == ("unsafe", "devices")
    assert "clinic-z_pc-9" in worst["what"]
    assert worst["do"]


def test_the_private_node_is_found_and_shown_to_a_person(sound: NodeInfo) -> None:
    shown = doctor("--dir", sound.directory, code=OK).stdout

    assert "RabbitMQ" in shown
    assert "collafuse@localhost (running)" in shown
    assert "version: RabbitMQ" in shown
    assert sound.password not in shown


def test_without_the_management_api_it_says_so_and_tells_what_amqp_tells(sound: NodeInfo) -> None:
    reduced = found(sound, "--management-url", "http://127.0.0.1:1", code=OK)

    assert reduced["broker"]["management"] is False
    assert reduced["broker"]["version"]
    whats = [finding["what"] for finding in reduced["findings"] if finding["severity"] == "warning"]
    others = [what for what in whats if not what.startswith("nobody reads")]
    assert len(others) == 1
    assert "the management API could not be read" in others[0]


def test_no_broker_is_one_line() -> None:
    done = doctor("--url", "amqp://u:hidden@127.0.0.1:1/v", code=UNREACHABLE)

    assert done.stdout == ""
    (line,) = done.stderr.splitlines()
    assert line.startswith("error: ")
    assert "127.0.0.1:1" in line
    assert "hidden" not in line
