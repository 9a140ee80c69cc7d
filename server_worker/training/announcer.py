"""Tells the devices what is asked for: the open round, again and again, for those that come late."""

import time
from concurrent.futures import Future

import structlog

from broker.contract.rounds import RoundV1
from broker.errors import PublishFailed, Unroutable
from broker.publisher import Publisher, outgoing
from broker.topology import ALL_KEY, EXCHANGE_DOWN
from server_worker.errors import Damaged, StorageFull
from server_worker.samples.contract import Contract
from server_worker.samples.store import SampleStore
from server_worker.settings import TrainSettings
from server_worker.storage import Storage, json_bytes, read_json
from server_worker.training.rounds import Round, Stock, Targets, next_round, stock_of, what_is_missing

log = structlog.get_logger(__name__)

ROUND_PATH = "round.json"
LOOK_SECONDS = 2.0
"""Between two looks at what the store lacks."""


class Announcer:
    """Opens a round when what is asked changes, with each version, and when the last one closed."""

    def __init__(
        self,
        settings: TrainSettings,
        contract: Contract,
        storage: Storage,
        store: SampleStore,
        publisher: Publisher,
    ) -> None:
        self._settings = settings
        self._contract = contract
        self._storage = storage
        self._store = store
        self._publisher = publisher
        self._targets = Targets(
            releases=settings.releases_wanted,
            samples=settings.samples_wanted,
            per_label=settings.samples_per_label,
            num_classes=contract.num_classes,
            max_bytes=settings.store_max_bytes,
        )
        self._counted = Stock()
        self._round = _kept_round(storage)
        self._announced_number = 0
        self._announced_seconds = float("-inf")
        self._looked_seconds = float("-inf")

    def announce_if_due(self, version: int, *, at_once: bool = False) -> None:
        """Announce the round that `version`, the newest backbone's number, and the store call for.

        at_once: look even if it is not long since the last look.
        """
        now = time.monotonic()
        if now - self._looked_seconds < LOOK_SECONDS and not at_once:
            return
        self._looked_seconds = now
        wish = what_is_missing(self._stock(), self._targets)
        due = next_round(self._round, wish, version, time.time(), self._settings.round_closes_seconds)
        if due != self._round:
            self._keep(due)
        is_new = due.number != self._announced_number
        if is_new or now - self._announced_seconds >= self._settings.round_seconds:
            self._announced_number, self._announced_seconds = due.number, now
            self._send(due, version)

    def _stock(self) -> Stock:
        """What is stored; labels are counted only when they matter, and only anew when something was stored."""
        size = (self._store.samples, self._store.size_bytes)
        if self._targets.per_label is None:
            return Stock(size[0], {}, size[1])
        if (self._counted.samples, self._counted.size_bytes) != size:
            self._counted = stock_of(self._store.entries())
        return self._counted

    def _keep(self, due: Round) -> None:
        """Remember a round over restarts. Where that fails its number may be used again, and devices keep the older one."""
        self._round = due
        try:
            self._storage.write(ROUND_PATH, json_bytes(due.to_dict()))
        except StorageFull as error:
            log.warning("round_not_kept", number=due.number, error=str(error))

    def _send(self, due: Round, version: int) -> None:
        message = outgoing(
            self._message(due, version),
            exchange=EXCHANGE_DOWN,
            routing_key=ALL_KEY,
            message_id=f"round-{due.number}",
            # The next one says the same or better: announcements must not pile up in the inbox of a device that is away.
            ttl_seconds=2 * self._settings.round_seconds,
        )
        labels = None if due.wish.labels is None else len(due.wish.labels)
        log.info(
            "round_opened",
            number=due.number,
            backbone_version=version,
            releases_wanted=due.wish.releases,
            labels_wanted=labels,
        )
        try:
            self._publisher.send(message).add_done_callback(_round_sent)
        except PublishFailed as error:
            log.warning("round_not_announced", error=str(error))

    def _message(self, due: Round, version: int) -> RoundV1:
        schedule = self._contract.schedule
        closes = self._settings.round_closes_seconds
        return RoundV1(
            number=due.number,
            schedule_name=self._settings.schedule,
            schedule_T=schedule.T,
            schedule_id=schedule.schedule_id,
            shape=self._contract.shape,
            num_classes=self._contract.num_classes,
            cut_min=self._contract.cut_min,
            cut_max=self._contract.cut_max,
            releases_wanted=due.wish.releases,
            backbone_version=version,
            closes_in_seconds=None if closes is None else _left_seconds(due, closes),
            labels_wanted=due.wish.labels,
        )


def _left_seconds(due: Round, closes_seconds: float) -> float:
    return min(closes_seconds, max(0.0, due.opened_unix + closes_seconds - time.time()))


def _kept_round(storage: Storage) -> Round | None:
    try:
        return Round.from_dict(read_json(storage, ROUND_PATH))
    except FileNotFoundError:
        return None
    except (Damaged, KeyError, TypeError, ValueError) as error:
        log.warning("round_unreadable", error=str(error))  # numbers go on above the newest version's
        return None


def _round_sent(future: "Future[None]") -> None:
    error = future.exception()
    if isinstance(error, Unroutable):
        log.info("round_without_devices")
    elif error is not None:
        log.warning("round_not_announced", error=str(error))
