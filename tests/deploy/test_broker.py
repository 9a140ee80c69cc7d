"""A real broker with the lines of deploy/rabbitmq/collafuse.conf and the secrets that `collafuse deploy init` made for it."""

import socket
import ssl
import tomllib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

import pika
import pytest
from typer.testing import CliRunner

from broker.cli import app
from broker.errors import ManagementError
from broker.management import Management
from broker.node.files import choose_ports
from broker.node.local_node import LocalNode
from broker.parameters import connection_parameters
from broker.settings import BrokerSettings, ProcessSettings
from collafuse.deploy.secret_files import make
from edge_agent.settings import EdgeSettings
from monitoring.exporter.settings import MonitorSettings
from server_worker.settings import DenoiseSettings, TrainSettings
from tests.deploy.test_secrets import ROOT

CONFIGURATION = (ROOT / "deploy/rabbitmq/collafuse.conf").read_text(encoding="utf-8").splitlines()
PLUGINS = (ROOT / "deploy/rabbitmq/enabled_plugins").read_text(encoding="utf-8").strip("[].\n").split(",")


@dataclass(frozen=True)
class Composed:
    """The broker of compose.yaml; in its container its ports are 5671 and 15671."""

    secrets: Path
    amqp: int
    management: int

    def here(self, url: str) -> str:
        """A URL of the secrets, as it reads on the host of the containers."""
        parts = urlsplit(url)
        port = self.management if parts.scheme == "https" else self.amqp
        return parts._replace(netloc=f"{parts.username}:{parts.password}@localhost:{port}").geturl()

    @property
    def operator(self) -> list[str]:
        """How the operator calls the commands there."""
        url = self.here((self.secrets / "operator_url").read_text(encoding="utf-8").strip())
        return ["--url", url, "--management-url", f"https://localhost:{self.management}"]


@pytest.fixture(scope="module")
def composed(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Composed]:
    directory = tmp_path_factory.mktemp("composed")
    secrets = directory / "secrets"
    make(secrets)
    # A node of the tests is asked whether it is ready as its own administrator, who has to be there first, and on a listener of
    # its own. Every other line is as it stands, with the paths and ports of this machine.
    LocalNode(directory / "node").start()
    LocalNode(directory / "node").stop()
    ports = choose_ports()
    lines = [line.replace("/run/secrets", str(secrets)) for line in CONFIGURATION]
    lines.remove("listeners.tcp = none")
    lines[lines.index("listeners.ssl.default = 5671")] = f"listeners.ssl.1 = 127.0.0.1:{ports.amqp}"
    lines[lines.index("management.ssl.port = 15671")] = f"management.ssl.port = {ports.management}"
    lines.append("management.ssl.ip = 127.0.0.1")
    lines[lines.index("disk_free_limit.absolute = 4GB")] = "disk_free_limit.absolute = 512MB"
    local = LocalNode(directory / "node", config=lines, plugins=PLUGINS)
    local.start()
    try:
        yield Composed(secrets, ports.amqp, ports.management)
    finally:
        local.stop()


def use(settings: BrokerSettings, queue: str = "samples") -> None:
    with pika.BlockingConnection(connection_parameters(settings, name="test")) as amqp:
        amqp.channel().basic_get(queue)


def run(*words: object) -> str:
    result = CliRunner().invoke(app, [str(word) for word in words], catch_exceptions=False)
    assert result.exit_code == 0, result.output
    return result.stdout


def test_the_jobs_of_the_compose_file_and_then_workers_and_devices_do_their_work(
    composed: Composed, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLLAFUSE_BROKER_CA", str(composed.secrets / "ca.pem"))
    run("init", *composed.operator[:2])
    run("enroll", "clinic-a", "device-1", *composed.operator, "--out", tmp_path / "a.toml")
    authority = ("--certificate", composed.secrets)
    run("enroll", "clinic-b", "device-1", *composed.operator, "--out", tmp_path / "b.toml", *authority)
    monkeypatch.delenv("COLLAFUSE_BROKER_CA")

    workers: tuple[tuple[type[ProcessSettings], str], ...] = (
        (TrainSettings, "trainer"),
        (DenoiseSettings, "denoiser"),
    )
    for kind, name in workers:
        found = tomllib.loads((composed.secrets / f"{name}.toml").read_text(encoding="utf-8"))
        use(kind.load(**{**found, "broker_url": composed.here(found["broker_url"])}).broker())
    for device in ("a.toml", "b.toml"):
        settings = EdgeSettings.load(tmp_path / device).broker()
        use(settings, f"inbox.{settings.user}")


def test_the_exporter_trusts_the_authority_that_it_is_given(
    composed: Composed, monkeypatch: pytest.MonkeyPatch
) -> None:
    found = tomllib.loads((composed.secrets / "exporter.toml").read_text(encoding="utf-8"))
    given = MonitorSettings.load(management_url=composed.here(found["management_url"])).management()
    assert given is not None
    url, user, password = given

    monkeypatch.delenv("SSL_CERT_FILE", raising=False)
    with (
        Management(url, user, password.get_secret_value()) as stranger,
        pytest.raises(ManagementError, match="certificate"),
    ):
        stranger.queues("collafuse")
    monkeypatch.setenv("SSL_CERT_FILE", str(composed.secrets / "ca.pem"))
    with Management(url, user, password.get_secret_value()) as exporter:
        assert isinstance(exporter.queues("collafuse"), list)


@pytest.mark.parametrize("name", ["rabbitmq", "127.0.0.1"])
def test_the_certificate_is_good_for_every_name_of_the_broker(composed: Composed, name: str) -> None:
    context = ssl.create_default_context(cafile=composed.secrets / "ca.pem")
    for port in (composed.amqp, composed.management):
        with (
            socket.create_connection(("127.0.0.1", port)) as plain,
            context.wrap_socket(plain, server_hostname=name) as link,
        ):
            assert link.version() in {"TLSv1.2", "TLSv1.3"}


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_what_is_older_than_tls_1_2_is_not_spoken(composed: Composed) -> None:
    context = ssl.create_default_context(cafile=composed.secrets / "ca.pem")
    context.set_ciphers("ALL:@SECLEVEL=0")
    context.minimum_version = context.maximum_version = ssl.TLSVersion.TLSv1_1
    for port in (composed.amqp, composed.management):
        with (
            socket.create_connection(("127.0.0.1", port)) as plain,
            pytest.raises((ssl.SSLError, ConnectionResetError)),
        ):
            context.wrap_socket(plain, server_hostname="localhost")
