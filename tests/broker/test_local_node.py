"""The private node: it starts, survives, is found again, and leaves nothing behind."""

import json
import os
import signal
import socket
import stat
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pika
import pytest

from broker.errors import ConfigError, NodeError
from broker.management import Management
from broker.node import files as node_files
from broker.node import processes as node_processes
from broker.node.local_node import LocalNode, NodeInfo, find, server_script
from broker.settings import broker_settings
from tests.conftest import WAIT_SECONDS, is_registered, processes_of, wait_until


def messages_in(url: str, queue: str) -> int:
    with pika.BlockingConnection(pika.URLParameters(url)) as link:
        return int(link.channel().queue_declare(queue, passive=True).method.message_count)


@pytest.fixture
def local(tmp_path: Path) -> Iterator[LocalNode]:
    """A node that has never run, in a directory of a long name."""
    directory = tmp_path / ("a-directory-with-a-rather-long-name-" * 3) / ".collafuse" / "broker"
    node = LocalNode(directory)
    yield node
    node.stop()
    assert processes_of(directory) == []


def test_a_node_lives_is_killed_comes_back_and_leaves_nothing(local: LocalNode) -> None:
    assert local.status().state == "absent"
    assert find(local.directory) is None
    with pytest.raises(ConfigError, match="or start a private node with"):
        broker_settings(None, local.directory)
    told: list[str] = []

    info = local.start(told.append)

    assert told == ["starting the port mapper", "booting RabbitMQ"]
    assert local.status().state == "running"
    assert find(local.directory) == info
    assert len(processes_of(local.directory)) >= 2
    with pika.BlockingConnection(pika.URLParameters(info.amqp_url)) as link:
        channel = link.channel()
        channel.queue_declare("kept", durable=True, arguments={"x-queue-type": "quorum"})
        channel.confirm_delivery()
        channel.basic_publish("", "kept", b"body", pika.BasicProperties(delivery_mode=2))

    wait_until(lambda: is_registered(local.directory, "kept"), "the queue's registration is on disk")

    local.kill()
    assert local.status().state == "crashed"
    assert find(local.directory) is None
    with pytest.raises(ConfigError) as crashed:
        broker_settings(None, local.directory)
    assert "has ended without being stopped: start it again with `collafuse broker node start --dir" in str(
        crashed.value
    )
    again = local.start()

    assert (again.ports, again.amqp_url) == (info.ports, info.amqp_url)
    assert again.pid != info.pid
    wait_until(lambda: messages_in(again.amqp_url, "kept") == 1, "the confirmed message is back")

    assert local.stop()
    assert local.status().state == "stopped"
    with pytest.raises(ConfigError, match="was stopped: start it again"):
        broker_settings(None, local.directory)
    assert processes_of(local.directory) == []
    assert not local.stop()


def test_a_second_start_finds_the_first(node: NodeInfo) -> None:
    with ThreadPoolExecutor(3) as pool:
        found = list(pool.map(lambda _: LocalNode(node.directory).start(), range(3)))

    assert found == [node] * 3


def test_a_node_survives_the_command_that_started_it(node: NodeInfo) -> None:
    script = "import sys; from pathlib import Path; from broker.node.local_node import LocalNode; "
    script += "print(LocalNode(Path(sys.argv[1])).start().pid)"

    done = subprocess.run(
        [sys.executable, "-c", script, str(node.directory)],
        capture_output=True,
        text=True,
        check=True,
        timeout=WAIT_SECONDS,
    )

    assert int(done.stdout) == node.pid
    assert os.getsid(node.pid) == node.pid
    assert node.epmd_pid is not None
    assert os.getsid(node.epmd_pid) == node.epmd_pid


def test_a_node_listens_on_loopback_alone(node: NodeInfo) -> None:
    listening: dict[int, set[str]] = {}
    for table in ("tcp", "tcp6"):
        for line in Path(f"/proc/net/{table}").read_text().splitlines()[1:]:
            local_address, state = line.split()[1], line.split()[3]
            address, port = local_address.split(":")
            if state == "0A":
                listening.setdefault(int(port, 16), set()).add(address)
    loopback = {"0100007F", "00000000000000000000000001000000"}

    for open_port in node.ports.all():
        assert listening[open_port] <= loopback, f"port {open_port} listens on {listening[open_port]}"


def test_the_nodes_secrets_are_readable_by_their_owner_alone(node: NodeInfo) -> None:
    for name in ("node.json", "rabbitmq.conf", ".erlang.cookie"):
        assert stat.S_IMODE((node.directory / name).stat().st_mode) & 0o077 == 0
    assert node.password not in repr(node)


def test_the_default_user_does_not_exist(node: NodeInfo) -> None:
    with Management(node.management_url, node.user, node.password) as management:
        assert "guest" not in management.users()
        assert management.overview()["node"] == "collafuse@localhost"


def test_the_password_is_not_on_a_command_line(node: NodeInfo) -> None:
    for pid in processes_of(node.directory):
        assert node.password.encode() not in Path(f"/proc/{pid}/cmdline").read_bytes()
        assert node.password.encode() not in Path(f"/proc/{pid}/environ").read_bytes()


def test_a_missing_rabbitmq_says_how_to_install_it(tmp_path: Path) -> None:
    with pytest.raises(NodeError, match="apt-get install rabbitmq-server"):
        LocalNode(tmp_path / "node", server=tmp_path / "rabbitmq-server").start()

    assert not (tmp_path / "node").exists()


@pytest.mark.parametrize(
    ("script", "complaint", "timeout_seconds"),
    [
        ("echo 'cannot allocate' >&2; echo; exit 1", "ended while starting: 'cannot allocate'", 30.0),
        ("echo starting; exec sleep 600", "was not ready after 2 s: 'starting'", 2.0),
    ],
)
def test_a_node_that_does_not_come_up_says_why_and_leaves_nothing(
    tmp_path: Path, script: str, complaint: str, timeout_seconds: float
) -> None:
    server = tmp_path / "rabbitmq-server"
    server.write_text(f"#!/bin/sh\n{script}\n")
    server.chmod(0o755)
    local = LocalNode(tmp_path / "node", server=server)

    with pytest.raises(NodeError, match=complaint) as caught:
        local.start(timeout_seconds=timeout_seconds)

    assert str(tmp_path / "node" / "startup.log") in str(caught.value)
    assert processes_of(local.directory) == []
    assert local.status().state == "stopped"
    with pytest.raises(ConfigError, match="was stopped: start it again"):
        broker_settings(None, local.directory)


def test_a_taken_port_is_named_with_a_way_out(tmp_path: Path) -> None:
    failing = tmp_path / "rabbitmq-server"
    failing.write_text("#!/bin/sh\nexit 1\n")
    failing.chmod(0o755)
    local = LocalNode(tmp_path / "node", server=failing)
    with pytest.raises(NodeError, match="ended while starting"):
        local.start()
    port = json.loads((tmp_path / "node" / "node.json").read_text())["ports"]["amqp"]

    with socket.socket() as other:
        other.bind(("127.0.0.1", port))
        other.listen()
        with pytest.raises(NodeError, match=f"port {port} .* in use .*--new-ports"):
            local.start()
        with pytest.raises(NodeError, match="ended while starting"):
            local.start(new_ports=True)

    assert json.loads((tmp_path / "node" / "node.json").read_text())["ports"]["amqp"] != port


def test_stop_never_signals_a_process_that_took_over_the_pid(tmp_path: Path) -> None:
    bystander = node_processes.spawn(("sleep", "600"), dict(os.environ), tmp_path / "log")
    try:
        took_over = {"pid": bystander.pid, "started_ticks": bystander.started_ticks - 1}
        record = {
            "ports": node_files.choose_ports().model_dump(),
            "user": "admin",
            "password": "x",
            "node": took_over,
            "epmd": took_over,
        }
        (tmp_path / "node.json").write_text(json.dumps(record))
        local = LocalNode(tmp_path)

        assert local.status().state == "crashed"
        assert not local.stop()
        local.kill()

        assert node_processes.alive(bystander)
        assert local.status().state == "stopped"
    finally:
        assert node_processes.end(bystander, signal_number=signal.SIGKILL, timeout_seconds=WAIT_SECONDS)


def test_a_record_that_is_none_is_named(tmp_path: Path) -> None:
    (tmp_path / "node.json").write_text('{"ports": "secret"}')

    with pytest.raises(NodeError, match=r"node\.json is not a private node's record") as caught:
        LocalNode(tmp_path).status()

    assert "secret" not in str(caught.value)


def test_the_environment_does_not_lead_to_another_node(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("RABBITMQ_NODENAME", "production@elsewhere")
    monkeypatch.setenv("RABBITMQ_MNESIA_DIR", "/var/lib/rabbitmq")
    monkeypatch.setenv("ERL_FLAGS", "-setcookie shared")
    ports = node_files.choose_ports()

    environment = node_files.environment(tmp_path, ports, "collafuse@localhost")

    assert environment["RABBITMQ_NODENAME"] == "collafuse@localhost"
    assert environment["ERL_EPMD_PORT"] == str(ports.epmd)
    assert "RABBITMQ_MNESIA_DIR" not in environment
    assert "ERL_FLAGS" not in environment


def test_ports_are_free_distinct_and_out_of_the_way_of_outgoing_connections() -> None:
    lowest_outgoing = int(Path("/proc/sys/net/ipv4/ip_local_port_range").read_text().split()[0])

    ports = node_files.choose_ports()

    assert len(set(ports.all())) == 5
    assert node_files.taken_ports(ports) == []
    assert max(ports.all()) < lowest_outgoing


def test_the_server_is_the_script_and_not_the_wrapper_that_changes_user() -> None:
    assert server_script().is_file()
    assert "su rabbitmq" not in server_script().read_text()
