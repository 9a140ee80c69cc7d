"""The secrets of compose.yaml, one file each: passwords, the broker's users, an authority, the broker's certificate.

A file is made once and never overwritten; only the broker's certificate is made anew, when that is asked for. What is made
depends on nothing but the files that are there, so a call that was interrupted, or one of a later version that needs one
secret more, is finished by calling again.

The directory is open to its owner only (0700), which is what guards the files on this machine. The files themselves are readable
(0644), because Compose mounts each one as it is into a container, where another user has to read it. No container gets
`ca.key` (0600): who has it can make a certificate in anybody's name.
"""

import base64
import hashlib
import ipaddress
import json
import secrets
import tomllib
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from urllib.parse import urlsplit

from cryptography import x509
from cryptography.hazmat.primitives.serialization import load_pem_private_key

from broker.certificates import (
    CERTIFICATE_NAME,
    KEY_NAME,
    SERVER_CERTIFICATE_NAME,
    SERVER_KEY_NAME,
    Authority,
    write_server,
)
from broker.node.files import write_private
from collafuse.deploy.errors import DeployError

VHOST = "collafuse"
BROKER, MANAGEMENT, NODE_METRICS = "rabbitmq:5671", "rabbitmq:15671", "rabbitmq:15692"
HOSTS = ("rabbitmq", "localhost", "127.0.0.1", "::1")
"""The broker's names among the containers and on this machine, which its certificate always has."""

DEFINITIONS_NAME = "rabbitmq_definitions.json"
GRAFANA_NAME = "grafana_admin_password"
HOLDERS = {
    "operator": "operator_url",
    "trainer": "trainer.toml",
    "denoiser": "denoiser.toml",
    "monitor": "exporter.toml",
}
"""User of the broker → the file that has the password."""

TAGS = {"operator": ["administrator"], "monitor": ["monitoring"]}
_EVERYTHING = {"configure": ".*", "write": ".*", "read": ".*"}
RIGHTS = dict.fromkeys(("operator", "trainer", "denoiser"), _EVERYTHING) | {
    "monitor": {"configure": "^$", "write": "^$", "read": "^telemetry$"}  # what devices report
}

_SALT_BYTES = 4
_IN_CONTAINERS = (
    CERTIFICATE_NAME,
    SERVER_CERTIFICATE_NAME,
    SERVER_KEY_NAME,
    *HOLDERS.values(),
    DEFINITIONS_NAME,
    GRAFANA_NAME,
)


@dataclass(frozen=True)
class SecretFiles:
    """What `make` found or made.

    Attributes:
        made: names of the files that were made now; none when all were there.
        hosts: names and addresses that the broker's certificate is for.
        expires: when that certificate ends.
    """

    made: tuple[str, ...]
    hosts: tuple[str, ...]
    expires: datetime


@dataclass
class _Directory:
    """The files by name, and what was made of them."""

    path: Path
    made: list[str] = field(default_factory=list)

    def has(self, name: str) -> bool:
        return (self.path / name).exists()

    def read(self, name: str) -> str:
        return (self.path / name).read_text(encoding="utf-8")

    def write(self, name: str, text: str) -> None:
        write_private(self.path / name, text)
        self.made.append(name)


def make(path: Path, hosts: Sequence[str] = (), *, renew: bool = False) -> SecretFiles:
    """Makes what is missing of the secrets in a directory.

    Args:
        path: where; made when it is not there, and closed to everybody but its owner.
        hosts: names or addresses, beside `HOSTS`, under which devices on other machines reach the broker.
        renew: make the broker's certificate anew, for the names of the present one and for `hosts`.

    Raises:
        DeployError: if a file cannot be read or written, if the broker knows a password that nobody has, if the authority of
            what is there is gone, or if the present certificate lacks one of `hosts` and is not to be renewed.
        CertificateError: if a host is none, or the authority that is there cannot be used.
    """
    at = _Directory(path)
    try:
        path.mkdir(mode=0o700, parents=True, exist_ok=True)
        path.chmod(0o700)
        if not at.has(".gitignore"):
            write_private(path / ".gitignore", "*\n")
        _make_certificates(at, hosts, renew=renew)
        _make_passwords(at)
        for name in _IN_CONTAINERS:
            (path / name).chmod(0o644)
        certificate = _certificate(at)
    except OSError as error:
        raise DeployError(
            f"cannot make the secrets in {path}: {error.strerror} ({error.filename}); only the owner of the directory"
            " can, whom Compose is told with --user"
        ) from error
    return SecretFiles(tuple(at.made), _names(certificate), certificate.not_valid_after_utc)


def _make_certificates(at: _Directory, hosts: Sequence[str], *, renew: bool) -> None:
    new = not at.has(CERTIFICATE_NAME)
    if new and not at.has(KEY_NAME) and at.has(SERVER_CERTIFICATE_NAME):
        raise DeployError(
            f"{at.path} has secrets of an authority that is gone: restore {CERTIFICATE_NAME} and {KEY_NAME} from a copy, or move"
            " all of it away to begin anew, when every device needs a new file"
        )
    authority = Authority.of(at.path, make=True)
    if new:
        at.made += [CERTIFICATE_NAME, KEY_NAME]
    present = _names(_certificate(at)) if at.has(SERVER_CERTIFICATE_NAME) else HOSTS
    wanted = dict.fromkeys([*present, *(_normal(host) for host in hosts)])
    if not renew and _has_its_key(at):
        if missing := list(wanted)[len(present) :]:
            raise DeployError(
                f"the broker's certificate in {at.path} is not for {', '.join(map(repr, missing))}; add --renew to make it anew"
            )
        return
    write_server(authority.server(list(wanted)), at.path)
    at.made += [SERVER_CERTIFICATE_NAME, SERVER_KEY_NAME]


def _has_its_key(at: _Directory) -> bool:
    """Whether the broker's certificate is there with the key that belongs to it: a call may have ended between the two."""
    if not (at.has(SERVER_CERTIFICATE_NAME) and at.has(SERVER_KEY_NAME)):
        return False
    try:
        key = load_pem_private_key((at.path / SERVER_KEY_NAME).read_bytes(), password=None)
    except (ValueError, TypeError):
        return False
    return key.public_key() == _certificate(at).public_key()


def _normal(host: str) -> str:
    """The host as certificates have it: there are many ways to write one address."""
    try:
        return str(ipaddress.ip_address(host))
    except ValueError:
        return host


def _make_passwords(at: _Directory) -> None:
    if at.has(DEFINITIONS_NAME):
        for name in HOLDERS.values():
            if not at.has(name):
                raise DeployError(
                    f"{at.path / name} is missing, and {DEFINITIONS_NAME} knows its password by a hash alone: restore it,"
                    f" or delete {DEFINITIONS_NAME} too, call this again and start the broker anew"
                )
    else:
        passwords = {user: _password(at, user) for user in HOLDERS}
        at.write(DEFINITIONS_NAME, definitions(passwords))
    if not at.has(GRAFANA_NAME):
        at.write(GRAFANA_NAME, _random() + "\n")


def _password(at: _Directory, user: str) -> str:
    """The password in the user's file, which is made when it is not there."""
    name = HOLDERS[user]
    if not at.has(name):
        at.write(name, _CONTENTS[user](_random(), at.read(CERTIFICATE_NAME).strip()))
    try:
        text = at.read(name)
        values = {"url": text.strip()} if user == "operator" else tomllib.loads(text)
        (password,) = {urlsplit(str(value)).password for key, value in values.items() if key.endswith("url")}
    except ValueError:
        password = None
    if not password:
        raise DeployError(f"{at.path / name} has no URL with a password: delete it to have a new one made")
    return password


def _operator(password: str, _authority: str) -> str:
    return f"amqps://operator:{password}@{BROKER}/{VHOST}\n"


def _worker(user: str) -> Callable[[str, str], str]:
    return lambda password, authority: (
        f'broker_url = "amqps://{user}:{password}@{BROKER}/{VHOST}"\nbroker_ca = """\n{authority}\n"""\n'
    )


def _monitor(password: str, authority: str) -> str:
    return (
        f'management_url = "https://monitor:{password}@{MANAGEMENT}"\n'
        f'node_metrics_urls = ["http://{NODE_METRICS}"]\nvhost = "{VHOST}"\n{_worker("monitor")(password, authority)}'
    )


_CONTENTS = {
    "operator": _operator,
    "trainer": _worker("trainer"),
    "denoiser": _worker("denoiser"),
    "monitor": _monitor,
}
"""User → the content of the file, from a password and the authority's PEM."""


def definitions(passwords: dict[str, str]) -> str:
    """Returns what the broker starts with: the vhost, and the users with their rights. There is no user `guest`."""
    return json.dumps(
        {
            "users": [
                {
                    "name": user,
                    "password_hash": _rabbitmq_hash(password),
                    "hashing_algorithm": "rabbit_password_hashing_sha256",
                    "tags": TAGS.get(user, []),
                }
                for user, password in passwords.items()
            ],
            "vhosts": [{"name": VHOST}],
            "permissions": [{"user": user, "vhost": VHOST, **patterns} for user, patterns in RIGHTS.items()],
        },
        indent=2,
    )


def _random() -> str:
    """192 random bits, in characters that need no quoting in a URL, a TOML file or a shell."""
    return secrets.token_urlsafe(24)


def _rabbitmq_hash(password: str) -> str:
    """The salted SHA-256 that RabbitMQ stores: base64(salt + sha256(salt + password))."""
    salt = secrets.token_bytes(_SALT_BYTES)
    return base64.b64encode(salt + hashlib.sha256(salt + password.encode()).digest()).decode()


def _certificate(at: _Directory) -> x509.Certificate:
    """The broker's, which has names."""
    try:
        found = x509.load_pem_x509_certificate((at.path / SERVER_CERTIFICATE_NAME).read_bytes())
        _names(found)
    except (ValueError, x509.ExtensionNotFound) as error:
        raise DeployError(
            f"{at.path / SERVER_CERTIFICATE_NAME} is no certificate of a broker: delete it to have a new one made"
        ) from error
    return found


def _names(certificate: x509.Certificate) -> tuple[str, ...]:
    names = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    return tuple(str(name.value) for name in names)
