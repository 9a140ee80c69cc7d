"""Keeping the stock: asks the server for samples while it can be reached, and neither too much nor too often."""

import secrets
import time
import uuid
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import structlog

from broker.backoff import Backoff
from edge_agent.errors import JobFailed, OutboxFull
from edge_agent.generation import pool, pool_requests
from edge_agent.generation.pool import Stock
from edge_agent.generation.recipe import (
    HeadFacts,
    Recipe,
    Slice,
    check_label,
    denoise_request,
    write_recipe,
)
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


@dataclass(frozen=True)
class Order:
    """What to ask for: so many samples, to fill empty places, or to replace those made by version `renews` and before."""

    samples: int
    renews: int | None


def order(shelf: Stock, *, refill: float, filling: bool, old: int, newest_old: int) -> Order | None:
    """What to ask for on behalf of a shelf; None when it has what it should have, or something is on its way.

    refill: share of the wanted stock below which it is filled up.  filling: whether that has begun.
    old: samples that are to be renewed, `newest_old` the newest version among them.
    """
    if shelf.requested or not shelf.wanted:
        return None
    missing = shelf.wanted - shelf.images
    low = shelf.images < max(1.0, refill * shelf.wanted)
    if missing > 0 and (low or filling):
        return Order(min(missing, REQUEST_SAMPLES), None)
    return Order(min(old, REQUEST_SAMPLES), newest_old) if old else None


class PoolKeeper:
    """A duty of the agent: looks after every shelf, one request for each at a time.

    spool, settings: of the agent, and used in its thread.
    facts: what is known of the loaded head, None without one.
    connected: whether the link stands.
    wake: called when there is something new in the outbox.
    hold_back: seconds to wait after so many failures in a row.
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
    ) -> None:
        self._spool = spool
        self._settings = settings
        self._facts = facts
        self._connected = connected
        self._wake = wake
        self._hold_back = hold_back or _jittered
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
        """Let go of what the head cannot use, give up what does not come, and ask for what is missing."""
        facts = self._facts()
        self._check_head(facts)
        if not self._connected():
            self._looked_at = None
            return
        self._count_waiting()
        if not self._settings.pool_images or self._settings.metered:
            return
        recipe = self._recipe(facts)
        if recipe is None or not recipe.asks_the_server:
            return
        for shelf in pool.stock(self._spool):
            if self._may_ask(shelf):
                self._see_to(shelf, recipe, facts)

    def _check_head(self, facts: HeadFacts | None) -> None:
        if facts is None or facts.identity == self._head:
            return
        self._head = facts.identity
        dropped = pool.drop_unfit(self._spool, facts)
        if dropped:
            log.warning("stock_dropped", samples=dropped, head=facts.identity, t_cut=facts.t_cut)

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

    def _see_to(self, shelf: Stock, recipe: Recipe, facts: HeadFacts | None) -> None:
        old, newest_old = self._old(shelf)
        wanted = order(
            shelf,
            refill=self._settings.pool_refill,
            filling=shelf.label in self._filling,
            old=old,
            newest_old=newest_old,
        )
        if shelf.images >= shelf.wanted:
            self._filling.discard(shelf.label)
        if wanted is None:
            return
        try:
            check_label(shelf.label, facts, contract.latest(self._spool))
            self._ask(shelf, recipe, wanted)
        except (JobFailed, OutboxFull) as error:
            self._tell(str(error))

    def _old(self, shelf: Stock) -> tuple[int, int]:
        heard = pool_requests.version_heard(self._spool)
        if heard is None or shelf.backbone_version is None:
            return 0, 0
        oldest_good = heard - self._settings.pool_versions
        if shelf.backbone_version >= oldest_good:
            return 0, 0
        return pool.older_than(self._spool, shelf.label, oldest_good)

    def _ask(self, shelf: Stock, recipe: Recipe, wanted: Order) -> None:
        samples = min(wanted.samples, self._room(recipe))
        if samples == 0:
            self._tell("samples at the cut take all the room that inbox_max_bytes gives them")
            return
        request = denoise_request(
            recipe,
            Slice(0, samples, secrets.randbelow(2**63)),
            request_id=uuid.uuid4().hex,
            label=shelf.label,
            dtype=self._settings.latents_dtype,
            ttl_seconds=self._settings.reask_seconds,
            priority="prefetch",
        )
        with self._spool.transaction() as transaction:
            pool_requests.note_request(
                transaction,
                request,
                label=shelf.label,
                recipe=recipe,
                quota_bytes=self._settings.inbox_max_bytes,
                renews=wanted.renews,
            )
            outbox.put_request(transaction, request, None, self._settings.outbox_max_bytes)
        if wanted.renews is None:
            self._filling.add(shelf.label)
        self._told = None
        self._wake()
        log.info("stock_asked_for", label=shelf.label, samples=samples, renews=wanted.renews)

    def _room(self, recipe: Recipe) -> int:
        """Samples that may still come."""
        sample_bytes = int(np.prod(recipe.shape)) * np.dtype(self._settings.latents_dtype).itemsize
        taken_bytes = held_bytes(self._spool) + pool_requests.expected_bytes(self._spool, sample_bytes)
        return max(0, (self._settings.inbox_max_bytes - taken_bytes) // sample_bytes)

    def _tell(self, error: str) -> None:
        """Say once why the stock cannot be filled."""
        if error != self._told:
            self._told = error
            log.warning("stock_waits", error=error)


def _jittered(failures: int) -> float:
    return Backoff(FIRST_HOLD_BACK_SECONDS, LONGEST_HOLD_BACK_SECONDS, failures=failures - 1).next_seconds()
