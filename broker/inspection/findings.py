"""What is unsafe, or worth knowing, about a broker: one judgement after another, each a function of the facts alone."""

import re
from collections.abc import Callable, Mapping

from broker.address import is_loopback
from broker.inspection.device_findings import devices_rights, devices_users
from broker.inspection.facts import ALARM, Facts, Managed, Node
from broker.inspection.finding import Finding, Findings, Severity, listed, number, ok, size, unsafe, warning
from broker.inspection.queue_findings import dead_letters, quorum, readers, stuck
from broker.topology import FEDERATION, WORK_QUEUES

OLDEST, NEWEST = (3, 10), (4, 3)
DISK_FREE_LIMIT_BYTES = 10**9
FILES_LIMIT = 4096
FILES_SHARE = 0.8
CLOCK_SECONDS = 5.0
CERTIFICATE_DAYS = 30.0
PLAIN_PROTOCOLS = {"amqp", "http", "mqtt", "stomp", "stream", "http/web-mqtt", "http/web-stomp"}


def judge(facts: Facts) -> list[Finding]:
    """Returns every finding, the worst first."""
    found: list[Finding] = []
    for judgement in OVER_AMQP:
        found += judgement(facts)
    if facts.managed is None:
        found.append(
            warning(
                "management",
                f"the management API could not be read ({facts.unmanaged}), so most of this is unknown",
                "enable the plugin rabbitmq_management, name it with --management-url, and come as an administrator",
            )
        )
    else:
        for judgement_of_managed in OVER_MANAGEMENT:
            found += judgement_of_managed(facts, facts.managed)
    return sorted(found, key=lambda finding: list(Severity).index(finding.severity))


# -- what AMQP alone tells ----------------------------------------------------------------------------------------------


def _version(facts: Facts) -> Findings:
    found = re.match(r"(\d+)\.(\d+)", facts.link.version)
    release = (int(found[1]), int(found[2])) if found else None
    if release is not None and OLDEST <= release <= NEWEST:
        yield ok("version", f"RabbitMQ {facts.link.version} is in the supported range")
    else:
        yield warning(
            "version",
            f"RabbitMQ {facts.link.version} is outside the supported range, 3.10 to 4.3",
            "take a version in the range, or expect what nobody has tried",
        )


def _encryption(facts: Facts) -> Findings:
    if not facts.link.encrypted and not facts.link.loopback:
        yield unsafe(
            "encryption",
            "this connection crosses a network unencrypted, password and all",
            "take an amqps:// URL",
        )


def _certificate(facts: Facts) -> Findings:
    days = facts.link.certificate_days
    if days is None:
        return
    is_good = f"the broker's certificate is good for {number(round(days), 'day')} more"
    if days < CERTIFICATE_DAYS:
        yield warning(
            "certificate",
            f"{is_good}; then nobody can connect any more",
            "renew it: docs/operations.md, The broker's certificate",
        )
    else:
        yield ok("certificate", is_good)


def _topology(facts: Facts) -> Findings:
    for state, what in (("missing", "is missing"), ("other arguments", "has other arguments than ours")):
        concerned = [name for name, found in facts.topology.items() if found == state]
        if concerned:
            mend = "run `collafuse broker init`"
            if state != "missing":
                mend = "empty and delete it, then run `collafuse broker init`"
            yield unsafe("topology", f"{listed(concerned)} {what}", mend)
    unknown = [name for name, found in facts.topology.items() if found == "unknown"]
    if unknown:
        yield warning(
            "topology",
            f"{listed(unknown)} could not be compared",
            "come as a user that may configure the vhost",
        )
    if set(facts.topology.values()) == {"ok"}:
        yield ok("topology", "every exchange and queue of the federation is there, as it should be")


def _largest_message(facts: Facts) -> Findings:
    probe, largest = facts.probe, size(facts.probe.size_bytes)
    if probe.passed:
        yield ok("message size", f"a message of {largest} passes")
    else:
        yield unsafe(
            "message size",
            f"a message of {largest} does not pass: {probe.detail}",
            "end the alarm" if probe.detail == ALARM else "set max_message_size to 16 MiB",
        )


def _guest(facts: Facts) -> Findings:
    if facts.guest:
        yield unsafe(
            "guest",
            "the user guest may log in with its default password",
            "delete it: rabbitmqctl delete_user guest",
        )


OVER_AMQP: tuple[Callable[[Facts], Findings], ...] = (
    _version,
    _encryption,
    _certificate,
    _topology,
    _largest_message,
    readers,
    dead_letters,
    _guest,
)


# -- what the management API tells --------------------------------------------------------------------------------------


def _nodes(_: Facts, managed: Managed) -> Findings:
    for node in managed.nodes:
        if not node.running:
            yield unsafe("nodes", f"{node.name} does not run", "start it, or take it out of the cluster")
        elif node.disk_free_limit is None or node.memory_limit is None:
            yield warning(
                "nodes",
                f"{node.name} has not told of its memory and disk yet, as after a start",
                "look again in ten seconds",
            )
        if node.partitions:
            yield unsafe(
                "nodes",
                f"{node.name} has lost sight of {listed(node.partitions)}",
                "mend the network, then restart the smaller side",
            )
    if len(managed.nodes) == 1:
        yield warning(
            "nodes",
            "there is one node: while it is down nothing moves, and its disk holds the only copy of every message",
            "for what must go on, cluster three nodes",
        )


def _alarms(_: Facts, managed: Managed) -> Findings:
    for node in managed.nodes:
        if node.memory_alarm:
            yield unsafe(
                "alarms",
                f"{node.name} uses {size(node.memory_used)} of {size(node.memory_limit)} memory: all publishing stands still",
                "give it more memory, or raise vm_memory_high_watermark",
            )
        if node.disk_alarm:
            yield unsafe(
                "alarms",
                f"{node.name} has {size(node.disk_free)} of disk left: all publishing stands still",
                "make room on its disk",
            )


def _disk_limit(_: Facts, managed: Managed) -> Findings:
    for node in _running(managed):
        limit = node.disk_free_limit
        if limit is not None and limit < DISK_FREE_LIMIT_BYTES:
            yield unsafe(
                "disk",
                f"{node.name} goes on writing until {size(limit)} of disk are left, too few to recover with",
                "set disk_free_limit.absolute to 1GB or more",
            )


def _files(_: Facts, managed: Managed) -> Findings:
    for node in _running(managed):
        limit, used = node.files_limit, node.files_used
        if limit is None:
            continue
        if limit < FILES_LIMIT or (used is not None and used > FILES_SHARE * limit):
            yield warning(
                "file descriptors",
                f"{node.name} may open {limit} files and has {used or 0} open; each device takes one",
                "raise its limit (ulimit -n, LimitNOFILE)",
            )


def _listeners(_: Facts, managed: Managed) -> Findings:
    for listener in managed.listeners:
        if is_loopback(listener.address):
            continue
        place = f"{listener.protocol} on {listener.address}:{listener.port} of {listener.node}"
        if listener.protocol in PLAIN_PROTOCOLS:
            yield unsafe(
                "listeners",
                f"{place} is open to the network without encryption",
                "bind it to 127.0.0.1, or replace it by a TLS listener",
            )
        elif listener.protocol == "http/prometheus":
            yield warning(
                "listeners", f"{place} shows its metrics to the network", "bind it to where Prometheus is"
            )
        elif listener.protocol == "clustering" and len(managed.nodes) == 1:
            yield warning(
                "listeners",
                f"{place} is open to the network, and nobody clusters with this node",
                "set inet_dist_use_interface to 127.0.0.1",
            )


def _bindings(_: Facts, managed: Managed) -> Findings:
    if managed.missing_bindings:
        yield unsafe(
            "topology",
            f"there is no binding {listed(managed.missing_bindings)}",
            "run `collafuse broker init`",
        )


def _plugins(_: Facts, managed: Managed) -> Findings:
    lacking = [
        node.name for node in _running(managed) if node.plugins and "rabbitmq_prometheus" not in node.plugins
    ]
    if lacking:
        yield warning(
            "plugins",
            f"{listed(lacking)} serves no metrics to Prometheus",
            "rabbitmq-plugins enable rabbitmq_prometheus",
        )


def _deprecated(_: Facts, managed: Managed) -> Findings:
    if managed.deprecated:
        yield warning(
            "deprecated",
            f"in use, and gone in a later RabbitMQ: {listed(managed.deprecated)}",
            "see who uses it before the next upgrade; we do not",
        )


def _clock(_: Facts, managed: Managed) -> Findings:
    ahead = managed.clock_ahead_seconds
    if ahead is not None and abs(ahead) > CLOCK_SECONDS:
        way = "ahead of" if ahead > 0 else "behind"
        yield warning(
            "clock",
            f"the broker's clock is {abs(ahead):.0f} s {way} ours",
            "let both follow NTP; certificates and measured lags depend on it",
        )


OVER_MANAGEMENT: tuple[Callable[[Facts, Managed], Findings], ...] = (
    _nodes,
    _alarms,
    _disk_limit,
    _files,
    _listeners,
    quorum,
    stuck,
    _bindings,
    _plugins,
    _deprecated,
    _clock,
    devices_rights,
    devices_users,
)


def limits(facts: Facts) -> Mapping[str, str]:
    """Returns the limits that apply, by what they limit, as words."""
    link = facts.link
    found = {
        "message": f"{size(facts.probe.size_bytes)} {'passes' if facts.probe.passed else 'does not pass'}",
        "channels of a connection": str(link.channel_max or "any number"),
        "frame": size(link.frame_max_bytes),
        "heartbeat": f"{link.heartbeat_seconds} s",
        "deliveries of a message": ", ".join(
            f"{queue.name} {queue.arguments['x-delivery-limit']:,}"
            for queue in FEDERATION.queues
            if queue.name in WORK_QUEUES and "x-delivery-limit" in queue.arguments
        ),
    }
    for node in () if facts.managed is None else _running(facts.managed):
        found[f"memory of {node.name}"] = f"{size(node.memory_used)} of {size(node.memory_limit)}"
        found[f"disk of {node.name}"] = f"{size(node.disk_free)} free, stops at {size(node.disk_free_limit)}"
        if node.files_limit is not None:
            found[f"files of {node.name}"] = f"{node.files_used or 0} of {node.files_limit}"
    if facts.managed is not None:
        for name, value in facts.managed.vhost_limits.items():
            found[f"vhost {name}"] = str(value)
    return found


def _running(managed: Managed) -> list[Node]:
    return [node for node in managed.nodes if node.running]
