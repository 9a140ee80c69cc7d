"""Where the broker is: several hosts, certificates, and no password in the clear on its way to another machine."""

import stat
from pathlib import Path

import pytest

from broker.address import BrokerSettings, is_loopback
from broker.certificates import Authority
from broker.errors import CertificateError, ConfigError
from broker.settings import ProcessSettings


@pytest.mark.parametrize("host", ["localhost", "127.0.0.1", "127.8.9.10", "[::1]"])
def test_this_machine_may_be_spoken_to_unencrypted(host: str) -> None:
    assert not BrokerSettings.from_url(f"amqp://a:b@{host}/x").tls


@pytest.mark.parametrize(
    "host", ["broker.example", "10.0.0.5", "localhost.example", "128.0.0.1", "127.0.0.1,10.0.0.5"]
)
def test_another_machine_is_not_spoken_to_unencrypted_unless_that_is_wanted(host: str) -> None:
    with pytest.raises(
        ConfigError, match=r"unencrypted: use amqps://, or allow it with broker_plaintext"
    ) as caught:
        BrokerSettings.from_url(f"amqp://a:s3cret@{host}/x")
    assert "s3cret" not in str(caught.value)

    assert BrokerSettings.from_url(f"amqp://a:s3cret@{host}/x", plaintext=True).user == "a"
    assert BrokerSettings.from_url(f"amqps://a:s3cret@{host}/x").tls


def test_leave_to_go_unencrypted_can_come_from_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLLAFUSE_BROKER_URL", "amqp://a:b@broker.example/x")
    with pytest.raises(ConfigError, match="unencrypted"):
        ProcessSettings.load().broker()

    monkeypatch.setenv("COLLAFUSE_BROKER_PLAINTEXT", "true")
    assert ProcessSettings.load().broker().host == "broker.example"


def test_the_nodes_of_a_cluster_are_named_one_after_the_other() -> None:
    settings = BrokerSettings.from_url("amqps://a:b@one.example,[::1]:99,10.0.0.5:7/x")

    assert settings.addresses == (("one.example", 5671), ("::1", 99), ("10.0.0.5", 7))
    assert str(settings) == "amqps://a@one.example:5671,[::1]:99,10.0.0.5:7/x"


@pytest.mark.parametrize("hosts", ["a,", ",a", "a:1,b:x", "a:1,b:0"])
def test_a_list_of_hosts_that_is_none_is_refused(hosts: str) -> None:
    with pytest.raises(ConfigError, match="must read amqp"):
        BrokerSettings.from_url(f"amqps://a:b@{hosts}/x")


def test_a_certificate_stands_for_the_password(tmp_path: Path) -> None:
    pair = Authority.of(tmp_path / "ca", make=True).user("a_b")
    (tmp_path / "a.pem").write_text(pair.certificate)
    (tmp_path / "a.key").write_text(pair.key)

    settings = ProcessSettings.load(
        broker_url="amqps://a_b@broker.example/x",
        broker_certificate=tmp_path / "a.pem",
        broker_key=tmp_path / "a.key",
    )

    assert settings.broker().certificate == pair.certificate
    assert pair.key.splitlines()[1] not in f"{settings!r}{settings.broker()!r}{pair!r}"
    with pytest.raises(ConfigError, match="must read amqp"):
        ProcessSettings.load(broker_url="amqps://a_b@broker.example/x").broker()
    with pytest.raises(ConfigError, match="together, or neither"):
        ProcessSettings.load(broker_url="amqps://a:b@c/x", broker_certificate=pair.certificate).broker()
    with pytest.raises(ConfigError, match="must be amqps://"):
        ProcessSettings.load(
            broker_url="amqp://a_b@127.0.0.1/x", broker_certificate=pair.certificate, broker_key=pair.key
        ).broker()


@pytest.mark.parametrize("content", [None, "no certificate", "ä"])
def test_a_file_that_is_no_certificate_is_named(tmp_path: Path, content: str | None) -> None:
    path = tmp_path / "ca.pem"
    if content is not None:
        path.write_text(content, encoding="utf-8")

    with pytest.raises(ConfigError, match=r"broker_ca: .*ca\.pem"):
        ProcessSettings.load(broker_url="amqps://a:b@c/x", broker_ca=path)


def test_loopback_is_known_by_its_name_and_its_addresses_alone() -> None:
    assert [is_loopback(host) for host in ("localhost", "::1", "127.1.2.3", "0.0.0.0", "localhost.")] == [
        True,
        True,
        True,
        False,
        False,
    ]


def test_an_authority_is_made_once_and_kept(tmp_path: Path) -> None:
    made = Authority.of(tmp_path / "ca", make=True)

    assert Authority.of(tmp_path / "ca", make=True).pem == made.pem
    assert Authority.of(tmp_path / "ca", make=False).pem == made.pem
    assert stat.S_IMODE((tmp_path / "ca" / "ca.key").stat().st_mode) == 0o600


def test_an_authority_that_cannot_be_used_is_named_and_left_alone(tmp_path: Path) -> None:
    with pytest.raises(CertificateError, match=r"no authority in .*collafuse broker certs"):
        Authority.of(tmp_path, make=False)
    Authority.of(tmp_path, make=True)
    other = Authority.of(tmp_path / "other", make=True)
    (tmp_path / "ca.pem").write_text(other.pem)
    with pytest.raises(CertificateError, match="is not the key of"):
        Authority.of(tmp_path, make=True)
    (tmp_path / "ca.pem").write_text("-----BEGIN CERTIFICATE-----\nnone\n")
    with pytest.raises(CertificateError, match="cannot be read"):
        Authority.of(tmp_path, make=True)
    (tmp_path / "ca.pem").unlink()
    with pytest.raises(CertificateError, match=r"ca\.pem is missing"):
        Authority.of(tmp_path, make=True)
