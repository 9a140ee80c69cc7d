"""The log lines of one image, as device and server write them, with clocks that the test sets."""

import json
from datetime import UTC, datetime
from typing import Any

JOB, REQUEST, STOCK_REQUEST = "a" * 32, "b" * 32, "c" * 32
OTHER_JOB, OTHER_REQUEST = "d" * 32, "e" * 32
BEGIN = datetime(2026, 3, 2, 10, 0, 0, tzinfo=UTC).timestamp()


def line(process: str, at: float, event: str, **fields: Any) -> str:
    """One line, `at` seconds after the beginning."""
    stamp = datetime.fromtimestamp(BEGIN + at, UTC).isoformat().replace("+00:00", "Z")
    return json.dumps({"event": event, "level": "info", "process": process, "timestamp": stamp, **fields})


def device(job: str = JOB, request: str = REQUEST, *, at: float = 0.0, of_cli: bool = False) -> list[str]:
    """A device's: accepted, waits 1 s, sends after 0.5 s, has its answer 5 s later, and is done 2 s after that."""
    accepted = [] if of_cli else [line("edge", at, "job_accepted", job_id=job, count=2)]
    both = {"job_id": job, "request_id": request}
    return [
        *accepted,
        line("edge", at + 1.0, "job_started", job_id=job, count=2, asks_the_server=True, waited_seconds=1.0),
        line("edge", at + 1.5, "request_sent", **both, size_bytes=300),
        line("edge", at + 1.6, "request_confirmed", **both, size_bytes=300),
        line("edge", at + 6.5, "part_received", **both, first=0, samples=2, version=1),
        line("edge", at + 7.0, "head_begun", job_id=job, count=2, evaluations=4),
        line("edge", at + 9.0, "job_completed", job_id=job, count=2, first_time=True),
    ]


def worker(
    job: str | None = JOB, request: str = REQUEST, *, at: float = 0.0, user: str = "ward_one"
) -> list[str]:
    """A denoise worker's: taken 0.25 s after it was sent, begun 0.5 s later, computed in 3 s."""
    both = {"job_id": job, "request_id": request}
    return [
        line("denoise", at + 1.75, "request_taken", **both, user=user, samples=2, evaluations=16, version=1),
        line("denoise", at + 2.25, "request_begun", **both),
        line("denoise", at + 5.25, "part_sent", **both, first=0, samples=2),
        line("denoise", at + 5.25, "request_computed", **both, calls=16, step_seconds=0.01),
        line("denoise", at + 5.50, "request_ended", **both, user=user, outcome="completed", seconds=3.75),
    ]


def stock(*, at: float) -> tuple[list[str], list[str]]:
    """Device's and worker's lines of a request for the stock, which has no job."""
    its = {"request_id": STOCK_REQUEST, "job_id": None}
    on_device = [
        line("edge", at, "stock_asked_for", request_id=STOCK_REQUEST, samples=4, label=None, renews=None),
        line("edge", at + 0.5, "request_sent", **its, size_bytes=300),
        line("edge", at + 6.5, "part_received", **its, first=0, samples=4, version=1),
    ]
    return on_device, worker(None, STOCK_REQUEST, at=at)
