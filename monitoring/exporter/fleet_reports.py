"""The queue in which devices say how they are, read for the picture of the fleet.

A report counts for the device that the broker vouches for, whatever it says of itself. What is no report is counted and dropped:
telemetry is the only thing that may be lost, and it has no place among the dead letters.
"""

import time
from collections.abc import Callable

from broker.connection import Connection
from broker.contract.telemetry import TelemetryV1
from broker.delivery import Delivery
from broker.errors import InvalidName, Refused
from broker.names import split_user
from broker.topology import QUEUE_TELEMETRY
from monitoring.exporter.fleet import Fleet

PREFETCH = 256


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
        try:
            user, report = judged(delivery)
        except Refused as refusal:
            self._fleet.refuse(refusal.reason)
        else:
            self._fleet.note(
                user,
                report,
                is_redelivered=delivery.redelivered,
                now_seconds=self._clock(),
                at=self._wall_clock(),
            )
        delivery.ack()
        return True


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
