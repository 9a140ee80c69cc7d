"""From the spool to the metrics: the counters follow what is durable, so a crash cannot make them lie."""

from edge_agent import status
from edge_agent.generation import jobs, pool
from edge_agent.link import outbox
from edge_agent.storage.spool import Spool
from monitoring.metrics import EdgeMetrics


class Observer:
    """Keeps the metrics of one agent up to date; counts what has happened since it was made."""

    def __init__(self, spool: Spool, metrics: EdgeMetrics) -> None:
        self._metrics = metrics
        self._last = _durable_counts(spool)

    def look(self, spool: Spool) -> None:
        """Count what has happened since the last look; reads the whole ledger, so call it when something has changed."""
        self.look_at_outbox(spool)
        now = _durable_counts(spool)
        grown = {name: value - self._last.get(name, 0) for name, value in now.items()}
        self._last = now
        self._metrics.releases_total.inc(max(0, grown["releases"]))
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


def _durable_counts(spool: Spool) -> dict[str, int]:
    by_state = jobs.counts(spool)
    return {
        "releases": status.release_count(spool),
        "receipts": status.receipt_count(spool),
        "late": status.counter(spool, "late"),
        "from_pool": status.counter(spool, "jobs_from_pool"),
        **{
            outcome: by_state.get(outcome, 0) + status.counter(spool, f"forgotten_{outcome}")
            for outcome in jobs.ENDED
        },
    }
