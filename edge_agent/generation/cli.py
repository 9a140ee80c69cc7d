"""`collafuse edge generate`: ask the running agent for images."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from edge_agent.command import Config, Json, State, print_json, say
from edge_agent.settings import EdgeSettings

if TYPE_CHECKING:
    from edge_agent.generation.jobs import Job
    from edge_agent.storage.spool import Spool
    from edge_agent.storage.state import StateDirectory


def generate(
    *,
    count: Annotated[int, typer.Option("--count", help="Images wanted, 1..1024.")] = 16,
    label: Annotated[int | None, typer.Option("--label", help="Class wanted.")] = None,
    seed: Annotated[
        int | None, typer.Option("--seed", help="Same seed, same images; drawn if left out.")
    ] = None,
    ttl: Annotated[
        float | None,
        typer.Option("--ttl", help="Seconds within which the images are of use; left out: always."),
    ] = None,
    head_steps: Annotated[
        int | None, typer.Option("--head-steps", help="Evaluations here; left out: the device's choice.")
    ] = None,
    budget_ms: Annotated[
        float | None,
        typer.Option("--budget-ms", help="Milliseconds of the head for an image; chooses --head-steps."),
    ] = None,
    out: Annotated[Path | None, typer.Option("--out", help="Copy the pictures into this folder.")] = None,
    wait: Annotated[
        bool, typer.Option("--wait/--no-wait", help="Wait for the pictures, or print the job's id.")
    ] = True,
    config: Config = None,
    state: State = None,
    as_json: Json = False,
) -> None:
    """Ask the running agent for images. Without --seed they may come from its stock, also while the server is out of reach."""
    import secrets

    from broker.errors import ConfigError
    from edge_agent import clock
    from edge_agent.generation import jobs, lifecycle, results
    from edge_agent.storage.quarantine import open_spool
    from edge_agent.storage.state import agent_is_running, open_state
    from monitoring.logs import configure

    configure("edge", level="error")
    if out is not None and not wait:
        raise ConfigError("--out needs --wait: without waiting there is nothing to copy yet")
    settings = EdgeSettings.load(config, state=state)
    place = open_state(settings.state)
    if out is not None:
        results.prepare(out)  # nobody should learn after an hour that there is no place for the pictures
    seeded = seed is not None
    seed = secrets.randbelow(2**63) if seed is None else seed
    with open_spool(place, say=say) as spool:
        lifecycle.check_room(spool, settings, count=count, label=label, seeded=seeded)
        job_id = jobs.accept(
            spool,
            count=count,
            label=label,
            seed=seed,
            ttl_seconds=ttl,
            moment=clock.now(),
            seeded=seeded,
            head_steps=head_steps,
            budget_ms=budget_ms,
        )
        if not agent_is_running(place):
            say(
                f"no agent is running on {place.path}: the job waits until one is started with `collafuse edge run`"
            )
        if wait:
            _wait_and_show(spool, place, job_id, out, as_json=as_json)
        elif as_json:
            print_json({"job_id": job_id, "state": "accepted", "seed": seed})
        else:
            print(job_id)


def _wait_and_show(
    spool: "Spool", place: "StateDirectory", job_id: str, out: Path | None, *, as_json: bool
) -> None:
    from edge_agent.errors import JobFailed
    from edge_agent.generation import results
    from edge_agent.generation.waiting import wait_for

    try:
        with _job_bar(spool, quiet=as_json) as look:
            job = wait_for(spool, place, job_id, look)
    except JobFailed as error:
        if as_json:
            print_json({"job_id": job_id, "reason": error.reason, "detail": error.detail})
        raise
    folder = place.results(job_id)
    pictures = sorted(folder.glob("*.png")) if out is None else results.export(folder, out)
    if as_json:
        print_json(
            {
                "job_id": job_id,
                "state": job.state,
                "seed": None if job.source == "pool" else job.seed,
                "source": job.source,
                "folder": str(out or folder),
                "pictures": [str(picture) for picture in pictures],
                "head_seconds": round(job.work_seconds, 4),
            }
        )
    else:
        origin = "from the stock" if job.source == "pool" else f"seed {job.seed}"
        facts = f"{origin}, head {job.work_seconds:.2f} s, job {job_id}"
        print(f"{len(pictures)} pictures in {out or folder} ({facts})")


@contextmanager
def _job_bar(spool: "Spool", *, quiet: bool) -> Iterator[Any]:
    """A progress bar of a job; yields the function that is shown the job, and that says once why it waits."""
    from rich.console import Console
    from rich.progress import Progress

    from edge_agent import status
    from edge_agent.generation.waiting import why_it_waits

    told: list[str] = []
    console = Console(stderr=True)
    with Progress(console=console, disable=quiet or not console.is_terminal, transient=True) as progress:
        task = progress.add_task("accepted", total=None)

        def look(job: "Job", running: bool) -> None:
            words = job.state if running else f"{job.state}, no agent is running"
            total = job.count if job.state == "finishing" else None
            progress.update(task, description=words, completed=job.done, total=total)
            noted = status.noted(spool)
            connected = bool((noted.get("link") or {}).get("connected"))
            has_head = (noted.get("head") or {}).get("identity") is not None
            why = why_it_waits(spool, job, connected=connected, has_head=has_head) if running else None
            if why is not None and why not in told:
                told.append(why)
                say(why)

        yield look
