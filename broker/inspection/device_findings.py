"""What is unsafe about the users of devices: more rights than enrolment gives, or fewer."""

from broker import names
from broker.delivery import is_device
from broker.inspection.facts import Facts, Managed, Rights
from broker.inspection.finding import Findings, listed, number, ok, unsafe, warning
from broker.topology import EXCHANGE_UP, UP_KINDS

NOTHING = "^$"


def device_rights(user: str, vhost: str) -> tuple[Rights, Rights]:
    """Returns the rights, and the topic rights, that enrolment gives to a device's user."""
    up, inbox = EXCHANGE_UP.replace(".", "\\."), names.inbox(user).replace(".", "\\.")
    kinds = "|".join(UP_KINDS)
    return (
        Rights(user, vhost, write=f"^{up}$", read=f"^{inbox}$", configure=NOTHING),
        Rights(user, vhost, write=rf"^{user}\.({kinds})$", read=NOTHING, exchange=EXCHANGE_UP),
    )


def devices_rights(facts: Facts, managed: Managed) -> Findings:
    """Compares what every device may do with what enrolment gives."""
    if managed.users is None or managed.rights is None or managed.topic_rights is None:
        yield warning(
            "devices", "users and rights could not be read", "come as a user with the tag administrator"
        )
        return
    devices = [user.name for user in managed.users if is_device(user.name)]
    wide, open_topics, narrow = set(), set(), set()
    for name in devices:
        expected, topic = device_rights(name, facts.vhost)
        held = [rights for rights in managed.rights if rights.user == name]
        topics = [rights for rights in managed.topic_rights if rights.user == name]
        if any(_exceeds(rights, expected) for rights in held):
            wide.add(name)
        if held and topic.exchange not in {
            rights.exchange for rights in topics if rights.vhost == facts.vhost
        }:
            open_topics.add(name)
        if any(_exceeds(rights, topic) for rights in topics):
            wide.add(name)
        if expected not in held and name not in wide:
            narrow.add(name)
    yield from _about_devices(len(devices), wide, open_topics, narrow)


def _about_devices(count: int, wide: set[str], open_topics: set[str], narrow: set[str]) -> Findings:
    renew = "enrol again with --renew, or revoke"
    if wide:
        yield unsafe("devices", f"{listed(sorted(wide))} may do more than a device may", renew)
    if open_topics:
        yield unsafe(
            "devices",
            f"{listed(sorted(open_topics))} may publish under any name, for want of topic rights",
            renew,
        )
    if narrow:
        yield warning("devices", f"{listed(sorted(narrow))} lacks rights that a device needs", renew)
    if not wide | open_topics | narrow:
        yield ok("devices", f"{number(count, 'enrolled device')} with exactly a device's rights")


def _exceeds(rights: Rights, expected: Rights) -> bool:
    """Whether any pattern is another than the expected one, and not nothing; or holds for another vhost or exchange."""
    pairs = (
        (rights.configure, expected.configure),
        (rights.write, expected.write),
        (rights.read, expected.read),
    )
    if (rights.vhost, rights.exchange) != (expected.vhost, expected.exchange):
        return any(pattern not in {"", NOTHING} for pattern, _ in pairs)
    return any(pattern not in {"", NOTHING, wanted} for pattern, wanted in pairs)


def devices_users(_: Facts, managed: Managed) -> Findings:
    """Looks at the tags, limits and passwords of the users of devices."""
    devices = [user for user in managed.users or () if is_device(user.name)]
    tagged = [user.name for user in devices if user.tags]
    if tagged:
        yield unsafe(
            "devices",
            f"{listed(tagged)} has a tag, and so rights over the broker or over other names",
            "rabbitmqctl set_user_tags USER, with no tag behind it",
        )
    unlimited = [user.name for user in devices if "max-connections" not in user.limits]
    if unlimited:
        yield warning(
            "devices",
            f"{listed(unlimited)} may open any number of connections",
            "enrol again with --renew",
        )
    mute = [user.name for user in devices if not user.has_password]
    by_certificate = any("rabbitmq_auth_mechanism_ssl" in node.plugins for node in managed.nodes)
    if mute and not by_certificate:
        yield warning(
            "devices",
            f"{listed(mute)} has no password, and the broker takes no certificates for one",
            "rabbitmq-plugins enable rabbitmq_auth_mechanism_ssl, or enrol again with --renew",
        )
