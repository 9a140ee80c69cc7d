"""Certificates: what they say, for how long, and who accepts them."""

import contextlib
import datetime as dt
import socket
import ssl
import stat
import threading
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from broker.address import BrokerSettings
from broker.certificates import Authority, Pair, write_server
from broker.errors import CertificateError
from broker.parameters import tls_context
from tests.conftest import WAIT_SECONDS


@pytest.fixture
def authority(tmp_path: Path) -> Authority:
    return Authority.of(tmp_path / "ca", make=True)


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


def usage(pair: Pair) -> list[x509.ObjectIdentifier]:
    found = x509.load_pem_x509_certificate(pair.certificate.encode())
    assert isinstance(found.public_key(), ec.EllipticCurvePublicKey)
    assert not found.extensions.get_extension_for_class(x509.BasicConstraints).value.ca
    assert (
        dt.timedelta(days=800) < found.not_valid_after_utc - dt.datetime.now(dt.UTC) <= dt.timedelta(days=825)
    )
    return list(found.extensions.get_extension_for_class(x509.ExtendedKeyUsage).value)


def test_a_brokers_certificate_is_for_its_hosts_and_for_nothing_else(authority: Authority) -> None:
    pair = authority.server(["broker.example", "*.lan", "10.0.0.5", "::1"])

    found = x509.load_pem_x509_certificate(pair.certificate.encode())
    names = found.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    assert names.get_values_for_type(x509.DNSName) == ["broker.example", "*.lan"]
    assert list(map(str, names.get_values_for_type(x509.IPAddress))) == ["10.0.0.5", "::1"]
    assert usage(pair) == [ExtendedKeyUsageOID.SERVER_AUTH]
    found.verify_directly_issued_by(authority.certificate)


def test_a_users_certificate_names_the_user_and_cannot_stand_for_a_broker(authority: Authority) -> None:
    pair = authority.user("clinic_pc-1")

    (name,) = x509.load_pem_x509_certificate(pair.certificate.encode()).subject
    assert (name.oid, name.value) == (NameOID.COMMON_NAME, "clinic_pc-1")
    assert usage(pair) == [ExtendedKeyUsageOID.CLIENT_AUTH]


@pytest.mark.parametrize(
    "host", ["", "amqps://broker.example", "broker:5671", "a b", "ä.example", "x" * 300, "-a"]
)
def test_what_is_no_host_gets_no_certificate(authority: Authority, host: str) -> None:
    with pytest.raises(CertificateError, match="not the name or address of a host"):
        authority.server([host])


def test_an_authority_signs_for_ten_years_and_makes_no_others(authority: Authority) -> None:
    limits = authority.certificate.extensions.get_extension_for_class(x509.BasicConstraints).value

    assert (limits.ca, limits.path_length) == (True, 0)
    lasting = authority.certificate.not_valid_after_utc - dt.datetime.now(dt.UTC)
    assert dt.timedelta(days=3600) < lasting <= dt.timedelta(days=3650)


def test_a_certificate_that_cannot_be_written_is_one_line(authority: Authority, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")

    with pytest.raises(CertificateError, match="cannot write the certificate"):
        write_server(authority.server(["a"]), tmp_path / "file")
    with pytest.raises(CertificateError, match="cannot use the authority"):
        Authority.of(tmp_path / "file" / "below", make=True)


def test_a_brokers_key_is_its_owners_alone_and_replaced_on_request(
    authority: Authority, tmp_path: Path
) -> None:
    for _ in range(2):
        pair = authority.server(["broker.example"])
        write_server(pair, tmp_path)

    assert (tmp_path / "server.key").read_text() == pair.key
    assert (tmp_path / "server.pem").read_text() == pair.certificate
    assert stat.S_IMODE((tmp_path / "server.key").stat().st_mode) == 0o600


@pytest.mark.parametrize(
    ("what", "complaint"),
    [("good", None), ("expired", "expired"), ("a device's", "unsuitable certificate purpose")],
)
def test_a_broker_is_known_by_a_certificate_that_is_valid_now_and_a_brokers(
    authority: Authority,
    tmp_path: Path,
    what: str,
    complaint: str | None,
) -> None:
    pair = authority.server(["localhost"], days=-1 if what == "expired" else 1)
    if what == "a device's":
        pair = authority.user("localhost")
    write_server(pair, tmp_path)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(tmp_path / "server.pem", tmp_path / "server.key")
    settings = BrokerSettings.from_url("amqps://a:b@localhost/x", ca=authority.pem)

    def greet(server: socket.socket) -> None:
        with contextlib.suppress(OSError):  # who does not trust us hangs up
            context.wrap_socket(server.accept()[0], server_side=True).close()

    with socket.create_server(("127.0.0.1", 0)) as server:
        thread = threading.Thread(target=greet, args=(server,))
        thread.start()
        with socket.create_connection(server.getsockname()) as link:
            if complaint is None:
                tls_context(settings).wrap_socket(link, server_hostname="localhost").close()
            else:
                with pytest.raises(ssl.SSLCertVerificationError, match=complaint):
                    tls_context(settings).wrap_socket(link, server_hostname="localhost")
        thread.join(WAIT_SECONDS)
        assert not thread.is_alive()
