"""The secrets of compose.yaml: complete, random, never overwritten, and a real broker takes them."""

import json
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

from broker.errors import ManagementError
from broker.local_node import NodeInfo
from broker.management import Management
from edge_agent.settings import EdgeSettings
from monitoring.settings import MonitorSettings
from server_worker.settings import DenoiseSettings, TrainSettings

ROOT = Path(__file__).parents[2]
USERS = ("operator", "trainer", "denoiser", "monitor")


def make_secrets(directory: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, ROOT / "deploy" / "make-secrets", "--directory", directory],
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
    assert {file.name for file in secrets.iterdir()} == wanted | {".gitignore"}
    assert (secrets / ".gitignore").read_text(encoding="utf-8") == "*\n"


def test_only_the_owner_can_enter_the_directory(secrets: Path) -> None:
    assert stat.S_IMODE(secrets.stat().st_mode) == 0o700


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
    assert settings.broker().host == "rabbitmq"
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
    """The same credentials, at the broker of the tests."""
    parts = urlsplit(url)
    return parts._replace(netloc=f"{parts.username}:{parts.password}@127.0.0.1:{port}").geturl()


def test_a_real_broker_takes_the_users_with_these_passwords(node: NodeInfo, imported: Path) -> None:
    urls = [url_of(settings.load(imported / name)) for settings, name in WORKERS]
    urls.append((imported / "operator_url").read_text(encoding="utf-8").strip())
    for url in urls:
        with pika.BlockingConnection(pika.URLParameters(here(url, node.ports.amqp))) as amqp:
            amqp.channel().queue_declare("samples", passive=True)


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
