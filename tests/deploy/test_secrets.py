"""The secrets of compose.yaml: complete, random, never overwritten, and a real broker takes them."""

import json
import os
import stat
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import urlsplit

import httpx
import pika
import pika.exceptions
import pytest
import yaml
from cryptography import x509

from broker.certificates import Authority
from broker.errors import ManagementError
from broker.management import Management
from broker.node.local_node import NodeInfo
from edge_agent.settings import EdgeSettings
from monitoring.settings import MonitorSettings
from server_worker.settings import DenoiseSettings, TrainSettings

ROOT = Path(__file__).parents[2]
USERS = ("operator", "trainer", "denoiser", "monitor")


def make_secrets(directory: Path, *more: str, path: str | None = None) -> subprocess.CompletedProcess[str]:
    """Runs the script, with another PATH if one is given."""
    return subprocess.run(
        [sys.executable, ROOT / "deploy" / "make-secrets", "--directory", directory, *more],
        env=None if path is None else os.environ | {"PATH": path},
        capture_output=True,
        text=True,
        check=False,
        timeout=30,
    )


@pytest.fixture
def secrets(tmp_path: Path) -> Path:
    made = make_secrets(tmp_path / "secrets")
    assert made.returncode == 0, made.stderr
    return tmp_path / "secrets"


def test_every_secret_of_the_compose_file_is_made_and_no_other(secrets: Path) -> None:
    named = yaml.safe_load((ROOT / "compose.yaml").read_text(encoding="utf-8"))["secrets"].values()
    wanted = {Path(secret["file"]).name for secret in named}
    # The authority's key signs certificates of devices; no container ever sees it.
    assert {file.name for file in secrets.iterdir()} == wanted | {".gitignore", "ca.key"}
    assert stat.S_IMODE((secrets / "ca.key").stat().st_mode) == 0o600
    assert (secrets / ".gitignore").read_text(encoding="utf-8") == "*\n"


def test_only_the_owner_can_enter_the_directory(secrets: Path) -> None:
    assert stat.S_IMODE(secrets.stat().st_mode) == 0o700


def test_the_authoritys_key_is_its_owners_alone(secrets: Path) -> None:
    assert stat.S_IMODE((secrets / "ca.key").stat().st_mode) == 0o600


def test_the_certificate_is_for_the_containers_this_machine_and_the_names_that_are_given(
    secrets: Path, tmp_path: Path
) -> None:
    made = make_secrets(tmp_path / "more", "--host", "broker.example.org", "--host", "10.0.0.5")
    assert made.returncode == 0, made.stderr

    assert names_of(secrets) == {"rabbitmq", "localhost", "127.0.0.1", "::1"}
    assert names_of(tmp_path / "more") == names_of(secrets) | {"broker.example.org", "10.0.0.5"}


def names_of(secrets: Path) -> set[str]:
    certificate = x509.load_pem_x509_certificate((secrets / "server.pem").read_bytes())
    found = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    return {str(name.value) for name in found}


def test_the_authority_is_one_that_the_commands_take(secrets: Path) -> None:
    authority = Authority.of(secrets, make=False)

    renewed = authority.server(["rabbitmq"])
    (secrets / "again.pem").write_text(renewed.certificate)
    for name in ("server.pem", "again.pem"):
        certificate = x509.load_pem_x509_certificate((secrets / name).read_bytes())
        certificate.verify_directly_issued_by(authority.certificate)


@pytest.mark.parametrize("host", ["https://broker.example.org", "broker:5671", "a,DNS:b", ""])
def test_what_is_no_host_is_refused_and_nothing_is_made(tmp_path: Path, host: str) -> None:
    made = make_secrets(tmp_path / "secrets", "--host", host)

    assert made.returncode == 2
    assert "not the name or address of a host" in made.stderr
    assert not (tmp_path / "secrets").exists()


def test_without_openssl_there_is_one_line_and_nothing_is_made(tmp_path: Path) -> None:
    made = make_secrets(tmp_path / "secrets", path=str(tmp_path))

    assert (made.returncode, made.stderr.count("\n")) == (1, 1)
    assert "openssl is missing" in made.stderr
    assert not (tmp_path / "secrets").exists()


def test_secrets_are_never_overwritten(secrets: Path) -> None:
    before = {file: file.read_bytes() for file in secrets.iterdir()}
    again = make_secrets(secrets)
    assert again.returncode == 1
    assert again.stderr.startswith("error: ")
    assert len(again.stderr.splitlines()) == 1
    assert {file: file.read_bytes() for file in secrets.iterdir()} == before


def test_secrets_differ_from_one_another_and_from_time_to_time(secrets: Path, tmp_path: Path) -> None:
    make_secrets(tmp_path / "others")
    passwords = []
    for directory in (secrets, tmp_path / "others"):
        urls = [(directory / "operator_url").read_text().strip(), str(monitor(directory))]
        urls += [url_of(settings.load(directory / name)) for settings, name in WORKERS]
        passwords += [str(urlsplit(url).password) for url in urls]
        passwords.append((directory / "grafana_admin_password").read_text().strip())
    assert len(set(passwords)) == len(passwords) == 10
    assert min(map(len, passwords)) >= 32


WORKERS: tuple[tuple[type[TrainSettings] | type[DenoiseSettings], str], ...] = (
    (TrainSettings, "trainer.toml"),
    (DenoiseSettings, "denoiser.toml"),
)


def url_of(settings: TrainSettings | DenoiseSettings | EdgeSettings) -> str:
    assert settings.broker_url is not None
    assert (settings.broker().host, settings.broker().tls) == ("rabbitmq", True)
    assert settings.broker().ca is not None
    return settings.broker_url.get_secret_value()


def monitor(secrets: Path) -> str:
    url = MonitorSettings.load(secrets / "exporter.toml").management_url
    assert url is not None
    return url.get_secret_value()


@pytest.fixture
def imported(node: NodeInfo, secrets: Path) -> Iterator[Path]:
    """The broker has taken the definitions in, as it does in its container at the first start."""
    definitions = json.loads((secrets / "rabbitmq_definitions.json").read_text(encoding="utf-8"))
    with Management(node.management_url, node.user, node.password) as management:
        answer = httpx.post(
            f"{node.management_url}/api/definitions",
            auth=(node.user, node.password),
            json=definitions,
            timeout=20,
        )
        assert answer.is_success, answer.text
        yield secrets
        for user in USERS:
            management.delete_user(user)


def here(url: str, port: int) -> str:
    """The same credentials, at the broker of the tests, which speaks unencrypted on this machine."""
    parts = urlsplit(url)
    return parts._replace(
        scheme="amqp", netloc=f"{parts.username}:{parts.password}@127.0.0.1:{port}"
    ).geturl()


def test_a_real_broker_takes_the_users_with_these_passwords(node: NodeInfo, imported: Path) -> None:
    urls = [url_of(settings.load(imported / name)) for settings, name in WORKERS]
    urls.append((imported / "operator_url").read_text(encoding="utf-8").strip())
    for url in urls:
        with pika.BlockingConnection(pika.URLParameters(here(url, node.ports.amqp))) as amqp:
            amqp.channel().queue_declare("samples", passive=True)


def test_the_exporter_reads_the_metrics_that_prometheus_reads(secrets: Path) -> None:
    prometheus = (ROOT / "monitoring/prometheus/prometheus.yml").read_text(encoding="utf-8")
    jobs = {job["job_name"]: job for job in yaml.safe_load(prometheus)["scrape_configs"]}
    (target,) = jobs["rabbitmq"]["static_configs"][0]["targets"]
    assert MonitorSettings.load(secrets / "exporter.toml").node_metrics_urls == (f"http://{target}",)


def test_the_exporters_user_may_look_and_nothing_else(node: NodeInfo, imported: Path) -> None:
    parts = urlsplit(monitor(imported))
    with Management(node.management_url, str(parts.username), str(parts.password)) as looking:
        assert "samples" in {queue["name"] for queue in looking.queues(node.vhost)}
        with pytest.raises(ManagementError):
            looking.put_user("intruder", "x")
    amqp_url = f"amqp://{parts.username}:{parts.password}@127.0.0.1:{node.ports.amqp}/{node.vhost}"
    with (
        pika.BlockingConnection(pika.URLParameters(amqp_url)) as amqp,
        pytest.raises(pika.exceptions.ChannelClosedByBroker),
    ):
        amqp.channel().basic_get("samples")


def test_the_exporter_reads_what_devices_report_and_writes_nowhere(node: NodeInfo, imported: Path) -> None:
    settings = MonitorSettings.load(imported / "exporter.toml")
    assert settings.hears_devices
    assert (settings.broker().user, settings.broker().host, settings.broker().tls) == (
        "monitor",
        "rabbitmq",
        True,
    )
    url = here(settings.broker().url.get_secret_value(), node.ports.amqp)
    with pika.BlockingConnection(pika.URLParameters(url)) as amqp:
        amqp.channel().basic_get("telemetry")
        for exchange in ("", "collafuse.up", "collafuse.down"):
            channel = amqp.channel()
            channel.confirm_delivery()
            with pytest.raises(pika.exceptions.ChannelClosedByBroker):
                channel.basic_publish(exchange, "telemetry", b"")
