"""The secrets of compose.yaml: complete, random, never overwritten, and a real broker takes them."""

import json
import os
import stat
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import httpx
import pika
import pika.exceptions
import pytest
import yaml
from cryptography import x509
from cryptography.hazmat.primitives.serialization import load_pem_private_key
from typer.testing import CliRunner

from broker.certificates import Authority
from broker.errors import CertificateError, ManagementError
from broker.management import Management
from broker.node.local_node import NodeInfo
from collafuse.deploy.cli import app
from collafuse.deploy.errors import DeployError
from collafuse.deploy.secret_files import make
from edge_agent.settings import EdgeSettings
from monitoring.exporter.settings import MonitorSettings
from server_worker.settings import DenoiseSettings, TrainSettings
from tests.conftest import WAIT_SECONDS

ROOT = Path(__file__).parents[2]
USERS = ("operator", "trainer", "denoiser", "monitor")


@pytest.fixture
def secrets(tmp_path: Path) -> Path:
    make(tmp_path / "secrets")
    return tmp_path / "secrets"


def contents(secrets: Path) -> dict[str, bytes]:
    return {file.name: file.read_bytes() for file in secrets.iterdir() if file.name != ".gitignore"}


def mode(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


def test_every_secret_of_the_compose_file_is_made_and_no_other(secrets: Path) -> None:
    named = yaml.safe_load((ROOT / "compose.yaml").read_text(encoding="utf-8"))["secrets"].values()
    wanted = {Path(secret["file"]).name for secret in named}
    # The authority's key signs certificates of devices; no container ever sees it.
    assert set(contents(secrets)) == wanted | {"ca.key"}


def test_git_has_the_directory_and_never_what_is_in_it(secrets: Path) -> None:
    """It is there before Compose mounts it, which would make it as root otherwise."""
    for directory in (ROOT / "secrets", secrets):
        assert (directory / ".gitignore").read_text(encoding="utf-8") == "*\n"


def test_only_the_owner_can_enter_the_directory_whoever_made_it(tmp_path: Path) -> None:
    (tmp_path / "open").mkdir(mode=0o755)
    for directory in (tmp_path / "open", tmp_path / "new"):
        make(directory)
        assert mode(directory) == 0o700


def test_containers_can_read_the_files_and_the_authoritys_key_is_its_owners_alone(secrets: Path) -> None:
    (secrets / "server.key").chmod(0o600)
    make(secrets)

    modes = {name: mode(secrets / name) for name in contents(secrets)}
    assert modes.pop("ca.key") == 0o600
    assert set(modes.values()) == {0o644}


def test_the_certificate_is_for_the_containers_this_machine_and_the_names_that_are_given(
    secrets: Path, tmp_path: Path
) -> None:
    made = make(tmp_path / "more", ["broker.example.org", "10.0.0.5"])

    assert names_of(secrets) == {"rabbitmq", "localhost", "127.0.0.1", "::1"}
    assert names_of(tmp_path / "more") == names_of(secrets) | {"broker.example.org", "10.0.0.5"}
    assert set(made.hosts) == names_of(tmp_path / "more")


def names_of(secrets: Path) -> set[str]:
    certificate = x509.load_pem_x509_certificate((secrets / "server.pem").read_bytes())
    found = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    return {str(name.value) for name in found}


def test_a_renewed_certificate_keeps_its_names_and_its_authority(secrets: Path) -> None:
    make(secrets, ["broker.example.org"], renew=True)
    before = contents(secrets)

    renewed = make(secrets, ["2001:DB8:0::5"], renew=True)

    changed = {name for name, content in contents(secrets).items() if before[name] != content}
    assert changed == set(renewed.made) == {"server.pem", "server.key"}
    assert names_of(secrets) >= {"rabbitmq", "127.0.0.1", "broker.example.org", "2001:db8::5"}
    certificate = x509.load_pem_x509_certificate((secrets / "server.pem").read_bytes())
    certificate.verify_directly_issued_by(Authority.of(secrets, make=False).certificate)
    assert make(secrets, ["2001:DB8::5", "broker.example.org"]).made == ()


@pytest.mark.parametrize("host", ["broker.example.org", ""])
def test_a_name_that_the_certificate_lacks_is_not_passed_over(secrets: Path, host: str) -> None:
    before = contents(secrets)

    with pytest.raises(DeployError, match=rf"not for '{host}'; add --renew"):
        make(secrets, ["localhost", host])

    assert contents(secrets) == before


def test_the_authority_is_one_that_the_commands_take(secrets: Path) -> None:
    authority = Authority.of(secrets, make=False)

    for text in ((secrets / "server.pem").read_text(), authority.server(["rabbitmq"]).certificate):
        x509.load_pem_x509_certificate(text.encode()).verify_directly_issued_by(authority.certificate)


@pytest.mark.parametrize("host", ["https://broker.example.org", "broker:5671", "a,DNS:b", ""])
def test_what_is_no_host_is_refused_and_no_password_is_made(tmp_path: Path, host: str) -> None:
    with pytest.raises(CertificateError, match="not the name or address of a host"):
        make(tmp_path / "secrets", [host])

    assert set(contents(tmp_path / "secrets")) == {"ca.pem", "ca.key"}


def test_secrets_are_never_overwritten(secrets: Path) -> None:
    before = contents(secrets)

    assert make(secrets).made == ()

    assert contents(secrets) == before


@pytest.mark.parametrize(
    "missing",
    [
        ("grafana_admin_password",),
        ("server.key",),
        ("rabbitmq_definitions.json",),
        ("trainer.toml", "rabbitmq_definitions.json"),
    ],
)
def test_what_is_missing_is_made_and_the_rest_is_kept(secrets: Path, missing: tuple[str, ...]) -> None:
    before = contents(secrets)
    for name in missing:
        (secrets / name).unlink()

    made = make(secrets).made

    assert set(missing) <= set(made)
    after = contents(secrets)
    assert {name for name in before if before[name] != after[name]} == set(made)
    assert set(made) - set(missing) <= {"server.pem"}, "a key and its certificate are made together"


def test_no_file_is_ever_seen_half_written(tmp_path: Path) -> None:
    """All that is opened for writing is a draft, which is renamed when it is whole."""
    make(tmp_path / "secrets", keda=True)
    opened: list[Path] = []
    with auditing(opened.append):
        make(tmp_path / "secrets", renew=True)
        make(tmp_path / "new", keda=True)

    ours = [path for path in opened if path.is_relative_to(tmp_path)]
    assert {path.name.split(".")[0] for path in ours} >= {"ca", "server", "trainer", "keda_password"}
    assert not [path for path in ours if path.suffix != ".new"]
    assert not list(tmp_path.rglob("*.new"))


_listeners: list[Callable[[Path], None]] = []


def _hear(event: str, arguments: tuple[Any, ...]) -> None:
    if event != "open" or isinstance(arguments[0], int) or not arguments[2] & (os.O_WRONLY | os.O_RDWR):
        return
    for told in _listeners:
        told(Path(os.fsdecode(arguments[0])))


sys.addaudithook(_hear)  # Python has no way to take one away again


@contextmanager
def auditing(told: Callable[[Path], None]) -> Iterator[None]:
    """Tells of every path that this process opens for writing."""
    _listeners.append(told)
    try:
        yield
    finally:
        _listeners.remove(told)


def test_a_broker_that_runs_keeps_the_pair_it_began_with_until_it_is_made_anew(
    secrets: Path, tmp_path: Path
) -> None:
    """Compose mounts the files, not their names, and RabbitMQ reads its certificate again while it runs."""
    mounted = {name: tmp_path / name for name in ("server.pem", "server.key")}
    for name, path in mounted.items():
        path.hardlink_to(secrets / name)
    before = {name: path.read_bytes() for name, path in mounted.items()}

    make(secrets, renew=True)

    assert {name: path.read_bytes() for name, path in mounted.items()} == before
    assert before["server.pem"] != (secrets / "server.pem").read_bytes()


def test_a_renewal_that_was_cut_short_is_finished_by_the_next_call(secrets: Path) -> None:
    """The key is written first: what stands beside it is the certificate of the one before."""
    (secrets / "server.key").write_text(Authority.of(secrets, make=False).server(["rabbitmq"]).key)

    assert make(secrets).made == ("server.pem", "server.key")

    certificate = x509.load_pem_x509_certificate((secrets / "server.pem").read_bytes())
    key = load_pem_private_key((secrets / "server.key").read_bytes(), password=None)
    assert certificate.public_key() == key.public_key()
    assert make(secrets).made == ()


def test_no_new_authority_is_made_in_silence_for_secrets_of_another(secrets: Path) -> None:
    """Workers and devices would trust the old one, and the broker would show its certificate."""
    (secrets / "ca.key").unlink()
    with pytest.raises(CertificateError, match=r"ca\.key is missing\): restore it"):
        make(secrets)
    (secrets / "ca.pem").unlink()
    before = contents(secrets)

    with pytest.raises(DeployError, match=r"restore ca\.pem and ca\.key"):
        make(secrets)

    assert contents(secrets) == before


def test_a_password_that_only_the_broker_knows_is_not_made_anew_in_silence(secrets: Path) -> None:
    (secrets / "trainer.toml").unlink()
    before = contents(secrets)

    with pytest.raises(DeployError, match=r"trainer\.toml is missing.*delete rabbitmq_definitions\.json too"):
        make(secrets)

    assert contents(secrets) == before


def test_kedas_user_is_made_when_it_is_asked_for_and_the_others_keep_their_passwords(secrets: Path) -> None:
    before, users = contents(secrets), known(secrets)["users"]
    assert "keda" not in {user["name"] for user in users}

    assert set(make(secrets, keda=True).made) == {"keda_password", "rabbitmq_definitions.json"}
    assert make(secrets, keda=True).made == make(secrets).made == ()

    after = contents(secrets)
    assert {name for name in before if before[name] != after[name]} == {"rabbitmq_definitions.json"}
    assert known(secrets)["users"][:-1] == users
    assert mode(secrets / "keda_password") == 0o600, "no container of Compose reads it"


def test_kedas_user_is_there_again_in_definitions_that_are_made_anew(secrets: Path) -> None:
    make(secrets, keda=True)
    password = (secrets / "keda_password").read_text()
    (secrets / "rabbitmq_definitions.json").unlink()

    assert make(secrets).made == ("rabbitmq_definitions.json",)

    assert (secrets / "keda_password").read_text() == password
    assert [user["tags"] for user in known(secrets)["users"] if user["name"] == "keda"] == [["management"]]
    (secrets / "keda_password").unlink()
    with pytest.raises(DeployError, match="keda_password is missing"):
        make(secrets, keda=True)


@pytest.mark.parametrize("definitions", ["", "[]", "{}", '{"users": [5]}', '{"users": []}'])
def test_definitions_to_which_keda_cannot_be_added_are_named(secrets: Path, definitions: str) -> None:
    (secrets / "rabbitmq_definitions.json").write_text(definitions)

    with pytest.raises(DeployError, match=r"rabbitmq_definitions\.json holds no users of a broker"):
        make(secrets, keda=True)


def known(secrets: Path) -> dict[str, Any]:
    """What the broker starts with."""
    found: dict[str, Any] = json.loads((secrets / "rabbitmq_definitions.json").read_text(encoding="utf-8"))
    return found


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("trainer.toml", b'broker_url = "'),
        ("denoiser.toml", b"\xff\xfe"),
        ("operator_url", b"amqps://rabbitmq/x"),
        ("server.pem", b"none"),
        ("server.pem", None),
    ],
)
def test_a_file_that_cannot_be_read_is_named(secrets: Path, name: str, content: bytes | None) -> None:
    (secrets / "rabbitmq_definitions.json").unlink()
    nameless = Authority.of(secrets, make=False).user("somebody").certificate.encode()
    (secrets / name).write_bytes(nameless if content is None else content)

    with pytest.raises(DeployError, match=rf"{name} .*delete it to have a new one made"):
        make(secrets)


def test_a_directory_that_cannot_be_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").touch()

    with pytest.raises(DeployError, match=r"cannot make the secrets in .*file"):
        make(tmp_path / "file")


def test_the_command_says_what_was_made_until_when_and_no_secret(tmp_path: Path) -> None:
    words = ["init", "--directory", str(tmp_path / "secrets")]
    first = CliRunner().invoke(app, [*words, "--host", "broker.example.org"], catch_exceptions=False)
    again = CliRunner().invoke(app, words, catch_exceptions=False)

    assert (first.exit_code, again.exit_code) == (0, 0)
    assert "made in " in first.stdout
    assert "was left as it is" in again.stdout
    for output in (first.stdout, again.stdout):
        assert "broker.example.org; it ends on 20" in output
        assert (tmp_path / "secrets" / "grafana_admin_password").read_text().strip() not in output


def test_secrets_differ_from_one_another_and_from_time_to_time(secrets: Path, tmp_path: Path) -> None:
    make(tmp_path / "others")
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
            timeout=WAIT_SECONDS,
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
