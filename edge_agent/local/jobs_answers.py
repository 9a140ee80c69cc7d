"""Answers about jobs: making, showing, listing, cancelling them, and following one as it goes."""

import asyncio
import secrets
from collections.abc import AsyncIterator

from sse_starlette import EventSourceResponse, ServerSentEvent
from starlette.responses import JSONResponse, Response
from starlette.types import Receive, Scope, Send

from edge_agent import clock
from edge_agent.generation import jobs, lifecycle, repeats
from edge_agent.generation.jobs import Job
from edge_agent.generation.repeats import RequestKey
from edge_agent.local import picture
from edge_agent.local.office import MAX_STREAMS, Office, found_job
from edge_agent.local.operation import Call
from edge_agent.local.problem import SOON, Problem
from edge_agent.local.schema import Accepted, ImagesRequest, JobList, JobView
from edge_agent.storage.spool import Spool

LIST_DEFAULT = 20
STREAM_SECONDS = 600
HEARTBEAT_SECONDS = 15
_LOOK_SECONDS = 0.25
_STALLED_SECONDS = 20.0


async def make_images(call: Call) -> Response:
    """Accept a job."""
    office, wish = call.office, call.body
    assert isinstance(wish, ImagesRequest)
    name = call.values.get("idempotency-key")
    key = None if name is None else RequestKey.of(name, call.raw)

    def accept(spool: Spool) -> JobView:
        known = None if key is None else repeats.job_of(spool, key)
        return _view(office, found_job(spool, known or _accept(spool, office, wish, key)))

    view = await office.desk.ask(accept)
    accepted = Accepted(job_id=view.job_id, state=view.state, seed=view.seed, links=view.links)
    return JSONResponse(accepted.model_dump(mode="json"), 202, {"Location": view.links.job})


async def list_jobs(call: Call) -> Response:
    """The newest jobs."""
    office, limit = call.office, call.values.get("limit", LIST_DEFAULT)

    def look(spool: Spool) -> JobList:
        found = jobs.recent(spool, limit + 1, call.values.get("before"))
        shown = [_view(office, job) for job in found[:limit]]
        return JobList(jobs=shown, next=shown[-1].job_id if len(found) > limit else None)

    return JSONResponse((await office.desk.ask(look)).model_dump(mode="json"))


async def show_job(call: Call) -> Response:
    """One job as it stands."""
    view = await _look(call.office, call.values["job_id"])
    return JSONResponse(view.model_dump(mode="json"))


async def cancel_job(call: Call) -> Response:
    """End a job that is not wanted any more; cancelling it again changes nothing."""
    office, job_id = call.office, call.values["job_id"]

    def cancel(spool: Spool) -> JobView:
        found_job(spool, job_id)
        cancelled = jobs.cancel(spool, job_id)
        job = found_job(spool, job_id)
        if not cancelled and job.reason != jobs.CANCELLED:
            raise Problem(409, "ended", f"this job has ended already: it {job.state}")
        return _view(office, job)

    return JSONResponse((await office.desk.ask(cancel)).model_dump(mode="json"))


async def follow_job(call: Call) -> Response:
    """A stream of server-sent events: `progress` whenever the job has moved, and one `end`."""
    office, job_id = call.office, call.values["job_id"]
    view = await _look(office, job_id)
    seen = call.request.headers.get("last-event-id")
    if _is_over(view) and seen == _place(view):
        return Response(status_code=204)  # tells a browser that was there at the end not to come again
    if office.streams >= MAX_STREAMS:
        raise Problem(
            503,
            "too_many_streams",
            f"{MAX_STREAMS} event streams are open, and no more are served: close a page, or ask for the job itself",
            SOON,
        )
    seconds = call.values.get("seconds", STREAM_SECONDS)
    return _Stream(office, _events(office, job_id, seen, seconds))


class _Stream(EventSourceResponse):
    """Counted from the moment that it is granted, so that those who ask at the same time see each other."""

    def __init__(self, office: Office, told: AsyncIterator[ServerSentEvent]) -> None:
        super().__init__(told, ping=HEARTBEAT_SECONDS, send_timeout=_STALLED_SECONDS)
        self._office = office
        office.streams += 1

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Tell until the end, or until nobody listens."""
        try:
            await super().__call__(scope, receive, send)
        finally:
            self._office.streams -= 1


async def _events(
    office: Office, job_id: str, seen: str | None, seconds: float
) -> AsyncIterator[ServerSentEvent]:
    """What happens to a job from now on, the present first unless it was `seen`; ends with the job, or after `seconds`."""
    loop = asyncio.get_running_loop()
    until = loop.time() + seconds
    try:
        while not office.stopping.is_set():
            view = await _look(office, job_id)
            if _place(view) != seen:
                seen = _place(view)
                kind = "end" if _is_over(view) else "progress"
                yield ServerSentEvent(view.model_dump_json(), event=kind, id=seen)
            if _is_over(view) or loop.time() >= until:
                return
            await asyncio.sleep(_LOOK_SECONDS)
    except Problem:
        return  # the job was cleaned away


async def _look(office: Office, job_id: str) -> JobView:
    return await office.desk.ask(lambda spool: _view(office, found_job(spool, job_id)))


def _place(view: JobView) -> str:
    """How far the job is: the id of its event."""
    return f"{view.state}-{view.done}"


def _is_over(view: JobView) -> bool:
    return view.state in jobs.ENDED


def _accept(spool: Spool, office: Office, wish: ImagesRequest, key: RequestKey | None) -> str:
    seeded = wish.seed is not None
    lifecycle.check_room(spool, office.settings, count=wish.count, label=wish.label, seeded=seeded)
    return jobs.accept(
        spool,
        count=wish.count,
        label=wish.label,
        # A drawn seed is one that every reader of JSON can hold, and so can be asked for again.
        seed=secrets.randbelow(2**53) if wish.seed is None else wish.seed,
        ttl_seconds=wish.deadline_seconds,
        moment=clock.now(),
        seeded=seeded,
        head_steps=wish.steps,
        budget_ms=wish.budget_ms,
        key=key,
    )


def _view(office: Office, job: Job) -> JobView:
    folder = office.state.results(job.job_id)
    done = job.state == "completed"
    return JobView.of(
        job,
        clock.now(),
        picture.names(folder) if done else frozenset(),
        picture.frames(folder) if done else None,
    )
