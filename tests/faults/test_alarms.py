"""A broker that takes nothing for now: in a memory alarm, in a disk alarm, or with a full queue."""

import time
from collections.abc import Callable

from broker.address import BrokerSettings
from broker.backoff import Backoff
from broker.errors import Blocked, ConfirmTimeout
from broker.node.local_node import LocalNode
from broker.publisher import Outgoing
from broker.topology import QUEUE_SAMPLES
from edge_agent.link import outbox
from edge_agent.link.relay import Relay
from edge_agent.storage.spool import Spool
from tests.conftest import WAIT_SECONDS, wait_until
from tests.edge_agent.rows import put
from tests.faults.conftest import Connect

TIMEOUT_SECONDS = 2.0

ALARMS: dict[str, tuple[tuple[str, ...], tuple[str, ...]]] = {
    "memory": (
        ("set_vm_memory_high_watermark", "absolute", "1"),
        ("set_vm_memory_high_watermark", "0.4"),
    ),
    "disk": (("set_disk_free_limit", "1000000GB"), ("set_disk_free_limit", "1GB")),
}


def message(number: int) -> Outgoing:
    return Outgoing("", QUEUE_SAMPLES, f"{number}", "samples.v1", b"body")


def test_an_alarm_fails_the_publish_in_time_keeps_the_row_and_ends_by_itself(
    own_node: LocalNode, connect: Connect, spool: Spool
) -> None:
    info = own_node.status().info
    assert info is not None
    connection = connect(BrokerSettings.from_url(info.amqp_url))
    publisher = connection.publisher(confirm_timeout_seconds=TIMEOUT_SECONDS)
    relay_publisher = connection.publisher(confirm_timeout_seconds=TIMEOUT_SECONDS)
    connection.wait_connected(WAIT_SECONDS)
    publisher.publish(message(0))
    for number, (raise_, clear) in enumerate(ALARMS.values(), start=1):
        own_node.control(*raise_)
        _fails_in_time(lambda: publisher.send(message(number)).result(20))  # noqa: B023 - called at once

        own_node.control(*clear)
        wait_until(lambda: _taken(publisher), "messages are taken again")
    _the_row_is_kept_and_goes_later(own_node, spool, relay_publisher, connection.user)


def _fails_in_time(act: Callable[[], object]) -> None:
    """The first publish may still be on its way when the alarm is told; one of the next is refused by the alarm's name."""
    seen: list[type[BaseException]] = []
    begun = time.monotonic()
    while Blocked not in seen:
        assert time.monotonic() - begun < WAIT_SECONDS, seen
        before = time.monotonic()
        try:
            act()
        except (Blocked, ConfirmTimeout) as error:
            seen.append(type(error))
        assert time.monotonic() - before < TIMEOUT_SECONDS + 8


def _taken(publisher: object) -> bool:
    try:
        publisher.send(message(99)).result(20)  # type: ignore[attr-defined]
    except (Blocked, ConfirmTimeout):
        return False
    return True


def _the_row_is_kept_and_goes_later(own_node: LocalNode, spool: Spool, publisher: object, user: str) -> None:
    raise_, clear = ALARMS["memory"]
    own_node.control(*raise_)
    put(spool, "row")
    relay = Relay(
        spool.path,
        publisher,  # type: ignore[arg-type]
        user=user,
        connected=lambda: True,
        backoff=Backoff(first_seconds=0.05, limit_seconds=0.2),
    )
    relay.start()
    try:
        wait_until(
            lambda: "alarm" in (spool.rows("SELECT last_error FROM outbox")[0][0] or ""),
            "the reason is written down",
        )
        assert outbox.load(spool).messages == 1

        own_node.control(*clear)
        wait_until(lambda: outbox.load(spool).messages == 0, "the row goes when the alarm is over")
    finally:
        relay.stop()
