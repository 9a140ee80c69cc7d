"""The secrets of compose.yaml, one file each: passwords, the broker's users, an authority, the broker's certificate.

A file is made once and never overwritten; only the broker's certificate is made anew, when that is asked for. What is made
depends on nothing but the files that are there, so a call that was interrupted, or one of a later version that needs one
secret more, is finished by calling again.

The directory is open to its owner only (0700), which is what guards the files on this machine. The files themselves are readable
(0644), because Compose mounts each one as it is into a container, where another user has to read it. No container gets
`ca.key` (0600): who has it can make a certificate in anybody's name.
"""

import ipaddress
import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path

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
from broker.whole_files import write_whole
from collafuse.deploy.broker_users import (
    HOLDERS,
    KEDA,
    content,
    definitions,
    holder,
    password_in,
    random_password,
)
from collafuse.deploy.errors import DeployError

HOSTS = ("rabbitmq", "localhost", "127.0.0.1", "::1")
"""The broker's names among the containers and on this machine, which its certificate always has."""

DEFINITIONS_NAME = "rabbitmq_definitions.json"
GRAFANA_NAME = "grafana_admin_password"

_IN_CONTAINERS = (
    CERTIFICATE_NAME,
    SERVER_CERTIFICATE_NAME,
    SERVER_KEY_NAME,
    *map(holder, HOLDERS),
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
        write_whole(self.path / name, text, mode=0o644 if name in _IN_CONTAINERS else 0o600)
        self.made.append(name)


def make(path: Path, hosts: Sequence[str] = (), *, renew: bool = False, keda: bool = False) -> SecretFiles:
    """Makes what is missing of the secrets in a directory.

    Args:
        path: where; made when it is not there, and closed to everybody but its owner.
        hosts: names or addresses, beside `HOSTS`, under which devices on other machines reach the broker.
        renew: make the broker's certificate anew, for the names of the present one and for `hosts`.
        keda: make a user for KEDA too, for a federation on Kubernetes; its password stands alone in its file.

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
            write_whole(path / ".gitignore", "*\n")
        _make_certificates(at, hosts, renew=renew)
        _make_passwords(at, keda=keda)
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


def _make_passwords(at: _Directory, *, keda: bool) -> None:
    if not at.has(DEFINITIONS_NAME):
        users = [*HOLDERS, KEDA] if keda or at.has(holder(KEDA)) else [*HOLDERS]
        at.write(DEFINITIONS_NAME, definitions({user: _password(at, user) for user in users}))
    else:
        for user in HOLDERS:
            _check_kept(at, user)
        if keda:
            _add_keda(at)
    if not at.has(GRAFANA_NAME):
        at.write(GRAFANA_NAME, random_password() + "\n")


def _add_keda(at: _Directory) -> None:
    """KEDA's user, beside those whom the broker knows already; their passwords stay."""
    try:
        known = json.loads(at.read(DEFINITIONS_NAME))
        if any(user["name"] == KEDA for user in known["users"]):
            _check_kept(at, KEDA)
            return
        new = json.loads(definitions({KEDA: _password(at, KEDA)}))
        for kind in ("users", "permissions"):
            known[kind] = known[kind] + new[kind]
    except (ValueError, KeyError, TypeError) as error:
        raise DeployError(
            f"{at.path / DEFINITIONS_NAME} holds no users of a broker: restore it, or delete it to have it made anew"
        ) from error
    at.write(DEFINITIONS_NAME, json.dumps(known, indent=2))


def _check_kept(at: _Directory, user: str) -> None:
    """Raises DeployError when the broker is to know a password of which nothing is left but its hash."""
    name = holder(user)
    if not at.has(name):
        raise DeployError(
            f"{at.path / name} is missing, and {DEFINITIONS_NAME} knows its password by a hash alone: restore it,"
            f" or delete {DEFINITIONS_NAME} too, call this again and start the broker anew"
        )


def _password(at: _Directory, user: str) -> str:
    """The password in the user's file, which is made when it is not there."""
    name = holder(user)
    if not at.has(name):
        at.write(name, content(user, random_password(), at.read(CERTIFICATE_NAME).strip()))
    try:
        password = password_in(user, at.read(name))
    except ValueError:
        password = None
    if not password:
        raise DeployError(f"{at.path / name} has no URL with a password: delete it to have a new one made")
    return password


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
