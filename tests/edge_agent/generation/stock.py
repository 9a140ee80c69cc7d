"""A server and a stock without a broker between them: requests are read from the outbox, answers are given to the inbox."""

from pathlib import Path
from typing import Any

import numpy as np

from broker import codec
from broker.contract.denoise import DenoiseV1, LatentsV1
from broker.contract.message import Message
from diffusion.schedule import NoiseSchedule
from edge_agent import inbox
from edge_agent.generation import pool
from edge_agent.generation.pool import Stock
from edge_agent.generation.pool_keeper import PoolKeeper
from edge_agent.heads.facts import HeadFacts
from edge_agent.heads.head import Head
from edge_agent.storage.spool import Spool
from edge_agent.storage.state import StateDirectory
from tests.edge_agent.letters import Letter


def sent(spool: Spool) -> list[DenoiseV1]:
    """The requests for the stock in the outbox, oldest first."""
    rows = spool.rows("SELECT type, body FROM outbox WHERE kind = 'prefetch' ORDER BY sequence")
    found = [codec.decode(row[0], row[1]) for row in rows]
    assert all(isinstance(request, DenoiseV1) for request in found)
    return [request for request in found if isinstance(request, DenoiseV1)]


def confirm(spool: Spool) -> None:
    """The broker has taken all that was in the outbox."""
    with spool.transaction() as transaction:
        transaction.execute("DELETE FROM outbox")


def part(request: DenoiseV1, start: int, count: int, **changes: Any) -> LatentsV1:
    """Samples that know whose they are: their first value is the sample's index, their second the seed's last digits."""
    x = np.zeros((count, *request.shape), request.dtype)
    x[:, 0, 0, 0] = np.arange(start, start + count)
    x[:, 0, 0, 1] = request.seed % 2048
    fields: dict[str, Any] = {
        "request_id": request.request_id,
        "part": 0,
        "parts": 2,
        "first": start,
        "x": x,
        "t_stop": request.t_stop,
        "schedule_id": request.schedule_id,
        "backbone_version": 1,
        "evaluations": 16,
        "step_seconds": 0.01,
        "queued_seconds": 0.0,
    }
    return LatentsV1(**(fields | changes))


def deliver(spool: Spool, message: Message) -> str:
    """Give a message to the inbox; returns what became of it."""
    return inbox.take(spool, Letter(message))


def answer(spool: Spool, request: DenoiseV1, **changes: Any) -> str:
    """Answer a whole request in one part."""
    return deliver(spool, part(request, 0, request.n, **changes))


def shelf(spool: Spool, label: int | None = None) -> Stock:
    """The shelf of a label."""
    (found,) = [each for each in pool.stock(spool) if each.label == label]
    return found


def stocked(state: StateDirectory, bundle: Path, settings: Any) -> None:
    """A stock of eight samples of label 1, without a server."""
    manifest = Head.load(bundle, "cpu", 1).manifest
    facts = HeadFacts(
        "ward", NoiseSchedule.cosine(200), manifest.t_cut, manifest.image_shape, manifest.num_classes
    )
    with Spool(state.spool) as spool:
        keeper = PoolKeeper(
            spool, settings(pool_images=8, pool_labels=(1,)), lambda: facts, lambda: True, lambda: None
        )
        keeper.turn()
        (request,) = sent(spool)
        confirm(spool)
        assert answer(spool, request) == "kept"
