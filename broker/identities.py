"""Identities: what a device and a worker are on the broker, and the least rights with which they can do their work.

A device may write to `collafuse.up` under its own name and read its own inbox, and nothing else. The broker itself enforces
it, with patterns that name the user literally; names hold nothing that has a meaning in a pattern.
"""

import secrets
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import quote

from broker import names, topology
from broker.errors import AlreadyEnrolled, ConfigError, InvalidName, ManagementError
from broker.management import Management
from broker.settings import BrokerSettings

_PASSWORD_BYTES = 24
_NOTHING = "^$"
_EVERYTHING = ".*"


@dataclass(frozen=True)
class Credentials:
    """What a device needs to be itself; the URL holds its password."""

    client: str
    device: str
    amqp_url: str = field(repr=False)


def enroll(
    management: Management,
    client: str,
    device: str,
    *,
    address: BrokerSettings,
    renew: bool = False,
) -> Credentials:
    """Makes the user, the rights and the inbox of a device.

    Args:
        management: with the tag `administrator`.
        client: whose device it is.
        device: its name within the client.
        address: scheme, host, port and vhost under which the device reaches the broker; its user is not looked at.
        renew: give a device that is enrolled a new password (and its rights and inbox, should they be damaged).

    Raises:
        InvalidName: if a name is not usable.
        AlreadyEnrolled: if the device is enrolled and `renew` is not set.
        ManagementError: if the broker cannot be managed; a new user is taken back then.
    """
    user = names.user_name(client, device)
    known = management.user_exists(user)
    if known and not renew:
        raise AlreadyEnrolled(f"{client} {device} is enrolled already: add --renew to give it a new password")
    if renew and not known:
        raise AlreadyEnrolled(f"{client} {device} is not enrolled yet: leave out --renew")
    management.declare(address.vhost, topology.inbox(client, device))
    password = secrets.token_urlsafe(_PASSWORD_BYTES)
    management.put_user(user, password)
    try:
        _grant_device(management, address.vhost, user)
    except ManagementError:
        if not known:
            management.delete_user(user)
        raise
    return Credentials(client, device, _url(address, user, password))


def revoke(management: Management, client: str, device: str, *, vhost: str) -> None:
    """Deletes a device's user, which ends its connections, and its inbox with all it holds.

    Raises:
        InvalidName: if a name is not usable.
        ManagementError: if the broker cannot be managed.
    """
    user = names.user_name(client, device)
    management.delete_user(user)
    management.delete_queue(vhost, names.inbox(user))


def server_user(management: Management, name: str, *, address: BrokerSettings) -> BrokerSettings:
    """Makes a worker's user, or gives it a new password: all rights in the vhost, no rights over the broker.

    Args:
        management: with the tag `administrator`.
        name: of the user; without an underscore, so that it can never be a device's.
        address: scheme, host, port and vhost under which the worker reaches the broker.

    Raises:
        InvalidName: if the name is not usable.
        ManagementError: if the broker cannot be managed.
    """
    if not names.valid_name(name):
        raise InvalidName(
            f"user name {name[:80]!r} is not usable: take lowercase letters, digits and hyphens"
        )
    password = secrets.token_urlsafe(_PASSWORD_BYTES)
    management.put_user(name, password)
    management.put_permissions(
        address.vhost, name, configure=_EVERYTHING, write=_EVERYTHING, read=_EVERYTHING
    )
    return BrokerSettings.from_url(_url(address, name, password))


def write_credentials(credentials: Credentials, path: Path, *, replace: bool = False) -> None:
    """Writes a TOML file that only its owner can read, with the agent's settings client, device and broker_url.

    Args:
        credentials: of the device.
        path: of the file.
        replace: write over a file that is there.

    Raises:
        ConfigError: if the file exists, or cannot be written.
    """
    # Names and the URL are free of quotes, backslashes and control characters, so that they are TOML as they stand.
    text = f'client = "{credentials.client}"\ndevice = "{credentials.device}"\nbroker_url = "{credentials.amqp_url}"\n'
    write_secret(text, path, replace=replace)


def write_secret(text: str, path: Path, *, replace: bool) -> None:
    """Writes `text` to a file of mode 0600.

    Raises:
        ConfigError: if the file exists and is not to be replaced, or cannot be written.
    """
    try:
        if replace:
            path.unlink(missing_ok=True)
        path.touch(mode=0o600, exist_ok=False)
        path.write_text(text, encoding="utf-8")
    except FileExistsError as error:
        raise ConfigError(f"{path} exists already: name another file") from error
    except OSError as error:
        raise ConfigError(f"cannot write the credentials to {path}: {error.strerror}") from error


def _grant_device(management: Management, vhost: str, user: str) -> None:
    # Topic rights first: on an exchange without any, every routing key is open to those who may write there.
    management.put_topic_permission(
        vhost, user, topology.EXCHANGE_UP, write=rf"^{user}\.({'|'.join(topology.UP_KINDS)})$", read=_NOTHING
    )
    management.put_permissions(
        vhost,
        user,
        configure=_NOTHING,
        write=_exactly(topology.EXCHANGE_UP),
        read=_exactly(names.inbox(user)),
    )


def _exactly(name: str) -> str:
    dotted = name.replace(".", "\\.")
    return f"^{dotted}$"


def _url(address: BrokerSettings, user: str, password: str) -> str:
    scheme = "amqps" if address.tls else "amqp"
    host = f"[{address.host}]" if ":" in address.host else address.host
    return (
        f"{scheme}://{user}:{quote(password, safe='')}@{host}:{address.port}/{quote(address.vhost, safe='')}"
    )
