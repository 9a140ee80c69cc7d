"""From the spool to the metrics: the counters follow what is durable, so a crash cannot make them lie."""

import math

from edge_agent import status
from edge_agent.generation import jobs, pool
from edge_agent.heads import store
from edge_agent.heads.head_slot import HeadSlot
from edge_agent.link import outbox
from edge_agent.release import ledger
from edge_agent.settings import EdgeSettings
from edge_agent.storage import counters, loss
from edge_agent.storage.spool import Spool
from monitoring.metrics import EdgeMetrics


class Observer:
    """Keeps the metrics of one agent up to date; counts what has happened since it was made."""

    def __init__(self, spool: Spool, metrics: EdgeMetrics, settings: EdgeSettings) -> None:
        self._metrics = metrics
        self._settings = settings
        self._last = _durable_counts(spool)
        self._look_at_ledger(spool)

    def look(self, spool: Spool) -> None:
        """Count what has happened since the last look; reads the whole ledger, so call it when something has changed."""
        self.look_at_outbox(spool)
        now = _durable_counts(spool)
        before, self._last = self._last, now
        grown = {name: value - before.get(name, 0) for name, value in now.items()}
        self._metrics.releases_total.inc(max(0, grown["releases"]))
        self._metrics.releases_refused_total.inc(max(0, grown["refused"]))
        self._metrics.strangers_total.inc(max(0, grown["strangers"]))
        if grown["releases"] or now["acknowledged"] != before["acknowledged"]:
            self._look_at_ledger(spool)
        self._metrics.receipts_total.inc(max(0, grown["receipts"]))
        self._metrics.late_results_total.inc(max(0, grown["late"]))
        self._metrics.jobs_from_pool_total.inc(max(0, grown["from_pool"]))
        shelves = pool.stock(spool)
        self._metrics.pool_images.set(sum(shelf.images for shelf in shelves))
        self._metrics.pool_wanted.set(sum(shelf.wanted for shelf in shelves))
        for outcome in jobs.ENDED:
            self._metrics.jobs_total.labels(outcome=outcome).inc(max(0, grown[outcome]))

    def look_at_outbox(self, spool: Spool) -> None:
        """Bring the gauges of the outbox up to date; cheap."""
        load = outbox.load(spool)
        self._metrics.outbox_messages.set(load.messages)
        self._metrics.outbox_bytes.set(load.size_bytes)
        self._metrics.outbox_oldest_seconds.set(load.oldest_seconds)

    def look_at_heads(self, spool: Spool, slot: HeadSlot) -> None:
        """Bring the gauges of the head in use, and of the one that something happened to last, up to date; cheap."""
        loaded = slot.loaded
        self._metrics.head_number.set(0 if loaded is None else loaded.head.manifest.counter)
        self._metrics.head_key_revoked.set(store.key_revoked(spool))
        last = store.last_state(spool)
        for state in store.STATES:
            self._metrics.head_update.labels(state=state).set(last == state)

    def _look_at_ledger(self, spool: Spool) -> None:
        """Reads the whole ledger, and only releases change what it finds."""
        account = ledger.summary(spool, self._settings)
        lost = account["incomplete_since"] is not None
        self._metrics.ledger_incomplete.set(lost and not account["loss_acknowledged"])
        if account["images"] == 0 and not lost:
            self._metrics.ledger_epsilon_max.set(0)
        else:
            dearest = account["epsilon_max"]
            self._metrics.ledger_epsilon_max.set(math.inf if dearest is None else dearest)


def _durable_counts(spool: Spool) -> dict[str, int]:
    by_state = status.job_counts(spool)
    return {
        "releases": ledger.release_count(spool),
        "receipts": status.receipt_count(spool),
        "refused": ledger.refused(spool),
        "acknowledged": loss.known(spool).acknowledged,
        "strangers": counters.value(spool, "strangers"),
        "late": counters.value(spool, "late"),
        "from_pool": counters.value(spool, "jobs_from_pool"),
        **{outcome: by_state.get(outcome, 0) for outcome in jobs.ENDED},
    }
