"""Certificates for a federation: a small authority of one's own, for development and for closed networks.

Keys are of the curve P-256 and stand in files that only their owner can read. An authority that exists is used, never replaced.
"""

import datetime as dt
import ipaddress
import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from broker.errors import CertificateError
from broker.whole_files import write_whole

AUTHORITY_DAYS = 3650
LEAF_DAYS = 825
"""The longest that common TLS libraries accept of a server's certificate."""
CLOCK_SKEW = dt.timedelta(hours=1)
"""Certificates are valid from a little before they were made, for machines whose clocks are late."""

CERTIFICATE_NAME, KEY_NAME = "ca.pem", "ca.key"
SERVER_CERTIFICATE_NAME, SERVER_KEY_NAME = "server.pem", "server.key"

_FOR_EVERYBODY = 0o644
"""A certificate is no secret; its key is."""

_HOST_NAME_CHARACTERS = 253
_LABEL = r"[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?"
_HOST_NAME = re.compile(rf"(\*\.)?{_LABEL}(\.{_LABEL})*", re.IGNORECASE)


@dataclass(frozen=True)
class Pair:
    """A certificate and its key, both as PEM text."""

    certificate: str
    key: str = field(repr=False)


@dataclass(frozen=True)
class Authority:
    """Who signs certificates; `of` makes one or finds it."""

    certificate: x509.Certificate
    key: ec.EllipticCurvePrivateKey = field(repr=False)

    @classmethod
    def of(cls, directory: Path, *, make: bool) -> "Authority":
        """Returns the authority whose `ca.pem` and `ca.key` are in a directory.

        Args:
            directory: where; made when it is not there.
            make: make a new authority when there is none.

        Raises:
            CertificateError: if there is none, or its files cannot be used or written.
        """
        certificate_path, key_path = directory / CERTIFICATE_NAME, directory / KEY_NAME
        try:
            if make and not certificate_path.exists() and not key_path.exists():
                directory.mkdir(parents=True, exist_ok=True)
                made = _make_authority()
                write_whole(key_path, _key_pem(made.key))
                write_whole(certificate_path, made.pem, mode=_FOR_EVERYBODY)
                return made
            certificate = x509.load_pem_x509_certificate(certificate_path.read_bytes())
            key = serialization.load_pem_private_key(key_path.read_bytes(), password=None)
        except FileNotFoundError as error:
            advice = "make one with `collafuse broker certs`, or name the directory that has it"
            if certificate_path.exists() or key_path.exists():
                advice = "restore it from a copy, or move the other half away to have a new authority made"
            raise CertificateError(
                f"there is no authority in {directory} ({Path(error.filename).name} is missing): {advice}"
            ) from error
        except OSError as error:
            raise CertificateError(f"cannot use the authority in {directory}: {error.strerror}") from error
        except (ValueError, TypeError) as error:
            raise CertificateError(f"the authority in {directory} cannot be read: {error}") from error
        if not isinstance(key, ec.EllipticCurvePrivateKey) or key.public_key() != certificate.public_key():
            raise CertificateError(f"{key_path} is not the key of {certificate_path}")
        return cls(certificate, key)

    @property
    def pem(self) -> str:
        """Its certificate, which everybody needs who shall trust what it signs."""
        return self.certificate.public_bytes(serialization.Encoding.PEM).decode("ascii")

    def server(self, hosts: Sequence[str], *, days: int = LEAF_DAYS) -> Pair:
        """Returns a broker's certificate, valid for every one of `hosts`: names or addresses.

        Raises:
            CertificateError: if one of them is neither.
        """
        # Who it is for stands in the alternative names; a common name of a host could be that of a user.
        return self._sign(
            "CollaFuse broker", days, ExtendedKeyUsageOID.SERVER_AUTH, [_host(name) for name in hosts]
        )

    def user(self, name: str, *, days: int = LEAF_DAYS) -> Pair:
        """Returns a certificate with which the AMQP user `name` logs in: its common name is the user's."""
        return self._sign(name, days, ExtendedKeyUsageOID.CLIENT_AUTH, [])

    def _sign(
        self, name: str, days: int, usage: x509.ObjectIdentifier, names: Sequence[x509.GeneralName]
    ) -> Pair:
        key = ec.generate_private_key(ec.SECP256R1())
        builder = _builder(name, self.certificate.subject, key, days)
        builder = builder.add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        builder = builder.add_extension(x509.ExtendedKeyUsage([usage]), critical=False)
        builder = builder.add_extension(_key_usage(digital_signature=True), critical=True)
        builder = builder.add_extension(
            x509.AuthorityKeyIdentifier.from_issuer_public_key(self.key.public_key()), critical=False
        )
        if names:
            builder = builder.add_extension(x509.SubjectAlternativeName(names), critical=False)
        certificate = builder.sign(self.key, hashes.SHA256())
        return Pair(certificate.public_bytes(serialization.Encoding.PEM).decode("ascii"), _key_pem(key))


def end_of(pem: str) -> dt.datetime:
    """Returns until when a certificate is good; of several in `pem`, the first.

    Raises:
        CertificateError: if it cannot be read.
    """
    try:
        return x509.load_pem_x509_certificate(pem.encode("ascii")).not_valid_after_utc
    except ValueError as error:
        raise CertificateError(f"a certificate cannot be read: {error}") from error


def rabbitmq_lines(directory: Path, port: int = 5671, management_port: int = 15671) -> list[str]:
    """Returns the lines of rabbitmq.conf that use ca.pem, server.pem and server.key of a directory.

    Devices may log in with a password or with a certificate of the authority; the unencrypted listeners are off.
    """
    return [
        "listeners.tcp = none",
        f"listeners.ssl.default = {port}",
        f"ssl_options.cacertfile = {directory / CERTIFICATE_NAME}",
        f"ssl_options.certfile = {directory / SERVER_CERTIFICATE_NAME}",
        f"ssl_options.keyfile = {directory / SERVER_KEY_NAME}",
        "ssl_options.verify = verify_peer",
        "ssl_options.fail_if_no_peer_cert = false",
        "ssl_options.versions.1 = tlsv1.3",
        "ssl_options.versions.2 = tlsv1.2",
        "auth_mechanisms.1 = PLAIN",
        "auth_mechanisms.2 = AMQPLAIN",
        "auth_mechanisms.3 = EXTERNAL",
        "ssl_cert_login_from = common_name",
        f"management.ssl.port = {management_port}",
        f"management.ssl.cacertfile = {directory / CERTIFICATE_NAME}",
        f"management.ssl.certfile = {directory / SERVER_CERTIFICATE_NAME}",
        f"management.ssl.keyfile = {directory / SERVER_KEY_NAME}",
        "management.ssl.versions.1 = tlsv1.3",
        "management.ssl.versions.2 = tlsv1.2",
    ]


def write_server(pair: Pair, directory: Path) -> None:
    """Writes a broker's certificate and its key, which only their owner can read, over those that are there.

    Raises:
        CertificateError: if they cannot be written.
    """
    try:
        write_whole(directory / SERVER_KEY_NAME, pair.key)
        write_whole(directory / SERVER_CERTIFICATE_NAME, pair.certificate, mode=_FOR_EVERYBODY)
    except OSError as error:
        raise CertificateError(f"cannot write the certificate to {directory}: {error.strerror}") from error


def _host(name: str) -> x509.GeneralName:
    try:
        return x509.IPAddress(ipaddress.ip_address(name))
    except ValueError:
        if len(name) > _HOST_NAME_CHARACTERS or not _HOST_NAME.fullmatch(name):
            raise CertificateError(
                f"{name[:80]!r} is not the name or address of a host: leave out scheme and port"
            ) from None
        return x509.DNSName(name)


def _make_authority() -> Authority:
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "CollaFuse federation authority")])
    builder = _builder("CollaFuse federation authority", name, key, AUTHORITY_DAYS)
    builder = builder.add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
    builder = builder.add_extension(_key_usage(key_cert_sign=True, crl_sign=True), critical=True)
    return Authority(builder.sign(key, hashes.SHA256()), key)


def _key_usage(**granted: bool) -> x509.KeyUsage:
    usages = (
        "digital_signature",
        "content_commitment",
        "key_encipherment",
        "data_encipherment",
        "key_agreement",
        "key_cert_sign",
        "crl_sign",
        "encipher_only",
        "decipher_only",
    )
    return x509.KeyUsage(**(dict.fromkeys(usages, False) | granted))


def _builder(
    name: str, issuer: x509.Name, key: ec.EllipticCurvePrivateKey, days: int
) -> x509.CertificateBuilder:
    """Returns what every certificate has; `days` below zero make one that has expired."""
    now = dt.datetime.now(dt.UTC)
    start = min(now, now + dt.timedelta(days=days)) - CLOCK_SKEW
    builder = x509.CertificateBuilder(
        # A common name holds 64 characters, and RabbitMQ reads the user from it: a longer one must not be cut in silence.
        subject_name=x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)]),
        issuer_name=issuer,
        public_key=key.public_key(),
        serial_number=x509.random_serial_number(),
        not_valid_before=start,
        not_valid_after=now + dt.timedelta(days=days),
    )
    return builder.add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)


def _key_pem(key: ec.EllipticCurvePrivateKey) -> str:
    return key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    ).decode("ascii")
