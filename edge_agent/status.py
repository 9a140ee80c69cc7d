"""What the device can say of itself: link, outbox, inbox, ledger, receipts, jobs, head, stock, plan, contract, damaged spools."""

import contextlib
import json
from dataclasses import asdict
from typing import Any

from edge_agent.generation import jobs, pool
from edge_agent.heads import arrivals, store
from edge_agent.link import contract, outbox
from edge_agent.release import ledger
from edge_agent.settings import EdgeSettings
from edge_agent.storage import counters, notes, quarantine
from edge_agent.storage.holdings import held_bytes
from edge_agent.storage.spool import Spool
from edge_agent.storage.state import StateDirectory, agent_is_running


def note(spool: Spool, facts: dict[str, Any]) -> None:
    """The agent writes down what only it knows, for the status command; keys not named stay as they are."""
    with spool.transaction() as transaction:
        for name, value in facts.items():
            notes.write(transaction, name, value)


def noted(spool: Spool) -> dict[str, Any]:
    """What the agent wrote down last; what cannot be read any more is not there."""
    found = {}
    for row in spool.rows("SELECT key, value FROM agent"):
        with contextlib.suppress(ValueError):
            found[row["key"]] = json.loads(row["value"])
    return found


def collect(state: StateDirectory, spool: Spool, settings: EdgeSettings) -> dict[str, Any]:
    """Everything `edge status --json` prints. What only a running agent knows is None when none runs."""
    running = agent_is_running(state)
    facts = noted(spool) if running else {}
    page = facts.get("page") or {}
    load = outbox.load(spool)
    return {
        "state": str(state.path),
        "agent": {
            "running": running,
            "pid": facts.get("pid"),
            "metrics_port": facts.get("metrics_port"),
            "api_port": page.get("port"),
            "api_error": page.get("error"),
        },
        "link": facts.get("link"),
        "head": _head(spool, facts.get("head")),
        "plan": facts.get("plan"),
        "pool": [asdict(shelf) for shelf in pool.stock(spool)],
        "outbox": {
            "messages": load.messages,
            "bytes": load.size_bytes,
            "oldest_seconds": round(load.oldest_seconds, 1),
            "last_error": _last_error(spool),
            "held_back": _held_back(spool, facts.get("link")),
        },
        "inbox": {"bytes": held_bytes(spool)},
        "ledger": ledger.summary(spool, settings),
        "receipts": _receipts(spool),
        "jobs": job_counts(spool),
        "late_results": counters.value(spool, "late"),
        "duplicates": counters.value(spool, "duplicate"),
        "contract": _contract(spool),
        "quarantine": quarantine.names(state),
        "update": _update(spool),
    }


def job_counts(spool: Spool) -> dict[str, int]:
    """Number of jobs by state, of the states that occur; of the ended ones all there ever were, those forgotten since too."""
    by_state = jobs.counts(spool)
    ever = {
        outcome: by_state.get(outcome, 0) + counters.value(spool, counters.FORGOTTEN[outcome])
        for outcome in jobs.ENDED
    }
    return by_state | {outcome: count for outcome, count in ever.items() if count}


def receipt_count(spool: Spool) -> int:
    """Batches that the server says it stored."""
    return int(spool.rows("SELECT count(*) FROM receipts")[0][0])


def _head(spool: Spool, noted_head: dict[str, Any] | None) -> dict[str, Any] | None:
    """What the agent wrote down of the head in use, and whether it must be replaced."""
    return None if noted_head is None else noted_head | {"key_revoked": store.key_revoked(spool)}


def _update(spool: Spool) -> dict[str, Any] | None:
    """The delivered or installed head that something happened to last."""
    with spool.transaction() as transaction:
        row = store.last_changed(transaction)
        expected = arrivals.incoming(transaction)
        there = transaction.execute("SELECT count(*) FROM head_chunks").fetchone()[0]
    if row is None:
        return None
    receiving = expected is not None and expected.bundle == row.bundle
    return {
        "state": row.state,
        "name": row.name,
        "version": row.version,
        "counter": row.counter,
        "reason": row.reason,
        "detail": row.detail,
        "bundle": row.bundle,
        "received": round(there / expected.chunks, 3) if receiving and expected is not None else None,
    }


def _receipts(spool: Spool) -> dict[str, int]:
    row = spool.rows(
        "SELECT count(*), coalesce(sum(samples), 0), coalesce(sum(duplicates), 0) FROM receipts"
    )[0]
    return {"batches": row[0], "samples": row[1], "duplicates": row[2]}


def _held_back(spool: Spool, link: dict[str, Any] | None) -> dict[str, Any] | None:
    """What waits by intent, and why; None when nothing does, or when no agent runs that could say."""
    if link is None:
        return None
    if link["closed_until"] is not None:
        waiting, why = outbox.load(spool), f"the link is closed until {link['closed_until']}"
    elif link["metered"]:
        waiting, why = outbox.held_back(spool), "the link is metered: only requests for images are sent"
    elif link["connected"] and link["bytes_per_second"] is not None:
        waiting, why = outbox.held_back(spool), f"at most {link['bytes_per_second']} bytes a second are sent"
    else:
        return None
    if waiting.messages == 0:
        return None
    return {"messages": waiting.messages, "bytes": waiting.size_bytes, "why": why}


def _last_error(spool: Spool) -> str | None:
    row = spool.row("SELECT last_error FROM outbox WHERE last_error IS NOT NULL ORDER BY sequence LIMIT 1")
    return None if row is None else str(row[0])


def _contract(spool: Spool) -> dict[str, Any] | None:
    latest = contract.latest(spool)
    return None if latest is None else latest.model_dump(mode="json")
