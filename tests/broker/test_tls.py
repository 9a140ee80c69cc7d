"""TLS and certificates against a real node that speaks nothing else to devices."""

import time
import tomllib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pika
import pytest
from prometheus_client import CollectorRegistry

from broker import identities
from broker.address import BrokerSettings
from broker.certificates import LEAF_DAYS, Authority, Pair, rabbitmq_lines, write_server
from broker.connection import Connection
from broker.credentials import Credentials, write_credentials
from broker.errors import ConfigError, ManagementError
from broker.inspection.findings import judge
from broker.inspection.inspection import inspect
from broker.management import Management
from broker.node import files as node_files
from broker.node.local_node import LocalNode, NodeInfo
from broker.publisher import Outgoing
from broker.settings import ProcessSettings
from broker.shown_certificate import ends_at
from broker.topology import FEDERATION, declare
from monitoring.exporter.broker.certificate import LOOK_SECONDS, CertificateCollector
from monitoring.metrics import BrokerMetrics
from tests.broker.conftest import wait_refused
from tests.conftest import WAIT_SECONDS, wait_until


@dataclass(frozen=True)
class Secure:
    """A node with TLS on `port`, its API over https, and the authority that signed its certificate."""

    node: NodeInfo
    port: int
    management_port: int
    authority: Authority

    @property
    def management(self) -> Management:
        return Management(self.node.management_url, self.node.user, self.node.password)

    @property
    def address(self) -> BrokerSettings:
        return BrokerSettings.from_url(
            f"amqps://nobody:nothing@localhost:{self.port}/{self.node.vhost}", ca=self.authority.pem
        )

    def login(self, user: str, pair: Pair) -> BrokerSettings:
        """The settings of somebody who shows this certificate."""
        return BrokerSettings.from_url(
            f"amqps://{user}@localhost:{self.port}/{self.node.vhost}",
            ca=self.authority.pem,
            certificate=pair.certificate,
            key=pair.key,  # type: ignore[arg-type]  # pydantic makes the secret
        )


@pytest.fixture(scope="module")
def secure(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Secure]:
    directory = tmp_path_factory.mktemp("certificates")
    authority = Authority.of(directory, make=True)
    pair = authority.server(["localhost", "127.0.0.2"])
    write_server(pair, directory)
    ports = node_files.choose_ports()
    port = ports.amqp
    lines = [
        line for line in rabbitmq_lines(directory, port, ports.management) if line != "listeners.tcp = none"
    ]
    lines = [line.replace("listeners.ssl.default = ", "listeners.ssl.1 = 127.0.0.1:") for line in lines]
    local = LocalNode(
        tmp_path_factory.mktemp("secure"), config=lines, plugins=("rabbitmq_auth_mechanism_ssl",)
    )
    node = local.start()
    try:
        with pika.BlockingConnection(pika.URLParameters(node.amqp_url)) as amqp:
            declare(amqp.channel(), FEDERATION)
        yield Secure(node, port, ports.management, authority)
    finally:
        local.kill()


def settings_of(credentials: Credentials, tmp_path: Path) -> BrokerSettings:
    """What a device reads from the one file that enrolment wrote for it."""
    path = tmp_path / f"{credentials.device}.toml"
    write_credentials(credentials, path, replace=True)
    found = tomllib.loads(path.read_text())
    return ProcessSettings.load(
        **{name: found[name] for name in found if name.startswith("broker_")}
    ).broker()


@pytest.fixture
def connect() -> Iterator[Callable[[BrokerSettings], Connection]]:
    opened: list[Connection] = []

    def make(settings: BrokerSettings) -> Connection:
        opened.append(Connection(settings, name="test", metrics=BrokerMetrics(CollectorRegistry())))
        opened[-1].start()
        return opened[-1]

    yield make
    for connection in opened:
        connection.stop()


Connect = Callable[[BrokerSettings], Connection]


def send(connection: Connection, user: str) -> None:
    """Publish one message as a device does."""
    publisher = connection.publisher()
    connection.wait_connected(WAIT_SECONDS)
    publisher.publish(Outgoing("collafuse.up", f"{user}.samples", "1", "samples.v1", b"body"))


def test_a_device_with_a_password_works_over_tls(secure: Secure, connect: Connect, tmp_path: Path) -> None:
    with secure.management as management:
        credentials = identities.enroll(management, "clinic", "tls", address=secure.address)

    send(connect(settings_of(credentials, tmp_path)), "clinic_tls")


def test_a_device_with_a_certificate_needs_no_password(
    secure: Secure, connect: Connect, tmp_path: Path
) -> None:
    with secure.management as management:
        credentials = identities.enroll(
            management, "clinic", "x509", address=secure.address, authority=secure.authority
        )
        settings = settings_of(credentials, tmp_path)
        (listed,) = [
            one for one in identities.enrolled(management, secure.node.vhost) if one.device == "x509"
        ]

    assert settings.password.get_secret_value() == ""
    assert listed.login == "certificate"
    send(connect(settings), "clinic_x509")


@pytest.mark.parametrize("password", ["", "nothing"])
def test_a_device_with_a_certificate_cannot_come_with_a_password(
    secure: Secure, connect: Connect, password: str
) -> None:
    with secure.management as management:
        if not management.user_exists("clinic_x509b"):
            identities.enroll(
                management, "clinic", "x509b", address=secure.address, authority=secure.authority
            )
    url = f"amqp://clinic_x509b:{password}@127.0.0.1:{secure.node.ports.amqp}/{secure.node.vhost}"

    wait_refused(connect(BrokerSettings.from_url(url)), "user or the password")


def test_a_certificate_speaks_for_its_own_user_alone(
    secure: Secure, connect: Connect, tmp_path: Path
) -> None:
    with secure.management as management:
        a, _ = (
            identities.enroll(management, "clinic", name, address=secure.address, authority=secure.authority)
            for name in ("ca", "cb")
        )
    settings = settings_of(a, tmp_path)
    as_b = settings.model_copy(
        update={
            "url": type(settings.url)(settings.url.get_secret_value().replace("clinic_ca@", "clinic_cb@"))
        }
    )
    connection = connect(as_b)
    publisher = connection.publisher()
    connection.wait_connected(WAIT_SECONDS)

    # Whatever its URL says, the broker knows it by its certificate, and takes nothing in the name of the other.
    with pytest.raises(Exception, match=r"closed|not confirmed|lost"):
        publisher.publish(Outgoing("collafuse.up", "clinic_cb.samples", "1", "samples.v1", b"body"))


@pytest.mark.parametrize(
    ("what", "complaint"),
    [
        ("an authority that is not ours", "certificate cannot be trusted"),
        ("a name that is not the broker's", r"cannot be trusted.*127\.0\.0\.1"),
        ("the system's authorities", "certificate cannot be trusted"),
    ],
)
def test_a_broker_that_cannot_show_who_it_is_is_not_spoken_to(
    secure: Secure, connect: Connect, tmp_path: Path, what: str, complaint: str
) -> None:
    host = "127.0.0.1" if what.startswith("a name") else "localhost"
    ca = {
        "an authority that is not ours": Authority.of(tmp_path, make=True).pem,
        "the system's authorities": None,
    }.get(what, secure.authority.pem)
    url = f"amqps://{secure.node.user}:{secure.node.password}@{host}:{secure.port}/{secure.node.vhost}"

    wait_refused(connect(BrokerSettings.from_url(url, ca=ca)), complaint)


@pytest.mark.parametrize("what", ["expired", "of another authority"])
def test_a_certificate_that_is_not_valid_does_not_log_in(
    secure: Secure, connect: Connect, tmp_path: Path, what: str
) -> None:
    with secure.management as management:
        if not management.user_exists("clinic_old"):
            identities.enroll(management, "clinic", "old", address=secure.address, authority=secure.authority)
    pair: Pair = (
        secure.authority.user("clinic_old", days=-1)
        if what == "expired"
        else Authority.of(tmp_path, make=True).user("clinic_old")
    )

    words = "our own certificate was good until .* enrolled again with --renew" if what == "expired" else ""
    wait_refused(connect(secure.login("clinic_old", pair)), rf"(TLS failed|broke off|ended before).*{words}")


def test_until_when_the_brokers_certificate_is_good_is_found_out_and_judged(secure: Secure) -> None:
    settings = BrokerSettings.from_url(
        f"amqps://{secure.node.user}:{secure.node.password}@localhost:{secure.port}/{secure.node.vhost}",
        ca=secure.authority.pem,
    )
    facts = inspect(settings, secure.node.management_url)

    assert facts.link.certificate_days == pytest.approx(LEAF_DAYS, abs=1)
    assert any("certificate is good for 82" in finding.what for finding in judge(facts))


def test_the_exporter_tells_the_end_of_the_certificate_and_keeps_it_while_the_broker_is_away(
    secure: Secure,
) -> None:
    now = [0.0]
    where = [secure.address]
    collector = CertificateCollector(lambda: ends_at(where[0]), lambda: now[0])

    def told() -> list[float]:
        collector.turn()
        return [sample.value for family in collector.collect() for sample in family.samples]

    (end,) = told()
    assert end == pytest.approx(time.time() + LEAF_DAYS * 86_400, abs=86_400)
    now[0] += LOOK_SECONDS
    where[0] = BrokerSettings.from_url("amqps://u:p@localhost:1/v", ca=secure.authority.pem)
    assert told() == [end], "it is away"
    now[0] += LOOK_SECONDS
    where[0] = BrokerSettings.from_url(secure.node.amqp_url)
    assert told() == [], "one that shows none"


def test_a_revoked_certificate_is_out_at_once_though_it_is_valid(
    secure: Secure, connect: Connect, tmp_path: Path
) -> None:
    with secure.management as management:
        credentials = identities.enroll(
            management, "clinic", "gone", address=secure.address, authority=secure.authority
        )
        connection = connect(settings_of(credentials, tmp_path))
        connection.publisher()
        connection.wait_connected(WAIT_SECONDS)

        assert identities.revoke(management, "clinic", "gone", vhost=secure.node.vhost)

        wait_until(lambda: not connection.connected, "the open connection ends")
    wait_refused(connection, "user or the password")


def test_the_api_is_spoken_to_over_https_with_the_authority_of_the_link(
    secure: Secure, tmp_path: Path
) -> None:
    def operator(host: str, ca: str | None) -> Management:
        url = f"amqps://{secure.node.user}:{secure.node.password}@{host}:{secure.port}/{secure.node.vhost}"
        return Management.of(BrokerSettings.from_url(url, ca=ca), f"https://{host}:{secure.management_port}")

    with operator("localhost", secure.authority.pem) as api:
        assert secure.node.user in api.users()
    other = Authority.of(tmp_path, make=True).pem
    for host, ca in (("localhost", other), ("localhost", None), ("127.0.0.1", secure.authority.pem)):
        with (
            operator(host, ca) as api,
            pytest.raises(ManagementError, match="its certificate cannot be trusted"),
        ):
            api.users()


def test_a_renewed_certificate_works_and_the_old_one_is_good_until_it_expires(
    secure: Secure, connect: Connect, tmp_path: Path
) -> None:
    """RabbitMQ knows a user by the name in the certificate: what ends an old one is revoking, and another name."""
    with secure.management as management:
        old, new = (
            identities.enroll(
                management,
                "clinic",
                "renewed",
                address=secure.address,
                authority=secure.authority,
                renew=renew,
            )
            for renew in (False, True)
        )

    assert old.certificate != new.certificate
    for credentials in (old, new):
        send(connect(settings_of(credentials, tmp_path)), "clinic_renewed")


def test_a_brokers_certificate_does_not_log_in(secure: Secure, connect: Connect) -> None:
    pair = secure.authority.server(["localhost"])

    wait_refused(connect(secure.login("anybody", pair)), r"TLS failed|broke off|ended before")


def test_a_certificate_is_not_made_for_a_link_without_tls_or_a_name_that_does_not_fit(secure: Secure) -> None:
    plain = BrokerSettings.from_url(secure.node.amqp_url)
    with secure.management as management:
        with pytest.raises(ConfigError, match="over amqps only"):
            identities.enroll(management, "clinic", "no", address=plain, authority=secure.authority)
        with pytest.raises(ConfigError, match="at most 64"):
            identities.enroll(management, "c" * 63, "no", address=secure.address, authority=secure.authority)

        assert not management.user_exists("clinic_no")
