"""What the device can say of itself: link, outbox, ledger, receipts, jobs, head, stock, plan, contract."""

import json
from dataclasses import asdict
from typing import Any

from edge_agent.generation import jobs, pool
from edge_agent.link import contract, outbox
from edge_agent.storage.spool import Spool
from edge_agent.storage.state import StateDirectory, agent_is_running


def note(spool: Spool, facts: dict[str, Any]) -> None:
    """The agent writes down what only it knows, for the status command; keys not named stay as they are."""
    with spool.transaction() as transaction:
        transaction.executemany(
            "INSERT INTO agent (key, value) VALUES (?, ?) ON CONFLICT (key) DO UPDATE SET value = excluded.value",
            [(key, json.dumps(value)) for key, value in facts.items()],
        )


def noted(spool: Spool) -> dict[str, Any]:
    """What the agent wrote down last."""
    return {row["key"]: json.loads(row["value"]) for row in spool.rows("SELECT key, value FROM agent")}


def collect(state: StateDirectory, spool: Spool) -> dict[str, Any]:
    """Everything `edge status --json` prints. What only a running agent knows is None when none runs."""
    running = agent_is_running(state)
    facts = noted(spool) if running else {}
    load = outbox.load(spool)
    return {
        "state": str(state.path),
        "agent": {"running": running, "pid": facts.get("pid"), "metrics_port": facts.get("metrics_port")},
        "link": facts.get("link"),
        "head": facts.get("head"),
        "plan": facts.get("plan"),
        "pool": [asdict(shelf) for shelf in pool.stock(spool)],
        "outbox": {
            "messages": load.messages,
            "bytes": load.size_bytes,
            "oldest_seconds": round(load.oldest_seconds, 1),
            "last_error": _last_error(spool),
        },
        "ledger": ledger(spool),
        "receipts": _receipts(spool),
        "jobs": jobs.counts(spool),
        "late_results": counter(spool, "late"),
        "duplicates": counter(spool, "duplicate"),
        "contract": _contract(spool),
    }


def ledger(spool: Spool) -> dict[str, int]:
    """Images released at least once, and releases altogether."""
    row = spool.rows("SELECT count(DISTINCT image), count(*) FROM ledger")[0]
    return {"images": row[0], "releases": row[1]}


def counter(spool: Spool, name: str) -> int:
    """A counter that survives restarts."""
    row = spool.row("SELECT value FROM counters WHERE name = ?", (name,))
    return 0 if row is None else int(row[0])


def receipt_count(spool: Spool) -> int:
    """Batches that the server says it stored."""
    return int(spool.rows("SELECT count(*) FROM receipts")[0][0])


def _receipts(spool: Spool) -> dict[str, int]:
    row = spool.rows(
        "SELECT count(*), coalesce(sum(samples), 0), coalesce(sum(duplicates), 0) FROM receipts"
    )[0]
    return {"batches": row[0], "samples": row[1], "duplicates": row[2]}


def _last_error(spool: Spool) -> str | None:
    row = spool.row("SELECT last_error FROM outbox WHERE last_error IS NOT NULL ORDER BY sequence LIMIT 1")
    return None if row is None else str(row[0])


def _contract(spool: Spool) -> dict[str, Any] | None:
    latest = contract.latest(spool)
    return None if latest is None else latest.model_dump(mode="json")
