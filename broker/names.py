"""Names of clients, devices, their AMQP users, their inboxes, and of those who own them.

A client and a device each match `[a-z0-9][a-z0-9-]*`, so the underscore between them in the user name is unambiguous, and
nothing in a user name has a meaning in a routing key or in a permission pattern of any RabbitMQ version. The owner of a client's
devices has the user `<client>__owner`: two underscores never stand in a device's name, and none in a worker's.
"""

import re

from broker.errors import InvalidName

MAX_NAME_CHARACTERS = 63
"""Two of them, the underscore and `inbox.` stay far below AMQP's 255 bytes."""

_NAME = re.compile(r"[a-z0-9][a-z0-9-]*")
_INBOX_PREFIX = "inbox."
_REPORTS_PREFIX = "reports."
_OWNER_SUFFIX = "__owner"


def valid_name(name: str) -> bool:
    """Says whether `name` may name a client or a device."""
    return len(name) <= MAX_NAME_CHARACTERS and _NAME.fullmatch(name) is not None


def user_name(client: str, device: str) -> str:
    """Returns the AMQP user `<client>_<device>`.

    Raises:
        InvalidName: if either part is not a valid name.
    """
    _check("client", client)
    _check("device", device)
    return f"{client}_{device}"


def split_user(user: str) -> tuple[str, str]:
    """Returns `(client, device)` of an AMQP user.

    Raises:
        InvalidName: if `user` is not the name of a device's user.
    """
    client, separator, device = user.partition("_")
    if not separator or not valid_name(client) or not valid_name(device):
        raise InvalidName(f"user {user[:140]!r} is not a device: expected <client>_<device>")
    return client, device


def inbox(user: str) -> str:
    """Returns the name of the queue that only `user` may read.

    Raises:
        InvalidName: if `user` is not the name of a device's user.
    """
    split_user(user)
    return f"{_INBOX_PREFIX}{user}"


def is_inbox(queue: str) -> bool:
    """Says whether `queue` is a device's inbox."""
    return queue.startswith(_INBOX_PREFIX)


def owner_name(client: str) -> str:
    """Returns the AMQP user `<client>__owner`, who sends heads to the client's devices and reads what they report.

    Raises:
        InvalidName: if `client` is not a valid name.
    """
    _check("client", client)
    return f"{client}{_OWNER_SUFFIX}"


def owned_client(user: str) -> str | None:
    """Returns whose owner `user` is, or None when it is nobody's."""
    client = user.removesuffix(_OWNER_SUFFIX)
    return client if client != user and valid_name(client) else None


def reports(client: str) -> str:
    """Returns the name of the queue in which the reports of a client's devices stand for its owner.

    Raises:
        InvalidName: if `client` is not a valid name.
    """
    _check("client", client)
    return f"{_REPORTS_PREFIX}{client}"


def is_reports(queue: str) -> bool:
    """Says whether `queue` holds the reports of a client's devices."""
    return queue.startswith(_REPORTS_PREFIX)


def _check(kind: str, name: str) -> None:
    if not valid_name(name):
        raise InvalidName(
            f"{kind} name {name[:80]!r} is not usable: take lowercase letters, digits and hyphens,"
            f" at most {MAX_NAME_CHARACTERS}, not starting with a hyphen"
        )
