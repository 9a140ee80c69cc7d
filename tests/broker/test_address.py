"""Where the broker is: several hosts, certificates, and no password in the clear on its way to another machine."""

from pathlib import Path

import pytest

from broker.address import BrokerSettings, is_loopback
from broker.certificates import Authority
from broker.command import management_url
from broker.errors import ConfigError
from broker.management import Management
from broker.node.local_node import NodeInfo
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


def test_pem_that_is_of_no_use_is_told_when_the_settings_are_read_and_not_at_every_attempt(
    tmp_path: Path,
) -> None:
    authority = Authority.of(tmp_path / "ca", make=True)
    pair, other = authority.user("a_b"), authority.user("a_b")
    url = "amqps://a_b@broker.example/x"
    broken = "-----BEGIN CERTIFICATE-----\nbm9uZQ==\n-----END CERTIFICATE-----\n"
    for given in (
        {"broker_ca": broken, "broker_certificate": pair.certificate, "broker_key": pair.key},
        {"broker_certificate": pair.certificate, "broker_key": other.key},
        {"broker_certificate": broken, "broker_key": pair.key},
    ):
        with pytest.raises(ConfigError, match="cannot be used") as caught:
            ProcessSettings.load(None, broker_url=url, **given).broker()
        assert "\n" not in str(caught.value)
        assert pair.key.splitlines()[1] not in str(caught.value)
    assert ProcessSettings.load(
        broker_url=url, broker_ca=authority.pem, broker_certificate=pair.certificate, broker_key=pair.key
    ).broker()


@pytest.mark.parametrize(
    ("url", "api"),
    [
        ("amqps://a:b@broker.example,other.example/x", "https://broker.example:15671"),
        ("amqps://a:b@[::1]:5671/x", "https://[::1]:15671"),
        ("amqp://a:b@127.0.0.1/x", "http://127.0.0.1:15672"),
    ],
)
def test_the_management_api_is_encrypted_where_the_link_is(url: str, api: str, tmp_path: Path) -> None:
    assert management_url(BrokerSettings.from_url(url), None, tmp_path) == api
    assert management_url(BrokerSettings.from_url(url), "https://elsewhere", tmp_path) == "https://elsewhere"


def test_an_operators_password_does_not_go_to_another_machine_unencrypted() -> None:
    settings = BrokerSettings.from_url("amqps://a:s3cret@broker.example/x")

    with pytest.raises(ConfigError, match=r"operator's password.*unencrypted: use https://") as caught:
        Management.of(settings, "http://broker.example:15672")
    assert "s3cret" not in str(caught.value)


def test_a_broker_elsewhere_is_not_managed_through_a_private_node_with_its_port(node: NodeInfo) -> None:
    near, far = (
        BrokerSettings.from_url(f"amqps://a:b@{host}:{node.ports.amqp}/x")
        for host in ("localhost", "far.example")
    )

    assert management_url(near, None, node.directory) == node.management_url
    assert management_url(far, None, node.directory) == "https://far.example:15671"


def test_who_names_a_broker_elsewhere_needs_no_look_at_a_private_node(tmp_path: Path) -> None:
    (tmp_path / "node.json").mkdir()
    far = BrokerSettings.from_url("amqps://u:p@far.example/x")

    assert management_url(far, None, tmp_path) == "https://far.example:15671"


def test_loopback_is_known_by_its_name_and_its_addresses_alone() -> None:
    assert [is_loopback(host) for host in ("localhost", "::1", "127.1.2.3", "0.0.0.0", "localhost.")] == [
        True,
        True,
        True,
        False,
        False,
    ]


@pytest.mark.parametrize(
    "url",
    [
        "",
        "127.0.0.1:15672",
        "ftp://127.0.0.1",
        "http://",
        "http://[::1",
        "http://admin:s3cret@127.0.0.1:15672",
        "https://admin:s3cret@broker.example:15671",
    ],
)
def test_what_is_no_url_of_the_api_or_has_a_password_is_refused_without_showing_it(url: str) -> None:
    with pytest.raises(ConfigError, match=r"must read http\[s\]://host\[:port\]") as caught:
        Management.of(BrokerSettings.from_url("amqp://a:s3cret@127.0.0.1"), url)

    assert "s3cret" not in str(caught.value)
