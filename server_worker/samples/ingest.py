"""Taking released samples in: durable first, acknowledged afterwards.

Runs in a thread of its own beside the trainer. What waits is taken together, and acknowledged once it is fsynced; what is wrong
with a message sends it to the dead-letter queue with the reason; what is wrong with the disk stops the taking and nothing else.
"""

import threading
import time
from collections.abc import Callable, Mapping, Sequence, Set
from concurrent.futures import Future
from heapq import nlargest
from typing import NamedTuple

import structlog
from structlog.contextvars import bound_contextvars

from broker import codec
from broker.backoff import Backoff
from broker.consumer import Consumer
from broker.contract.receipts import ReceiptV1
from broker.contract.samples import SamplesV1
from broker.delivery import Delivery, expect_user
from broker.errors import InvalidName, PublishFailed, Refused, Unroutable
from broker.names import user_name
from broker.publisher import Publisher, outgoing
from broker.topology import EXCHANGE_DOWN, device_key
from monitoring.metrics import TrainMetrics
from server_worker.errors import StorageFull, Unreadable
from server_worker.samples.batch import Incoming, Outcome
from server_worker.samples.contract import Contract, check_samples
from server_worker.samples.segments import SEGMENTS_FOLDER
from server_worker.samples.store import SampleStore
from server_worker.storage import Storage

log = structlog.get_logger(__name__)

RECEIPTS_IN_FLIGHT = 256
GROUP_BYTES = 32 << 20
"""Of messages that are stored together."""
MAINTENANCE_SECONDS = 3600.0
SHOW_SECONDS = 5.0
CLIENTS_SHOWN = 20
"""With series of their own, of those with most samples."""
OTHER_CLIENTS = "other"
ROOM_BYTES = 64 << 20
"""No more than this, or than the largest message in hand, is written to see whether there is room."""


class Unplaced(NamedTuple):
    """Deliveries that are still in hand, the size of the tensors of the largest, and why they could not be stored."""

    deliveries: list[Delivery]
    largest_bytes: int
    error: StorageFull | Unreadable


class Ingest:
    """Moves sample batches from the queue into the store until told to stop.

    consumer: of the queue `samples`.
    publisher: for receipts; must have a window of RECEIPTS_IN_FLIGHT or more.
    messages_in_hand: the consumer's prefetch count.
    maintains: merge small segments and erase what is due; of several ranks one does.
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
        maintains: bool = True,
    ) -> None:
        self._contract = contract
        self._storage = storage
        self._store = store
        self._consumer = consumer
        self._publisher = publisher
        self._metrics = metrics
        self._messages_in_hand = messages_in_hand
        self._maintains = maintains
        self._maintain_at = float("-inf")
        self._receipts_free = threading.BoundedSemaphore(RECEIPTS_IN_FLIGHT)
        self._clients_shown: Set[str] = frozenset()
        self._show_store()

    def run(self, stop: threading.Event) -> None:
        """Take batches in until `stop` is set; returns with the batches in hand finished."""
        while not stop.is_set():
            self._maintain_if_due()
            group = self._group()
            if not group:
                self._show_store_if_due()
                continue
            unplaced = self.take(group)
            if unplaced is not None:
                self._pause_until_room(unplaced, stop)
            self._compact_if_due()
        self._consumer.close()

    def take(self, group: Sequence[Delivery]) -> Unplaced | None:
        """Store some deliveries together and acknowledge each, or set it aside with the reason.

        Returns those that are neither, as the disk or the quota of the store left no room, or as the store cannot be read.
        """
        taken: list[tuple[Delivery, Incoming]] = []
        for delivery in group:
            with bound_contextvars(batch_id=delivery.message_id):
                incoming = self._incoming(delivery)
            if incoming is not None:
                taken.append((delivery, incoming))
        try:
            outcomes = self._store.add_many([incoming for _, incoming in taken])
        except (StorageFull, Unreadable) as error:
            return _unplaced(taken, error)
        self._show_store()
        no_room = []
        for (delivery, incoming), outcome in zip(taken, outcomes, strict=True):
            if outcome == Outcome.NO_ROOM:
                no_room.append((delivery, incoming))
                continue
            with bound_contextvars(batch_id=delivery.message_id):
                self._end(delivery, incoming, outcome)
        return _unplaced(no_room, StorageFull("store_max_bytes is reached")) if no_room else None

    def _group(self) -> list[Delivery]:
        """What is there without waiting for more: it shares one commit. Empty when nothing came for a while."""
        first = self._consumer.get(0.2)
        group = [] if first is None else [first]
        size_bytes = sum(len(each.body) for each in group)
        while group and len(group) < self._messages_in_hand and size_bytes < GROUP_BYTES:
            delivery = self._consumer.get(0)
            if delivery is None:
                break
            group.append(delivery)
            size_bytes += len(delivery.body)
        return group

    def _incoming(self, delivery: Delivery) -> Incoming | None:
        """What is to be stored of a delivery; None when it was set aside with the reason."""
        if delivery.is_last:
            delivery.refuse("delivered_too_often", f"given up after {delivery.delivery_count} attempts")
            return None
        try:
            client, device = _sender(delivery)
            return Incoming(self._checked(delivery), delivery.message_id, client, device)
        except Refused as refusal:
            delivery.refuse(refusal.reason, refusal.detail)
            return None

    def _end(self, delivery: Delivery, incoming: Incoming, outcome: Outcome) -> None:
        """Say what became of a batch, and end its delivery."""
        client, device = incoming.client, incoming.device
        if outcome == Outcome.OVER_QUOTA:
            delivery.refuse(
                "over_quota",
                f"client {client} has stored as much as client_max_bytes allows, or sent more than store_max_bytes at once: "
                "raise it and replay this, or forget what is old",
            )
            return
        event, counter = {
            Outcome.STORED: ("samples_stored", self._metrics.samples_stored_total),
            Outcome.REPEATED: ("samples_repeated", self._metrics.samples_duplicate_total),
            # Not set aside in the dead-letter queue: that would keep what is to be forgotten.
            Outcome.FORGOTTEN: ("samples_forgotten", self._metrics.samples_forgotten_total),
        }[outcome]
        count = int(incoming.message.x.shape[0])
        counter.inc(count)
        log.info(event, client=client, device=device, samples=count)
        if outcome != Outcome.FORGOTTEN:
            is_repeat = outcome == Outcome.REPEATED
            self._send_receipt(user_name(client, device), delivery.message_id, count, duplicate=is_repeat)
        delivery.ack()

    def _maintain_if_due(self) -> None:
        """At the start and from time to time: finish erasures, erase what is too old, merge what is small."""
        if self._maintains and time.monotonic() >= self._maintain_at:
            self._maintain_at = time.monotonic() + MAINTENANCE_SECONDS
            self._attempt(self._store.maintain)

    def _compact_if_due(self) -> None:
        if self._maintains:
            self._attempt(lambda: self._store.compact(everything=False))

    def _attempt(self, work: Callable[[], object]) -> None:
        """A disk that is full, or cannot be read, puts the work off; the samples that are stored are not in danger."""
        try:
            work()
        except (StorageFull, Unreadable) as error:
            log.warning("maintenance_put_off", error=str(error))
        self._show_store()

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

    def _pause_until_room(self, unplaced: Unplaced, stop: threading.Event) -> None:
        """Leave the messages in their queue until there is room for all that may be in hand, then go on.

        Every return to the queue counts towards the delivery limit, so taking is resumed only once a file of that size
        could really be written.
        """
        self._consumer.pause()
        for delivery in unplaced.deliveries:
            delivery.requeue()
        self._metrics.ingest_paused.set(1)
        log.error("ingest_paused", error=str(unplaced.error))
        backoff = Backoff(first_seconds=1.0, limit_seconds=30.0)
        largest_bytes = max(len(delivery.body) for delivery in unplaced.deliveries)
        needed_bytes = 2 * largest_bytes * self._messages_in_hand
        written_bytes = min(needed_bytes, max(largest_bytes, ROOM_BYTES))
        while not stop.wait(backoff.next_seconds()):
            self._maintain_if_due()
            try:
                self._store.check_readable()
                self._store.check_quota(needed_bytes, unplaced.largest_bytes)
                self._storage.check_room(written_bytes, SEGMENTS_FOLDER)
            except (StorageFull, Unreadable) as still:
                log.warning("ingest_still_paused", error=str(still))
                continue
            self._metrics.ingest_paused.set(0)
            log.info("ingest_resumed")
            self._consumer.resume()
            return

    def _show_store_if_due(self) -> None:
        """Others erase, too, while nothing comes."""
        if time.monotonic() >= self._show_at:
            self._show_store()

    def _show_store(self) -> None:
        self._show_at = time.monotonic() + SHOW_SECONDS
        self._metrics.store_samples.set(self._store.samples)
        self._metrics.store_bytes.set(self._store.size_bytes)
        for quota, used in self._store.quotas_used.items():
            self._metrics.store_quota_used_ratio.labels(quota=quota).set(used)
        shown = shown_clients(self._store.client_samples)
        for client in self._clients_shown - shown.keys():
            self._metrics.store_client_samples.remove(client)
        for client, samples in shown.items():
            self._metrics.store_client_samples.labels(client=client).set(samples)
        self._clients_shown = shown.keys()


def shown_clients(samples: Mapping[str, int]) -> dict[str, int]:
    """The clients with most samples, and all others together as `other`: a bounded number of series."""
    # A client may be called `other`; its samples are then among those of the others.
    named = {client: count for client, count in samples.items() if client != OTHER_CLIENTS}
    shown = dict(nlargest(CLIENTS_SHOWN, named.items(), key=lambda item: (item[1], item[0])))
    others = sum(samples.values()) - sum(shown.values())
    return shown | ({OTHER_CLIENTS: others} if others else {})


def _unplaced(
    in_hand: Sequence[tuple[Delivery, Incoming]], error: StorageFull | Unreadable
) -> Unplaced | None:
    if not in_hand:
        return None
    largest_bytes = max(incoming.size_bytes for _, incoming in in_hand)
    return Unplaced([delivery for delivery, _ in in_hand], largest_bytes, error)


def _sender(delivery: Delivery) -> tuple[str, str]:
    try:
        return expect_user(delivery)
    except InvalidName as error:
        raise Refused("not_a_device", str(error)) from error
