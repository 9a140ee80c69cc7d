"""`collafuse broker`, as somebody types it."""

import json
import stat
import tomllib
from pathlib import Path

import pika
import pytest
from typer.testing import CliRunner

from broker.cli import app
from broker.errors import (
    AlreadyEnrolled,
    BrokerUnreachable,
    CertificateError,
    ConfigError,
    InvalidName,
    NodeError,
    NotEnrolled,
)
from broker.management import Management
from broker.node.local_node import NodeInfo
from broker.settings import BROKER_URL_VARIABLE, BrokerSettings
from broker.topology import FEDERATION
from monitoring.exporter.settings import MonitorSettings


@pytest.fixture(autouse=True)
def no_broker_in_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(BROKER_URL_VARIABLE, raising=False)


def output(*arguments: object) -> str:
    """Runs a command that succeeds, and returns what it prints."""
    result = CliRunner().invoke(app, [str(argument) for argument in arguments], catch_exceptions=False)
    assert result.exit_code == 0, result.output
    return result.stdout


def test_init_declares_the_queues_and_can_be_repeated(node: NodeInfo) -> None:
    for _ in range(2):
        found = json.loads(output("init", "--url", node.amqp_url, "--json"))

    assert found["queues"] == ["dead", "samples", "denoise", "prefetch", "telemetry"]
    assert node.password not in found["broker"]


def test_init_finds_the_private_node(node: NodeInfo) -> None:
    assert f":{node.ports.amqp}/" in output("init", "--dir", node.directory)


def test_init_takes_the_broker_from_the_environment(node: NodeInfo, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(BROKER_URL_VARIABLE, node.amqp_url)

    assert f":{node.ports.amqp}/" in output("init", "--dir", "/nonexistent")


@pytest.mark.parametrize(
    ("url", "complaint"),
    [
        ("amqp://a:b@127.0.0.1:1/x", "is it running"),
        ("amqps://a:b@nowhere.invalid/x", "nowhere.invalid"),
    ],
)
def test_a_broker_that_is_not_there_is_one_line(url: str, complaint: str) -> None:
    with pytest.raises(BrokerUnreachable, match=complaint) as caught:
        output("init", "--url", url)

    assert "\n" not in str(caught.value)


def test_a_wrong_password_or_vhost_is_named_as_such(node: NodeInfo) -> None:
    with pytest.raises(BrokerUnreachable, match="user or the password"):
        output("init", "--url", f"amqp://admin:wrong@127.0.0.1:{node.ports.amqp}/collafuse")
    with pytest.raises(BrokerUnreachable, match="vhost"):
        output("init", "--url", f"amqp://admin:{node.password}@127.0.0.1:{node.ports.amqp}/elsewhere")


def test_no_broker_at_all_says_what_to_do() -> None:
    with pytest.raises(ConfigError, match="collafuse broker node start"):
        output("init", "--dir", "/nonexistent")


def test_a_device_is_enrolled_once_and_renewed_on_request(node: NodeInfo, tmp_path: Path) -> None:
    out = tmp_path / "device.toml"
    enroll = ("enroll", "lab-a", "pc-1", "--dir", node.directory)

    output(*enroll, "--out", out)
    first = tomllib.loads(out.read_text())
    assert (first["client"], first["device"]) == ("lab-a", "pc-1")
    assert BrokerSettings.from_url(first["broker_url"]).user == "lab-a_pc-1"
    assert stat.S_IMODE(out.stat().st_mode) == 0o600

    with pytest.raises(AlreadyEnrolled, match="--renew"):
        output(*enroll, "--out", tmp_path / "other.toml")
    assert not (tmp_path / "other.toml").exists()

    output(*enroll, "--out", out, "--renew")
    assert tomllib.loads(out.read_text())["broker_url"] != first["broker_url"]


def test_enrolment_checks_everything_before_it_touches_the_broker(node: NodeInfo, tmp_path: Path) -> None:
    precious = tmp_path / "precious.toml"
    precious.write_text("")

    with pytest.raises(ConfigError, match="exists already"):
        output("enroll", "lab-b", "pc-1", "--dir", node.directory, "--out", precious)
    with pytest.raises(ConfigError, match="no directory"):
        output("enroll", "lab-b", "pc-1", "--dir", node.directory, "--out", tmp_path / "none" / "x.toml")
    with pytest.raises(InvalidName):
        output("enroll", "Lab_B", "pc-1", "--dir", node.directory, "--out", tmp_path / "x.toml")

    output("enroll", "lab-b", "pc-1", "--dir", node.directory, "--out", tmp_path / "x.toml")


def test_credentials_can_name_another_way_to_the_broker(node: NodeInfo, tmp_path: Path) -> None:
    out = tmp_path / "x.toml"

    output(
        "enroll",
        "lab-c",
        "pc-1",
        "--dir",
        node.directory,
        "--out",
        out,
        "--public-url",
        "amqps://mq.example:5999",
    )

    settings = BrokerSettings.from_url(tomllib.loads(out.read_text())["broker_url"])
    assert (settings.host, settings.port, settings.tls, settings.vhost) == (
        "mq.example",
        5999,
        True,
        "collafuse",
    )


def test_the_authority_is_handed_on_from_a_file_or_as_it_stands(
    node: NodeInfo, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    output("certs", "--out", tmp_path, "--host", "mq.example")
    pem = "# two // slashes\n" + (tmp_path / "ca.pem").read_text()
    common = (
        "enroll",
        "lab-ca",
        "pc-1",
        "--dir",
        node.directory,
        "--public-url",
        "amqps://mq.example",
        "--out",
    )

    output(*common, tmp_path / "1.toml", "--ca", tmp_path / "ca.pem")
    monkeypatch.setenv("COLLAFUSE_BROKER_CA", pem)
    output(*common, tmp_path / "2.toml", "--renew")

    found = [tomllib.loads((tmp_path / name).read_text())["broker_ca"] for name in ("1.toml", "2.toml")]
    assert found == [(tmp_path / "ca.pem").read_text(), pem]
    output("revoke", "lab-ca", "pc-1", "--dir", node.directory)


def test_renewing_says_what_ended_and_what_did_not(node: NodeInfo, tmp_path: Path) -> None:
    common = ("enroll", "lab-r", "pc-1", "--dir", node.directory, "--out", tmp_path / "x.toml")

    assert "void" not in output(*common)
    told = output(*common, "--renew")

    assert "old password is void" in told
    assert "revoke the device and enrol it under another name" in told
    output("revoke", "lab-r", "pc-1", "--dir", node.directory)


@pytest.mark.parametrize("host", ["amqps://broker.example", "broker:5671"])
def test_a_host_of_a_certificate_that_is_none_is_refused_in_one_line(tmp_path: Path, host: str) -> None:
    with pytest.raises(CertificateError, match="leave out scheme and port"):
        output("certs", "--out", tmp_path, "--host", host)


def test_the_queues_are_declared_on_whichever_node_of_a_cluster_answers(node: NodeInfo) -> None:
    url = node.amqp_url.replace("@", "@127.0.0.1:1,")

    assert "samples" in output("init", "--url", url)


def test_a_public_url_with_a_password_is_refused(node: NodeInfo, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="without user or password"):
        output(
            "enroll",
            "lab-d",
            "pc-1",
            "--dir",
            node.directory,
            "--out",
            tmp_path / "x",
            "--public-url",
            "amqp://a:b@c",
        )


def test_a_worker_gets_a_user_that_can_declare(node: NodeInfo, tmp_path: Path) -> None:
    out = tmp_path / "trainer.toml"

    output("server-user", "trainer", "--dir", node.directory, "--out", out)

    url = tomllib.loads(out.read_text())["broker_url"]
    assert "samples" in output("init", "--url", url)


def test_the_exporter_gets_a_user_with_which_it_reads_the_broker(node: NodeInfo, tmp_path: Path) -> None:
    out = tmp_path / "exporter.toml"

    nodes = ("http://one.example:15692", "http://two.example:15692")
    asked = [word for url in nodes for word in ("--node-metrics-url", url)]
    output("exporter-user", "exporter", "--dir", node.directory, "--out", out, *asked)

    settings = MonitorSettings.load(out)
    assert settings.node_metrics_urls == nodes
    assert (settings.vhost, settings.hears_devices) == (node.vhost, True)
    with pika.BlockingConnection(pika.URLParameters(settings.broker().url.get_secret_value())) as amqp:
        amqp.channel().basic_get("telemetry")
    given = settings.management()
    assert given is not None
    url, user, password = given
    with Management(url, user, password.get_secret_value()) as api:
        assert api.queues(node.vhost)


def test_the_status_of_a_node_is_shown_without_its_password(node: NodeInfo) -> None:
    found = json.loads(output("node", "status", "--dir", node.directory, "--json"))

    assert found["state"] == "running"
    assert found["pid"] == node.pid
    assert node.password not in json.dumps(found)


def test_starting_a_node_that_runs_shows_it(node: NodeInfo) -> None:
    found = json.loads(output("node", "start", "--dir", node.directory, "--json"))

    assert found["pid"] == node.pid


def test_rabbitmqctl_is_run_on_the_private_node(node: NodeInfo) -> None:
    arguments = ("list_queues", "--vhost", node.vhost, "name", "--silent")
    found = output("node", "ctl", "--dir", node.directory, *arguments)

    assert {queue.name for queue in FEDERATION.queues} <= set(found.split())


def test_rabbitmqctl_where_no_node_was_started_is_one_line(tmp_path: Path) -> None:
    with pytest.raises(NodeError, match="no node was ever started"):
        output("node", "ctl", "--dir", tmp_path, "status")


def test_where_no_node_runs_status_says_so_by_its_exit_code_and_stop_does_nothing(tmp_path: Path) -> None:
    result = CliRunner().invoke(app, ["node", "status", "--dir", str(tmp_path)])

    assert (result.exit_code, result.stdout) == (3, "state: absent\n")
    assert json.loads(output("node", "stop", "--dir", tmp_path, "--json")) == {"stopped": False}


def test_devices_are_listed_and_revoked(node: NodeInfo, tmp_path: Path) -> None:
    common = ("--dir", node.directory)
    output("enroll", "lab-l", "pc-1", *common, "--out", tmp_path / "1.toml", "--max-connections", "3")
    output("enroll", "lab-l", "pc-2", *common, "--out", tmp_path / "2.toml")

    listed = {one["device"]: one for one in json.loads(output("list", "lab-l", *common, "--json"))}
    assert set(listed) == {"pc-1", "pc-2"}
    assert listed["pc-1"] == {
        "client": "lab-l",
        "device": "pc-1",
        "connected": False,
        "inbox_messages": 0,
        "login": "password",
        "max_connections": 3,
        "max_channels": 32,
    }
    assert "pc-1" in output("list", "lab-l", *common)

    assert "is revoked" in output("revoke", "lab-l", "pc-1", *common)

    assert [one["device"] for one in json.loads(output("list", "lab-l", *common, "--json"))] == ["pc-2"]
    with pytest.raises(NotEnrolled, match="pc-1 is not enrolled"):
        output("revoke", "lab-l", "pc-1", *common)
    output("revoke", "lab-l", "pc-2", *common)
    assert "no device of lab-l" in output("list", "lab-l", *common)


def test_certificates_are_made_with_the_lines_that_use_them(tmp_path: Path) -> None:
    text = output("certs", "--out", tmp_path / "tls", "--host", "broker.example", "--host", "10.0.0.5")

    assert f"ssl_options.certfile = {tmp_path}/tls/server.pem" in text
    assert "listeners.tcp = none" in text
    for name in ("ca.key", "server.key"):
        assert stat.S_IMODE((tmp_path / "tls" / name).stat().st_mode) == 0o600
    authority = (tmp_path / "tls" / "ca.pem").read_text()
    output("certs", "--out", tmp_path / "tls", "--host", "other.example")
    assert (tmp_path / "tls" / "ca.pem").read_text() == authority


def test_a_device_is_enrolled_with_a_certificate_in_its_one_file(node: NodeInfo, tmp_path: Path) -> None:
    output("certs", "--out", tmp_path / "tls", "--host", "broker.example")
    output(
        "enroll",
        "lab-x",
        "pc-1",
        "--dir",
        node.directory,
        "--out",
        tmp_path / "x.toml",
        "--public-url",
        "amqps://broker.example",
        "--certificate",
        tmp_path / "tls",
    )

    found = tomllib.loads((tmp_path / "x.toml").read_text())
    assert found["broker_url"] == "amqps://lab-x_pc-1@broker.example:5671/collafuse"
    assert found["broker_ca"].strip() == (tmp_path / "tls" / "ca.pem").read_text().strip()
    assert "BEGIN CERTIFICATE" in found["broker_certificate"]
    assert "PRIVATE KEY" in found["broker_key"]
    output("revoke", "lab-x", "pc-1", "--dir", node.directory)
