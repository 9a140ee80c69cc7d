"""Identities: what a device, a worker and an owner are on the broker, and the least rights with which they can do their work.

A device may write to `collafuse.up` under its own name and read its own inbox, and nothing else. The owner of a client's devices
may write to their inboxes and read what they report, and nothing else. The broker itself enforces it, with patterns that name the
user literally; names hold nothing that has a meaning in a pattern.
"""

import secrets
from collections.abc import Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal
from urllib.parse import quote

from broker import names, topology
from broker.address import BrokerSettings
from broker.credentials import Credentials
from broker.errors import AlreadyEnrolled, ConfigError, InvalidName, ManagementError, NotEnrolled
from broker.management import Management

if TYPE_CHECKING:
    from broker.certificates import Authority

_PASSWORD_BYTES = 24
_COMMON_NAME_CHARACTERS = 64
_NOTHING = "^$"
_EVERYTHING = ".*"


@dataclass(frozen=True)
class Limits:
    """What one device may hold open at a time.

    connections: more than one, for a link that broke without a word stands at the broker until two heartbeats have passed.
    channels: over all its connections.
    """

    connections: int = 8
    channels: int = 32


@dataclass(frozen=True)
class Enrolled:
    """A device as the broker knows it; inbox_messages is None when its inbox is gone."""

    client: str
    device: str
    connected: bool
    inbox_messages: int | None
    login: Literal["password", "certificate"]
    max_connections: int | None
    max_channels: int | None


def enroll(
    management: Management,
    client: str,
    device: str,
    *,
    address: BrokerSettings,
    renew: bool = False,
    limits: Limits | None = None,
    authority: "Authority | None" = None,
) -> Credentials:
    """Makes the user, the rights, the limits and the inbox of a device.

    Args:
        management: with the tag `administrator`.
        client: whose device it is.
        device: its name within the client.
        address: scheme, hosts, vhost and authority by which the device reaches the broker; its user is not looked at.
        renew: give a device that is enrolled a new password or certificate (and its rights and inbox, should they be damaged).
            Its connections are closed. An old certificate stays good until it expires, for as long as there is the user.
        limits: what it may hold open.
        authority: signs a certificate with which the device logs in instead of a password; the address must be amqps then.

    Raises:
        InvalidName: if a name is not usable.
        AlreadyEnrolled: if the device is enrolled and `renew` is not set.
        ConfigError: if a certificate is wanted for an address that is not amqps, or the user's name is too long for one.
        ManagementError: if the broker cannot be managed; a new user is taken back then.
    """
    user = names.user_name(client, device)
    if authority is not None:
        _check_certifiable(user, address)
    known = management.user_exists(user)
    if known and not renew:
        raise AlreadyEnrolled(f"{client} {device} is enrolled already: add --renew to give it a new password")
    if renew and not known:
        raise AlreadyEnrolled(f"{client} {device} is not enrolled yet: leave out --renew")
    management.declare(address.vhost, topology.inbox(client, device))
    _declare_reports(management, address.vhost, client, (device,))
    password = None if authority is not None else secrets.token_urlsafe(_PASSWORD_BYTES)
    if password is None:
        management.put_user_without_password(user)
    else:
        management.put_user(user, password)
    try:
        _grant_device(management, address.vhost, user, limits or Limits())
    except ManagementError:
        if not known:
            management.delete_user(user)
        raise
    if known:
        # RabbitMQ asks for the password at the beginning of a connection alone: whoever had the old one would stay in.
        management.close_connections(user)
    pair = None if authority is None else authority.user(user)
    return Credentials(
        client,
        device,
        _url(address, user, password),
        ca=address.ca,
        certificate=None if pair is None else pair.certificate,
        key=None if pair is None else pair.key,
        plaintext=address.plaintext and not address.tls,
    )


def revoke(management: Management, client: str, device: str, *, vhost: str) -> bool:
    """Ends a device: its user is deleted, which closes its connections at once, and its inbox with all it holds.

    Returns whether there was such a device.

    Raises:
        InvalidName: if a name is not usable.
        ManagementError: if the broker cannot be managed.
    """
    user = names.user_name(client, device)
    known = management.user_exists(user)
    management.delete_user(user)
    management.close_connections(user)  # one that was in the middle of logging in
    management.delete_queue(vhost, names.inbox(user))
    return known


def enrolled(management: Management, vhost: str) -> list[Enrolled]:
    """Returns every enrolled device, in the order of their names; a connection of the last seconds may not show yet.

    Raises:
        ManagementError: if the broker cannot be managed.
    """
    limits = management.user_limits()
    connected = management.connected_users()
    queues = management.queues(vhost, ("name", "messages"))
    inboxes = {str(queue["name"]): int(queue.get("messages") or 0) for queue in queues}
    found = []
    users = management.users_in_full(("name", "password_hash"))
    for user in sorted(users, key=lambda user: str(user["name"])):
        name = str(user["name"])
        try:
            client, device = names.split_user(name)
        except InvalidName:
            continue
        own = limits.get(name, {})
        found.append(
            Enrolled(
                client,
                device,
                connected=name in connected,
                inbox_messages=inboxes.get(names.inbox(name)),
                login="password" if user.get("password_hash") else "certificate",
                max_connections=own.get("max-connections"),
                max_channels=own.get("max-channels"),
            )
        )
    return found


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
    return _put_server_side(
        management, name, address, configure=_EVERYTHING, write=_EVERYTHING, read=_EVERYTHING
    )


def exporter_user(management: Management, name: str, *, address: BrokerSettings) -> BrokerSettings:
    """Makes the exporter's user, or gives it a new password: it may look at the broker and read what devices report, no more.

    Args:
        management: with the tag `administrator`.
        name: of the user; without an underscore, so that it can never be a device's.
        address: scheme, host, port and vhost under which the exporter reaches the broker.

    Raises:
        InvalidName: if the name is not usable.
        ManagementError: if the broker cannot be managed.
    """
    reports = _exactly(topology.QUEUE_TELEMETRY)
    return _put_server_side(
        management, name, address, tags="monitoring", configure=_NOTHING, write=_NOTHING, read=reports
    )


def _put_server_side(
    management: Management,
    name: str,
    address: BrokerSettings,
    *,
    configure: str,
    write: str,
    read: str,
    tags: str = "",
) -> BrokerSettings:
    """Makes a user who is no device's, with a new password and these rights."""
    _check_server_name(name)
    password = secrets.token_urlsafe(_PASSWORD_BYTES)
    management.put_user(name, password, tags=tags)
    management.put_permissions(address.vhost, name, configure=configure, write=write, read=read)
    return BrokerSettings.from_url(_url(address, name, password), ca=address.ca, plaintext=address.plaintext)


def owner(management: Management, client: str, *, address: BrokerSettings) -> BrokerSettings:
    """Makes the user who sends heads to a client's devices, or gives it a new password.

    It may write to `collafuse.down` under the keys of the client and its devices, and read what they report. All devices of the
    client that are enrolled report to it from then on, as those do that are enrolled later.

    Args:
        management: with the tag `administrator`.
        client: whose devices.
        address: scheme, host, port and vhost under which the owner reaches the broker.

    Raises:
        InvalidName: if the name is not usable.
        ManagementError: if the broker cannot be managed; a new user is taken back then.
    """
    user = names.owner_name(client)
    known = management.user_exists(user)
    _declare_reports(management, address.vhost, client, _devices_of(management, client))
    password = secrets.token_urlsafe(_PASSWORD_BYTES)
    management.put_user(user, password)
    try:
        _grant_owner(management, address.vhost, client)
    except ManagementError:
        if not known:
            management.delete_user(user)
        raise
    if known:
        management.close_connections(user)
    return BrokerSettings.from_url(_url(address, user, password), ca=address.ca, plaintext=address.plaintext)


def renew_reports(management: Management, client: str, *, vhost: str) -> None:
    """Makes the queue of what a client's devices report, should it be gone or another, and binds all that are enrolled.

    Raises:
        InvalidName: if the name is not usable.
        NotEnrolled: if the client has no owner who could read it.
        ManagementError: if the broker cannot be managed.
    """
    if not management.user_exists(names.owner_name(client)):
        raise NotEnrolled(
            f"{client} has no owner yet: make one with `collafuse broker owner {client} --out FILE`"
        )
    _declare_reports(management, vhost, client, _devices_of(management, client))


def _check_server_name(name: str) -> None:
    if not names.valid_name(name):
        raise InvalidName(
            f"user name {name[:80]!r} is not usable: take lowercase letters, digits and hyphens"
        )


def _check_certifiable(user: str, address: BrokerSettings) -> None:
    if not address.tls:
        raise ConfigError(f"a device logs in with a certificate over amqps only, not at {address.places}")
    if len(user) > _COMMON_NAME_CHARACTERS:
        raise ConfigError(
            f"{user} has {len(user)} characters, and a certificate names at most {_COMMON_NAME_CHARACTERS}:"
            " choose shorter names, or a password"
        )


def _grant_device(management: Management, vhost: str, user: str, limits: Limits) -> None:
    management.put_user_limit(user, "max-connections", limits.connections)
    management.put_user_limit(user, "max-channels", limits.channels)
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


def _grant_owner(management: Management, vhost: str, client: str) -> None:
    keys = rf"client\.{client}|device\.{client}_[a-z0-9][a-z0-9-]*"
    # Topic rights first, as for a device.
    management.put_topic_permission(
        vhost, names.owner_name(client), topology.EXCHANGE_DOWN, write=rf"^({keys})$", read=_NOTHING
    )
    management.put_permissions(
        vhost,
        names.owner_name(client),
        configure=_NOTHING,
        write=_exactly(topology.EXCHANGE_DOWN),
        read=_exactly(names.reports(client)),
    )


def _declare_reports(management: Management, vhost: str, client: str, devices: Iterable[str]) -> None:
    """Binds these devices to the client's reports; all of them where the queue is new."""
    wanted = topology.reports(client, devices)
    (queue,) = wanted.queues
    found = management.queue(vhost, queue.name)
    if found is None or found["arguments"] != dict(queue.arguments):
        management.delete_queue(vhost, queue.name)  # of an older form; it holds copies alone
        wanted = topology.reports(client, {*devices, *_devices_of(management, client)})
    management.declare(vhost, wanted)


def _devices_of(management: Management, client: str) -> list[str]:
    return [device for one, device in map(_split_or_none, management.users()) if one == client and device]


def _split_or_none(user: str) -> tuple[str | None, str | None]:
    try:
        return names.split_user(user)
    except InvalidName:
        return None, None


def _exactly(name: str) -> str:
    dotted = name.replace(".", "\\.")
    return f"^{dotted}$"


def _url(address: BrokerSettings, user: str, password: str | None) -> str:
    scheme = "amqps" if address.tls else "amqp"
    login = user if password is None else f"{user}:{quote(password, safe='')}"
    return f"{scheme}://{login}@{address.places}/{quote(address.vhost, safe='')}"
