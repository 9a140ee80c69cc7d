"""Asking again for what was never answered.

A request that the broker has confirmed may still come to nothing: a worker set it aside, a queue was purged. So the device counts
for how long it has been connected since the confirm, in the spool, so that a reboot forgets at most half a minute of it; while it
is not connected no answer could have come, and the time does not count. Then it sends the same message again, under the same id:
the server recognises or repeats the work, with the same result, and of two answers the device keeps the longer parts.
"""

import sqlite3
from collections.abc import Callable
from dataclasses import dataclass

import structlog

from broker import codec
from broker.contract.denoise import DenoiseV1
from broker.errors import Refused
from edge_agent import clock
from edge_agent.clock import Moment
from edge_agent.errors import OutboxFull
from edge_agent.generation import jobs, latents
from edge_agent.link import outbox
from edge_agent.settings import EdgeSettings
from edge_agent.storage.spool import Spool

log = structlog.get_logger(__name__)

MAX_REPEATS = 10
_COUNT_SECONDS = 30.0


@dataclass(frozen=True)
class _Unanswered:
    """A request that left and was not answered in full; `repeats` says how often it was asked again."""

    request_id: str
    job_id: str
    samples: int
    repeats: int
    body: bytes


class Reasker:
    """A duty of the agent: asks again after `reask_seconds`, then twice as long, and so on; at the end the job fails.

    connected: whether the link stands.  moment: the kernel's boot clock.
    """

    def __init__(
        self,
        spool: Spool,
        settings: EdgeSettings,
        connected: Callable[[], bool],
        *,
        moment: Callable[[], Moment] = clock.now,
    ) -> None:
        self._spool = spool
        self._settings = settings
        self._connected = connected
        self._moment = moment
        self._looked_at: float | None = None
        self._uncounted_seconds = 0.0
        self._count_seconds = min(_COUNT_SECONDS, settings.reask_seconds / 4)

    def turn(self) -> None:
        """Count the time, and now and then ask again. Raises SpoolFull when that cannot be written down."""
        now = self._moment().seconds
        if self._looked_at is not None:
            self._uncounted_seconds += now - self._looked_at
        self._looked_at = now if self._connected() else None
        if self._uncounted_seconds < self._count_seconds:
            return
        passed, self._uncounted_seconds = self._uncounted_seconds, 0.0
        if not jobs.unfinished(self._spool, "requested", "partial"):
            return
        with self._spool.transaction() as transaction:
            _count(transaction, passed)
        for request in self._overdue():
            self._deal_with(request)

    def _overdue(self) -> list[_Unanswered]:
        rows = self._spool.rows(
            "SELECT request_id, job_id, samples, repeats, body FROM requests"
            " WHERE body IS NOT NULL AND waited_seconds >= ? * (1 << repeats) ORDER BY waited_seconds DESC",
            (self._settings.reask_seconds,),
        )
        return [_Unanswered(*row) for row in rows]

    def _deal_with(self, request: _Unanswered) -> None:
        job = jobs.find(self._spool, request.job_id)
        if job is None or job.remaining_seconds(self._moment()) == 0.0:
            return  # about to be expired
        try:
            with self._spool.transaction() as transaction:
                if latents.is_answered(transaction, request.request_id, request.samples):
                    return
                question = _question(request.body)
                if question is None or request.repeats >= MAX_REPEATS:
                    _give_up(transaction, request)
                else:
                    self._ask_again(transaction, request, question)
        except OutboxFull as error:
            log.warning(
                "request_waits_for_outbox",
                job_id=request.job_id,
                request_id=request.request_id,
                error=str(error),
            )

    def _ask_again(self, transaction: sqlite3.Connection, request: _Unanswered, question: DenoiseV1) -> None:
        transaction.execute(
            "UPDATE requests SET repeats = repeats + 1, waited_seconds = 0 WHERE request_id = ?",
            (request.request_id,),
        )
        outbox.put_request(transaction, question, request.job_id, self._settings.outbox_max_bytes)
        log.warning(
            "request_repeated",
            job_id=request.job_id,
            request_id=request.request_id,
            repeats=request.repeats + 1,
        )


def _question(body: bytes) -> DenoiseV1 | None:
    """The request as it was asked; None when another version of the program wrote it and this one cannot read it."""
    try:
        message = codec.decode(DenoiseV1.type_name, body)
    except Refused:
        return None
    return message if isinstance(message, DenoiseV1) else None


def _count(transaction: sqlite3.Connection, seconds: float) -> None:
    """So much longer have requests waited that are no longer in the outbox; ended jobs have none."""
    transaction.execute(
        "UPDATE requests SET waited_seconds = waited_seconds + ?"
        " WHERE request_id NOT IN (SELECT message_id FROM outbox)",
        (seconds,),
    )


def _give_up(transaction: sqlite3.Connection, request: _Unanswered) -> None:
    detail = f"the server was asked {request.repeats + 1} times and did not answer; is a denoise worker running? ask again"
    jobs.end(transaction, request.job_id, "failed", reason="no_answer", detail=detail)
    log.warning("job_failed", job_id=request.job_id, reason="no_answer", error=detail)
