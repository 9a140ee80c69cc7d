"""Taking released samples in: durable first, acknowledged afterwards.

Runs in a thread of its own beside the trainer. A batch is acknowledged once it is fsynced; what is wrong with a message
sends it to the dead-letter queue with the reason; what is wrong with the disk stops the taking and nothing else.
"""

import threading
from concurrent.futures import Future

import structlog
from structlog.contextvars import bound_contextvars

from broker import codec
from broker.backoff import Backoff
from broker.consumer import Consumer
from broker.delivery import Delivery, expect_user
from broker.errors import InvalidName, PublishFailed, Refused, Unroutable
from broker.messages import ReceiptV1, SamplesV1
from broker.names import user_name
from broker.publisher import Publisher, outgoing
from broker.topology import EXCHANGE_DOWN, device_key
from monitoring.metrics import TrainMetrics
from server_worker.errors import StorageFull
from server_worker.samples.contract import Contract, check_samples
from server_worker.samples.store import SampleStore
from server_worker.storage import Storage

log = structlog.get_logger(__name__)

RECEIPTS_IN_FLIGHT = 256


class Ingest:
    """Moves sample batches from the queue into the store until told to stop.

    consumer: of the queue `samples`.
    publisher: for receipts; must have a window of RECEIPTS_IN_FLIGHT or more.
    messages_in_hand: the consumer's prefetch count.
    """

    def __init__(
        self,
        contract: Contract,
        storage: Storage,
        store: SampleStore,
        *,
        consumer: Consumer,
        publisher: Publisher,
        metrics: TrainMetrics,
        messages_in_hand: int,
    ) -> None:
        self._contract = contract
        self._storage = storage
        self._store = store
        self._consumer = consumer
        self._publisher = publisher
        self._metrics = metrics
        self._messages_in_hand = messages_in_hand
        self._receipts_free = threading.BoundedSemaphore(RECEIPTS_IN_FLIGHT)
        self._show_store()

    def run(self, stop: threading.Event) -> None:
        """Take batches in until `stop` is set; returns with the batch in hand finished."""
        while not stop.is_set():
            delivery = self._consumer.get(0.2)
            if delivery is None:
                continue
            with bound_contextvars(batch_id=delivery.message_id):
                try:
                    self.take(delivery)
                except StorageFull as error:
                    self._pause_until_room(delivery, error, stop)
        self._consumer.close()

    def take(self, delivery: Delivery) -> None:
        """Store one delivery and acknowledge it, or set it aside with the reason.

        Raises StorageFull when there is no room; the delivery is still in hand then.
        """
        if delivery.is_last:
            delivery.refuse("delivered_too_often", f"given up after {delivery.delivery_count} attempts")
            return
        try:
            client, device = _sender(delivery)
            message = self._checked(delivery)
        except Refused as refusal:
            delivery.refuse(refusal.reason, refusal.detail)
            return
        is_new = self._store.add(message, delivery.message_id, client, device)
        count = int(message.x.shape[0])
        counter = self._metrics.samples_stored_total if is_new else self._metrics.samples_duplicate_total
        counter.inc(count)
        self._show_store()
        log.info(
            "samples_stored" if is_new else "samples_repeated", client=client, device=device, samples=count
        )
        self._send_receipt(user_name(client, device), delivery.message_id, count, duplicate=not is_new)
        delivery.ack()

    def _checked(self, delivery: Delivery) -> SamplesV1:
        message = delivery.message()
        if not isinstance(message, SamplesV1):
            raise Refused("wrong_type", f"{message.type_name} has no place in the queue {delivery.queue}")
        digest = codec.digest(delivery.body)
        if delivery.message_id != digest:
            raise Refused("wrong_message_id", f"the message id must be the body's digest, {digest}")
        check_samples(message, self._contract)
        return message

    def _send_receipt(self, user: str, batch_id: str, samples: int, *, duplicate: bool) -> None:
        """Tell the device. A receipt is a courtesy: it never holds up the acknowledgement of what is stored."""
        if not self._receipts_free.acquire(blocking=False):
            log.warning("receipt_skipped", user=user)  # the broker takes nothing at the moment
            return
        receipt = ReceiptV1(batch_id=batch_id, samples=samples, duplicate=duplicate)
        message = outgoing(
            receipt,
            exchange=EXCHANGE_DOWN,
            routing_key=device_key(user),
            message_id=f"receipt-{batch_id}",
            correlation_id=batch_id,
        )

        def confirmed(future: "Future[None]") -> None:
            self._receipts_free.release()
            error = future.exception()
            if isinstance(error, Unroutable):
                log.info("receipt_unroutable", user=user, batch_id=batch_id)
            elif error is not None:
                log.warning("receipt_failed", user=user, batch_id=batch_id, error=str(error))

        try:
            self._publisher.send(message).add_done_callback(confirmed)
        except PublishFailed as error:
            self._receipts_free.release()
            log.warning("receipt_failed", user=user, error=str(error))

    def _pause_until_room(self, delivery: Delivery, error: StorageFull, stop: threading.Event) -> None:
        """Leave the messages in their queue until there is room for all that may be in hand, then go on.

        Every return to the queue counts towards the delivery limit, so taking is resumed only once a file of that size
        could really be written.
        """
        self._consumer.pause()
        delivery.requeue()
        self._metrics.ingest_paused.set(1)
        log.error("ingest_paused", error=str(error))
        backoff = Backoff(first_seconds=1.0, limit_seconds=30.0)
        needed_bytes = 2 * len(delivery.body) * self._messages_in_hand
        while not stop.wait(backoff.next_seconds()):
            try:
                self._storage.check_room(needed_bytes)
            except StorageFull as still:
                log.warning("ingest_still_paused", error=str(still))
                continue
            self._metrics.ingest_paused.set(0)
            log.info("ingest_resumed")
            self._consumer.resume()
            return

    def _show_store(self) -> None:
        self._metrics.store_samples.set(self._store.samples)
        self._metrics.store_bytes.set(self._store.size_bytes)


def _sender(delivery: Delivery) -> tuple[str, str]:
    try:
        return expect_user(delivery)
    except InvalidName as error:
        raise Refused("not_a_device", str(error)) from error
