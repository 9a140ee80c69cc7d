"""What the local API says when it cannot do what was asked: RFC 9457 problem documents, one sentence each."""

from http import HTTPStatus
from typing import Any

import structlog
from starlette.responses import JSONResponse, Response

from edge_agent.errors import EdgeError, JobRefused, KeyReused, OutboxFull, SpoolError, SpoolFull
from monitoring.errors import CollafuseError, Disposition

log = structlog.get_logger(__name__)

MEDIA_TYPE = "application/problem+json"
SOON = {"Retry-After": "5"}
"""Headers of a problem that passes by itself: seconds until another try is worth it."""


class Problem(EdgeError):
    """An answer that is not what was asked for.

    status: of HTTP.  reason: a short code in lower case with underscores, for programs; the message is for people.
    """

    disposition = Disposition.DEAD_LETTER

    def __init__(self, status: int, reason: str, detail: str, headers: dict[str, str] | None = None) -> None:
        super().__init__(detail)
        self.status = status
        self.reason = reason
        self.headers = headers or {}


def answer_of(error: Exception) -> Response:
    """The response to a request that ended with `error`; what nobody expected is logged and told as little as possible."""
    problem = error if isinstance(error, Problem) else _problem_of(error)
    content: dict[str, Any] = {
        "type": "about:blank",
        "title": HTTPStatus(problem.status).phrase,
        "status": problem.status,
        "detail": str(problem),
        "reason": problem.reason,
    }
    return JSONResponse(content, problem.status, problem.headers, MEDIA_TYPE)


def _problem_of(error: Exception) -> Problem:
    match error:
        case OutboxFull() | SpoolFull():
            return Problem(
                507, "outbox_full" if isinstance(error, OutboxFull) else "disk_full", str(error), SOON
            )
        case SpoolError():
            log.warning("page_without_spool", error=str(error))
            return Problem(503, "spool_unusable", str(error), SOON)
        case KeyReused():
            return Problem(409, "key_reused", str(error))
        case JobRefused():
            return Problem(429, "job_refused", str(error), SOON)
        case CollafuseError():
            log.warning("page_problem", error=str(error))
            return Problem(500, "failed", str(error))
        case _:
            log.error("page_failed", error=repr(error), exc_info=error)
            return Problem(500, "internal", "the agent could not answer: its log says why")
