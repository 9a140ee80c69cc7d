"""The queue in which devices say how they are, read for the picture of the fleet.

A report counts for the device that the broker vouches for, whatever it says of itself. What is no report is counted and dropped:
telemetry is the only thing that may be lost, and it has no place among the dead letters.
"""

import time
from collections.abc import Callable

from broker.connection import Connection
from broker.contract.telemetry import TelemetryV1
from broker.delivery import Delivery, is_device
from broker.errors import InvalidName, Refused
from broker.names import split_user
from broker.topology import QUEUE_TELEMETRY
from monitoring.exporter.fleet.fleet import Fleet

PREFETCH = 64
"""Each of them may be as large as the broker takes messages, and is held until it is looked at."""


class FleetReports:
    """Takes reports from the broker into the fleet; to be called from one thread.

    Args:
        connection: as a user who may read the queue `telemetry`.
        fleet: told of every report.
        clock: monotonic seconds, the same by which the fleet is looked at.
        wall_clock: Unix seconds.
    """

    def __init__(
        self,
        connection: Connection,
        fleet: Fleet,
        *,
        clock: Callable[[], float] = time.monotonic,
        wall_clock: Callable[[], float] = time.time,
    ) -> None:
        self._fleet = fleet
        self._clock = clock
        self._wall_clock = wall_clock
        # Exclusive: two who shared the reports would each know half of the fleet.
        self._consumer = connection.consumer(QUEUE_TELEMETRY, PREFETCH, exclusive=True)

    def take(self, timeout_seconds: float) -> bool:
        """Takes one report in, for which it waits so long; whether there was one."""
        delivery = self._consumer.get(timeout_seconds)
        if delivery is None:
            return False
        now_seconds, sender = self._clock(), sender_of(delivery)
        if sender is None or self._fleet.admits(sender, len(delivery.body), now_seconds):
            self._read(delivery, sender, now_seconds)
        delivery.ack()
        return True

    def _read(self, delivery: Delivery, sender: str | None, now_seconds: float) -> None:
        try:
            user, report = judged(delivery)
        except Refused as refusal:
            self._fleet.refuse(refusal.reason, sender, now_seconds)
            return
        self._fleet.note(
            user, report, is_redelivered=delivery.redelivered, now_seconds=now_seconds, at=self._wall_clock()
        )


def sender_of(delivery: Delivery) -> str | None:
    """The device that sent a message, whether it says so or not; None when it was none.

    Without a `user_id` it is that of the routing key: a device may publish under its own alone. That is enough to tell whom not
    to believe, and not enough to believe a report: who may write to every queue may use any key.
    """
    named = delivery.user_id or delivery.routing_key.partition(".")[0]
    return named if is_device(named) else None


def judged(delivery: Delivery) -> tuple[str, TelemetryV1]:
    """The device that the broker vouches for, and what it reports. Raises Refused."""
    if delivery.user_id is None:
        raise Refused(
            "no_user_id", "the report carries no user_id, so the broker did not validate its sender"
        )
    try:
        split_user(delivery.user_id)
    except InvalidName as error:
        raise Refused("not_a_device", str(error)) from error
    message = delivery.message()
    if not isinstance(message, TelemetryV1):
        raise Refused("wrong_type", f"{message.type_name} has no place in the queue {delivery.queue}")
    return delivery.user_id, message
