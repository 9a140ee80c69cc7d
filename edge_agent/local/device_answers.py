"""Answers about the device itself: its status, its ledger, its metrics, and whether the page answers at all."""

import asyncio
import time
from datetime import UTC, datetime
from typing import Any

from prometheus_client import CONTENT_TYPE_LATEST, generate_latest
from starlette.responses import JSONResponse, Response

from edge_agent import status
from edge_agent.local.office import Office
from edge_agent.local.operation import Call
from edge_agent.local.schema import Health, Ledger, LedgerImage
from edge_agent.storage.spool import Spool

LIST_DEFAULT = 50
_FRESH_SECONDS = 1.0


class StatusBoard:
    """The status as it was a moment ago: many open pages ask for it, and counting the ledger takes a while."""

    def __init__(self) -> None:
        self._lock = asyncio.Lock()
        self._facts: dict[str, Any] = {}
        self._at = float("-inf")

    async def read(self, office: Office) -> dict[str, Any]:
        """Everything `edge status --json` prints, at most a second old."""
        async with self._lock:
            if time.monotonic() - self._at > _FRESH_SECONDS:
                self._facts = await office.desk.ask(
                    lambda spool: status.collect(office.state, spool, office.settings)
                )
                self._at = time.monotonic()
            return self._facts


async def show_status(call: Call) -> Response:
    """How the device stands."""
    board: StatusBoard = call.request.app.state.board
    return JSONResponse(await board.read(call.office))


async def show_ledger(call: Call) -> Response:
    """What was released, image by image."""
    limit, after = call.values.get("limit", LIST_DEFAULT), call.values.get("after", "")
    board: StatusBoard = call.request.app.state.board
    summary = (await board.read(call.office))["ledger"]
    found = await call.office.desk.ask(lambda spool: _released(spool, limit + 1, after))
    shown = found[:limit]
    more = shown[-1].image if len(found) > limit else None
    return JSONResponse(Ledger(summary=summary, images=shown, next=more).model_dump(mode="json"))


async def show_metrics(call: Call) -> Response:
    """The agent's metrics for Prometheus."""
    content = await call.office.desk.ask(lambda _spool: generate_latest(call.office.registry))
    return Response(content, headers={"Content-Type": CONTENT_TYPE_LATEST})


async def show_health(_call: Call) -> Response:
    """Whether the page answers."""
    return JSONResponse(Health().model_dump())


def _released(spool: Spool, limit: int, after: str) -> list[LedgerImage]:
    rows = spool.rows(
        "SELECT image, count(*), min(t_cut), max(released_at) FROM ledger WHERE image > ? GROUP BY image"
        " ORDER BY image LIMIT ?",
        (after, limit),
    )
    return [
        LedgerImage(
            image=row[0],
            releases=row[1],
            t_cut=row[2],
            last_released_at=datetime.fromtimestamp(row[3], UTC),
        )
        for row in rows
    ]
