"""What the broker knows of a federation beside its messages: users, rights, limits, queues and bindings of one vhost."""

from collections.abc import Mapping
from typing import Any

from broker.errors import ManagementError

Definitions = Mapping[str, Any]

_OF_VHOST = ("permissions", "topic_permissions", "parameters", "policies", "queues", "exchanges", "bindings")
_OPERATORS = frozenset({"administrator", "monitoring", "policymaker", "management", "impersonator"})


def of_vhost(definitions: Definitions, vhost: str) -> dict[str, Any]:
    """The part that is one federation's.

    definitions: as the management API exports them, of a whole broker.
    Users are those with rights in the vhost and without a tag: who operates the broker is not of the federation.

    Raises ManagementError when these are no definitions, or there is no such vhost in them.
    """
    try:
        found: dict[str, Any] = {
            kind: [each for each in definitions.get(kind, ()) if each["vhost"] == vhost] for kind in _OF_VHOST
        }
        found["vhosts"] = [each for each in definitions["vhosts"] if each["name"] == vhost]
        inside = {each["user"] for each in found["permissions"]}
        found["users"] = [
            each for each in definitions["users"] if each["name"] in inside and not _operates(each)
        ]
        names = {each["name"] for each in found["users"]}
    except (KeyError, TypeError, AttributeError) as error:
        raise ManagementError(f"these are no definitions of a broker ({error!r})") from error
    for kind in ("permissions", "topic_permissions"):
        found[kind] = [each for each in found[kind] if each["user"] in names]
    if not found["vhosts"]:
        raise ManagementError(f"the broker has no virtual host {vhost!r}")
    return found


def other_passwords(definitions: Definitions, users: list[dict[str, Any]]) -> list[str]:
    """The users whose password a restore would change, sorted. users: as the broker has them now."""
    now = {each["name"]: each.get("password_hash") for each in users}
    return sorted(
        each["name"]
        for each in definitions["users"]
        if each["name"] in now and now[each["name"]] != each.get("password_hash")
    )


def steps(definitions: Definitions) -> list[dict[str, Any]]:
    """The parts in the order in which a broker has to get them, so that whenever this ends nobody can do what they should not.

    Queues and limits first, then the users, who have no rights yet, with their topic rights, for without one a user may
    publish under every key; and the rights with which they get in last.
    """
    opened_last = ("permissions", "users", "topic_permissions")
    return [
        {kind: found for kind, found in definitions.items() if kind not in opened_last},
        {kind: definitions[kind] for kind in ("users", "topic_permissions")},
        {"permissions": definitions["permissions"]},
    ]


def _operates(user: Mapping[str, Any]) -> bool:
    tags = user.get("tags") or ()
    listed = tags.split(",") if isinstance(tags, str) else tags
    return bool(_OPERATORS & {tag.strip() for tag in listed})
