"""Answers with pictures and arrays of a job's results."""

from collections.abc import Callable
from pathlib import Path

from starlette.responses import FileResponse, Response

from edge_agent.local import picture
from edge_agent.local.office import found_job
from edge_agent.local.operation import Call
from edge_agent.local.problem import Problem
from edge_agent.storage.spool import Spool

# A job's pictures never change, but a page that is left open should not fill the disk of a phone either.
_KEEP = {"Cache-Control": "private, max-age=3600"}


async def finished_png(call: Call) -> Response:
    """An image as the head finished it."""
    return await _png(call, picture.finished)


async def cut_png(call: Call) -> Response:
    """The same image when the head began."""
    return await _png(call, picture.at_cut)


async def steps_png(call: Call) -> Response:
    """All its steps side by side."""
    return await _png(call, picture.film)


async def images_npy(call: Call) -> Response:
    """All finished images as an array."""
    return await _array(call, "images.npy")


async def latents_npy(call: Call) -> Response:
    """All images at the cut as an array."""
    return await _array(call, "latents.npy")


async def _png(call: Call, draw: Callable[[Path, int], bytes]) -> Response:
    index: int = call.values["n"]
    content = await call.office.desk.ask(lambda spool: draw(_folder(call, spool), index))
    name = f"{call.values['job_id'][:8]}-{index:05d}.png"
    return Response(content, 200, _KEEP | {"Content-Disposition": f'inline; filename="{name}"'}, "image/png")


async def _array(call: Call, name: str) -> Response:
    def look(spool: Spool) -> Path:
        path = _folder(call, spool) / name
        if not path.is_file():
            raise Problem(
                404, "no_such_file", f"this job has no {name}; it may have been removed to make room"
            )
        return path

    path = await call.office.desk.ask(look)
    shown = f"{call.values['job_id'][:8]}-{name}"
    # Read without ranges and conditions: a small file, whole or not at all.
    return FileResponse(path, 200, _KEEP, "application/octet-stream", filename=shown)


def _folder(call: Call, spool: Spool) -> Path:
    """The folder of a job's results; its name is made from the id in the spool, never from the request."""
    job = found_job(spool, call.values["job_id"])
    if not job.ended:
        raise Problem(409, "not_finished", f"the images of this job are not finished yet: it is {job.state}")
    if job.state != "completed":
        raise Problem(404, "no_images", f"this job ended without images: {job.detail or job.state}")
    return call.office.state.results(job.job_id)
