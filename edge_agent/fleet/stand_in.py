"""Stands in for the server where none runs: takes the samples of a simulated fleet and sends the receipts."""

import threading
from collections.abc import Iterable
from concurrent.futures import Future
from types import TracebackType
from typing import Self

import structlog
from prometheus_client import CollectorRegistry

from broker.connection import Connection
from broker.contract.receipts import ReceiptV1
from broker.contract.samples import SamplesV1
from broker.delivery import Delivery, expect_user
from broker.errors import PublishFailed, Refused
from broker.names import user_name
from broker.publisher import outgoing
from broker.settings import BrokerSettings
from broker.topology import EXCHANGE_DOWN, QUEUE_SAMPLES, device_key
from monitoring.metrics import BrokerMetrics

log = structlog.get_logger(__name__)

PREFETCH = 256
CONNECT_SECONDS = 30.0
_LOOK_SECONDS = 0.2


class StandIn:
    """A consumer of the samples that keeps nothing but which messages came; a context manager.

    settings: of a user of the server.
    users: the fleet's devices. What others send goes back into the queue, and is reported as `foreign`.
    """

    def __init__(self, settings: BrokerSettings, users: Iterable[str]) -> None:
        self.foreign: str | None = None
        self._users = frozenset(users)
        self._seen: set[str] = set()
        self._connection = Connection(
            settings, name="fleet-stand-in", metrics=BrokerMetrics(CollectorRegistry())
        )
        self._consumer = self._connection.consumer(QUEUE_SAMPLES, prefetch=PREFETCH)
        self._publisher = self._connection.publisher(window=PREFETCH)
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._run, name="stand-in", daemon=True)

    def __enter__(self) -> Self:
        self._connection.start()
        try:
            self._connection.wait_connected(CONNECT_SECONDS)
        except BaseException:
            self._connection.stop()
            raise
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stopping.set()
        self._thread.join(10)
        self._connection.stop()

    def _run(self) -> None:
        while not self._stopping.is_set():
            delivery = self._consumer.get(_LOOK_SECONDS)
            if delivery is not None:
                self._take(delivery)

    def _take(self, delivery: Delivery) -> None:
        try:
            user = user_name(*expect_user(delivery))
            if user not in self._users:
                self.foreign = self.foreign or user
                self._consumer.pause()
                delivery.requeue()
                return
            self._send_receipt(user, delivery, _samples(delivery))
        except Refused as error:
            delivery.refuse(error.reason, error.detail)
        except PublishFailed as error:
            _again(delivery, error)

    def _send_receipt(self, user: str, delivery: Delivery, samples: int) -> None:
        """Send it, and acknowledge the message when the broker has it: here a receipt that got lost would look like a loss."""
        batch_id = delivery.message_id
        known = batch_id in self._seen
        self._seen.add(batch_id)
        receipt = outgoing(
            ReceiptV1(batch_id=batch_id, samples=samples, duplicate=known),
            exchange=EXCHANGE_DOWN,
            routing_key=device_key(user),
            message_id=f"receipt-{batch_id}",
            correlation_id=batch_id,
        )

        def confirmed(future: "Future[None]") -> None:
            error = future.exception()
            if error is None:
                delivery.ack()
            else:
                _again(delivery, error)

        self._publisher.send(receipt).add_done_callback(confirmed)


def _samples(delivery: Delivery) -> int:
    message = delivery.message()
    if not isinstance(message, SamplesV1):
        raise Refused("wrong_type", f"{message.type_name} has no place in the queue {delivery.queue}")
    return len(message.x)


def _again(delivery: Delivery, error: BaseException) -> None:
    log.warning("receipt_failed", message_id=delivery.message_id, error=str(error))
    delivery.requeue()
