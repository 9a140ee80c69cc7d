"""Finding out what a broker is like from its management API, reading only."""

import time
from collections.abc import Iterable
from email.utils import parsedate_to_datetime
from typing import Any

from broker.errors import ManagementError
from broker.inspection.facts import Listener, Managed, Node, Queue, Rights, User
from broker.management import Management
from broker.names import is_inbox
from broker.settings import BrokerSettings
from broker.topology import FEDERATION

RESOLUTION_SECONDS = 2.0


class _Api(Management):
    """The management API, read only. Raises ManagementError."""

    def get(self, *path: str) -> Any:
        return self._call("GET", *path).json()

    def date(self) -> str | None:
        """When it answered, by the broker's clock."""
        found: str | None = self._call("GET", "overview").headers.get("date")
        return found

    def optional(self, *path: str) -> list[dict[str, Any]] | None:
        """What needs more rights, or a newer broker, than there may be."""
        try:
            found: list[dict[str, Any]] = self.get(*path)
        except ManagementError:
            return None
        return found


def managed_facts(settings: BrokerSettings, url: str) -> Managed:
    """Returns what the management API at `url` tells the user of `settings`.

    Raises:
        ManagementError: if it does not answer, or refuses what a user with the tag `monitoring` may read.
        ConfigError: if the password would cross a network unencrypted.
    """
    with _Api.of(settings, url) as api:
        before = time.time()
        ahead = _clock_ahead(api.date(), before, time.time())
        overview = api.overview()
        vhost = settings.vhost
        return Managed(
            version=str(overview.get("rabbitmq_version", "unknown")),
            nodes=tuple(_node(found) for found in api.get("nodes")),
            listeners=tuple(_listener(found) for found in overview.get("listeners", [])),
            queues=tuple(_queues(api, vhost)),
            missing_bindings=tuple(_missing_bindings(api.get("bindings", vhost))),
            users=_users(api),
            rights=_rights(api.optional("permissions")),
            topic_rights=_rights(api.optional("topic-permissions")),
            vhost_limits=_limits(api.optional("vhost-limits", vhost)),
            deprecated=tuple(
                str(found.get("name")) for found in api.optional("deprecated-features", "used") or []
            ),
            clock_ahead_seconds=ahead,
        )


def _clock_ahead(date: str | None, before: float, after: float) -> float | None:
    """Seconds by which the broker's clock is ahead of ours; 0 within what the header can tell, for it is made once a second."""
    if date is None:
        return None
    try:
        theirs = parsedate_to_datetime(date).timestamp()
    except ValueError:
        return None
    if before - RESOLUTION_SECONDS <= theirs <= after + 1:
        return 0.0
    return theirs - after if theirs > after else theirs + RESOLUTION_SECONDS - before


def _node(found: dict[str, Any]) -> Node:
    return Node(
        name=str(found["name"]),
        running=bool(found.get("running")),
        memory_limit=_whole(found.get("mem_limit")),
        memory_used=_whole(found.get("mem_used")),
        memory_alarm=bool(found.get("mem_alarm")),
        disk_free_limit=_whole(found.get("disk_free_limit")),
        disk_free=_whole(found.get("disk_free")),
        disk_alarm=bool(found.get("disk_free_alarm")),
        files_limit=_whole(found.get("fd_total")),
        files_used=_whole(found.get("fd_used")),
        partitions=tuple(map(str, found.get("partitions") or ())),
        plugins=frozenset(map(str, found.get("enabled_plugins") or ())),
    )


def _listener(found: dict[str, Any]) -> Listener:
    # The address of an HTTP listener stands in its options; `ip_address` says `::` whatever it is bound to.
    options = found.get("socket_opts")
    bound = options.get("ip") if isinstance(options, dict) else None
    return Listener(
        str(found["node"]), str(found["protocol"]), str(bound or found["ip_address"]), int(found["port"])
    )


def _queues(api: _Api, vhost: str) -> Iterable[Queue]:
    ours = {queue.name for queue in FEDERATION.queues}
    for found in api.get("queues", vhost):
        if found["name"] in ours or is_inbox(found["name"]):
            yield Queue(
                name=str(found["name"]),
                arguments=dict(found.get("arguments") or {}),
                members=tuple(map(str, found.get("members") or ())),
                online=tuple(map(str, found.get("online") or ())),
                stuck=_whole(found.get("messages_dlx")) or 0,
            )


def _missing_bindings(found: list[dict[str, Any]]) -> Iterable[str]:
    there = {(each["source"], each["destination"], each["routing_key"]) for each in found}
    for binding in FEDERATION.bindings:
        if (binding.exchange, binding.queue, binding.routing_key) not in there:
            yield f"{binding.exchange} → {binding.queue} ({binding.routing_key})"


def _users(api: _Api) -> tuple[User, ...] | None:
    found = api.optional("users")
    if found is None:
        return None
    limits = {str(each["user"]): dict(each["value"]) for each in api.optional("user-limits") or []}
    return tuple(_user(each, limits.get(str(each["name"]), {})) for each in found)


def _user(found: dict[str, Any], limits: dict[str, int]) -> User:
    tags = found.get("tags") or []
    words = tags.split(",") if isinstance(tags, str) else tags  # 3.8 and older wrote one text
    return User(
        str(found["name"]),
        tuple(str(word) for word in words if word),
        bool(found.get("password_hash")),
        limits,
    )


def _rights(found: list[dict[str, Any]] | None) -> tuple[Rights, ...] | None:
    if found is None:
        return None
    return tuple(
        Rights(
            user=str(each["user"]),
            vhost=str(each["vhost"]),
            write=str(each["write"]),
            read=str(each["read"]),
            configure=str(each.get("configure", "")),
            exchange=each.get("exchange"),
        )
        for each in found
    )


def _limits(found: list[dict[str, Any]] | None) -> dict[str, int]:
    return {str(key): int(value) for each in found or [] for key, value in each.get("value", {}).items()}


def _whole(value: object) -> int | None:
    return value if isinstance(value, int) and not isinstance(value, bool) else None
