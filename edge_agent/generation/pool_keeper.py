"""Keeping the stock: asks the server for samples while it can be reached, and neither too much nor too often."""

import secrets
import sqlite3
import time
import uuid
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import structlog

from broker.backoff import Backoff
from edge_agent.errors import JobFailed, OutboxFull
from edge_agent.generation import pool, pool_requests, pool_surplus
from edge_agent.generation.pool import Stock
from edge_agent.generation.recipe import (
    Recipe,
    Slice,
    check_label,
    denoise_request,
    write_recipe,
)
from edge_agent.heads.facts import HeadFacts
from edge_agent.link import contract, outbox
from edge_agent.settings import EdgeSettings
from edge_agent.storage.holdings import held_bytes
from edge_agent.storage.spool import Spool

log = structlog.get_logger(__name__)

REQUEST_SAMPLES = 64
"""One request asks for at most so many: what is lost with it is little, and a worker is soon free for who waits."""
FIRST_HOLD_BACK_SECONDS = 5.0
LONGEST_HOLD_BACK_SECONDS = 3600.0
_WRITE_SECONDS = 10.0
_NO_ROOM = (
    "samples at the cut take all the room that inbox_max_bytes gives them: raise it, or keep fewer in stock"
)


@dataclass(frozen=True)
class Order:
    """What to ask for: so many samples, to fill empty places, or to replace those made by version `renews` and before."""

    samples: int
    renews: int | None


def order(
    shelf: Stock, *, refill: float, filling: bool, old: int, newest_old: int, foreign: int = 0
) -> Order | None:
    """What to ask for on behalf of a shelf; None when it has what it should have, or something is on its way.

    refill: share of the wanted stock below which it is filled up.  filling: whether that has begun.
    old: samples that are to be renewed, `newest_old` the newest version among them.
    foreign: samples of another origin than new ones would have; new ones take their places.
    """
    if shelf.requested or not shelf.wanted:
        return None
    of_use = shelf.images - foreign
    missing = shelf.wanted - of_use
    low = of_use < max(1.0, refill * shelf.wanted)
    if missing > 0 and (low or filling or foreign):
        return Order(min(missing, REQUEST_SAMPLES), None)
    return Order(min(old, REQUEST_SAMPLES), newest_old) if old else None


class PoolKeeper:
    """A duty of the agent: looks after every shelf, one request for each at a time.

    spool, settings: of the agent, and used in its thread.
    facts: what is known of the loaded head, None without one.
    connected: whether the link stands.
    wake: called when there is something new in the outbox.
    hold_back: seconds to wait after so many failures in a row.
    on_trial: whether the head in use is not believed yet; the stock of the one before it is kept until it is.
    """

    def __init__(
        self,
        spool: Spool,
        settings: EdgeSettings,
        facts: Callable[[], HeadFacts | None],
        connected: Callable[[], bool],
        wake: Callable[[], None],
        *,
        hold_back: Callable[[int], float] | None = None,
        on_trial: Callable[[], bool] = lambda: False,
    ) -> None:
        self._spool = spool
        self._settings = settings
        self._facts = facts
        self._connected = connected
        self._wake = wake
        self._hold_back = hold_back or _jittered
        self._on_trial = on_trial
        self._filling: set[int | None] = set()
        self._failures: dict[int | None, int] = {}
        self._not_before: dict[int | None, float] = {}
        self._head: str | None = None
        self._looked_at: float | None = None
        self._uncounted_seconds = 0.0
        self._told: str | None = None
        labels: tuple[int | None, ...] = settings.pool_labels or (None,)
        pool.set_wanted(spool, labels if settings.pool_images else (), settings.pool_images)

    def turn(self) -> None:
        """Give up what does not come, ask for what is missing, and let go of what the head in use has no need of any more."""
        facts = self._facts()
        if facts is not None and facts.identity != self._head:
            self._head = facts.identity
            pool.note_head(self._spool, facts)
        if not self._connected():
            self._looked_at = None
            return
        self._count_waiting()
        wanted = bool(self._settings.pool_images)
        if self._settings.metered or not (wanted or pool.any_in_stock(self._spool)):
            return
        recipe = self._recipe(facts)
        if recipe is None:
            return
        useless = [] if facts is None else pool_surplus.unfit(self._spool, facts)
        if self._on_trial() and useless:
            return  # the head before it may come back, and all of its stock with it
        pool_surplus.call_off(self._spool, recipe)
        if wanted and recipe.asks_the_server:
            for shelf in pool.stock(self._spool):
                if self._may_ask(shelf):
                    self._see_to(shelf, recipe, facts, useless)
        self._drop(useless, recipe)

    def _drop(self, useless: list[str], recipe: Recipe) -> None:
        """Let go of what the head in use cannot finish, once it has a stock of its own, or needs none."""
        if not useless:
            return
        stock = pool.stock(self._spool) if recipe.asks_the_server else []
        if any(shelf.usable < shelf.wanted for shelf in stock):
            return
        log.info("stock_dropped", samples=pool_surplus.drop(self._spool, useless), head=recipe.head)

    def _count_waiting(self) -> None:
        """Count the time with the link up, and write it down now and then."""
        now = time.monotonic()
        if self._looked_at is not None:
            self._uncounted_seconds += now - self._looked_at
        self._looked_at = now
        if self._uncounted_seconds >= min(_WRITE_SECONDS, self._settings.reask_seconds / 4):
            pool_requests.count_waiting(self._spool, self._uncounted_seconds)
            self._uncounted_seconds = 0.0

    def _recipe(self, facts: HeadFacts | None) -> Recipe | None:
        try:
            return write_recipe(self._settings, facts, contract.latest(self._spool))
        except JobFailed as error:
            self._tell(str(error))
            return None

    def _may_ask(self, shelf: Stock) -> bool:
        """Whether the failures of late, if any, are long enough ago."""
        if self._failures.get(shelf.label, 0) != shelf.failures:
            self._failures[shelf.label] = shelf.failures
            wait_seconds = self._hold_back(shelf.failures) if shelf.failures else 0.0
            self._not_before[shelf.label] = time.monotonic() + wait_seconds
        return time.monotonic() >= self._not_before.get(shelf.label, 0.0)

    def _see_to(self, shelf: Stock, recipe: Recipe, facts: HeadFacts | None, useless: list[str]) -> None:
        old, newest_old = self._old(shelf)
        foreign = pool_surplus.foreign(self._spool, shelf.label, recipe)
        wanted = order(
            shelf,
            refill=self._settings.pool_refill,
            filling=shelf.label in self._filling,
            old=old,
            newest_old=newest_old,
            foreign=foreign,
        )
        if shelf.images - foreign >= shelf.wanted:
            self._filling.discard(shelf.label)
        if wanted is None:
            if not shelf.requested and not shelf.failures:
                self._tell_of(shelf, None)
            return
        try:
            check_label(shelf.label, facts, contract.latest(self._spool))
            self._ask(shelf, recipe, wanted, useless)
        except (JobFailed, OutboxFull) as error:
            self._tell_of(shelf, str(error))

    def _old(self, shelf: Stock) -> tuple[int, int]:
        heard = pool_requests.version_heard(self._spool)
        if heard is None or shelf.backbone_version is None:
            return 0, 0
        oldest_good = heard - self._settings.pool_versions
        if shelf.backbone_version >= oldest_good:
            return 0, 0
        return pool.older_than(self._spool, shelf.label, oldest_good)

    def _ask(self, shelf: Stock, recipe: Recipe, wanted: Order, useless: list[str]) -> None:
        """Ask for samples, and in the same transaction let go of what must make room for them. Raises OutboxFull."""
        with self._spool.transaction() as transaction:
            samples = min(wanted.samples, self._room(transaction, shelf, recipe, wanted.samples, useless))
            if samples:
                request = denoise_request(
                    recipe,
                    Slice(0, samples, secrets.randbelow(2**63)),
                    request_id=uuid.uuid4().hex,
                    label=shelf.label,
                    dtype=self._settings.latents_dtype,
                    ttl_seconds=self._settings.reask_seconds,
                    priority="prefetch",
                )
                pool_requests.note_request(
                    transaction,
                    request,
                    label=shelf.label,
                    recipe=recipe,
                    quota_bytes=self._settings.inbox_max_bytes,
                    renews=wanted.renews,
                )
                outbox.put_request(transaction, request, None, self._settings.outbox_max_bytes)
        if samples == 0:
            self._tell_of(shelf, _NO_ROOM)
            return
        if wanted.renews is None:
            self._filling.add(shelf.label)
        self._told = None
        if not shelf.failures:
            self._tell_of(shelf, None)
        self._wake()
        log.info(
            "stock_asked_for",
            request_id=request.request_id,
            label=shelf.label,
            samples=samples,
            renews=wanted.renews,
        )

    def _room(
        self,
        transaction: sqlite3.Connection,
        shelf: Stock,
        recipe: Recipe,
        samples: int,
        useless: list[str],
    ) -> int:
        """Samples that may still come; what is in stock and not wanted goes when they are fewer than `samples`."""
        sample_bytes = int(np.prod(recipe.shape)) * np.dtype(self._settings.latents_dtype).itemsize

        def room_bytes() -> int:
            taken_bytes = held_bytes(transaction) + pool_requests.expected_bytes(self._spool, sample_bytes)
            return self._settings.inbox_max_bytes - taken_bytes

        short_bytes = samples * sample_bytes - room_bytes()
        if short_bytes > 0:
            dropped = pool_surplus.make_room(transaction, short_bytes, useless)
            if room_bytes() < sample_bytes:
                # Where the quota leaves no place for both kinds at once, the new one could never come.
                short_bytes = samples * sample_bytes - room_bytes()
                dropped += pool_surplus.make_room_among_the_foreign(
                    transaction, short_bytes, shelf.label, recipe
                )
            if dropped:
                log.info("stock_made_room", label=shelf.label, samples=dropped)
        return max(0, room_bytes() // sample_bytes)

    def _tell(self, error: str) -> None:
        """Say once why no shelf can be filled."""
        if error != self._told:
            self._told = error
            log.warning("stock_waits", error=error)

    def _tell_of(self, shelf: Stock, error: str | None) -> None:
        """Say once why this shelf cannot be filled, to the status too; None when nothing is in the way any more."""
        if error == shelf.error:
            return
        with self._spool.transaction() as transaction:
            pool_requests.note_error(transaction, shelf.label, error)
        if error is not None:
            log.warning("stock_waits", label=shelf.label, error=error)


def _jittered(failures: int) -> float:
    return Backoff(FIRST_HOLD_BACK_SECONDS, LONGEST_HOLD_BACK_SECONDS, failures=failures - 1).next_seconds()
