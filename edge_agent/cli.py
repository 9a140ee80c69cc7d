"""`collafuse edge`: run the agent, contribute images, train a head, make images, see how it stands.

Everything heavy is imported inside the commands, so that help appears at once.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from broker.options import options_of
from edge_agent.fleet.cli import simulate
from edge_agent.heads import cli as heads_cli
from edge_agent.settings import EdgeSettings

if TYPE_CHECKING:
    from broker.settings import BrokerSettings
    from edge_agent.generation.jobs import Job
    from edge_agent.release.contribution import Summary
    from edge_agent.storage.spool import Spool
    from edge_agent.storage.state import StateDirectory

app = typer.Typer(help="The device: release images once, finish pictures locally.", no_args_is_help=True)
app.add_typer(heads_cli.app, name="head")
app.command()(simulate)

Config = Annotated[
    Path | None,
    typer.Option("--config", help="TOML file, such as the one written by `collafuse broker enroll`."),
]
State = Annotated[
    Path | None, typer.Option("--state", help="Directory of the device  [default: .collafuse/edge]")
]
Json = Annotated[bool, typer.Option("--json", help="Print one JSON object.")]
CutRatio = Annotated[
    float | None, typer.Option("--cut-ratio", help="The client's share of the chain, 0..1  [default: 0.2]")
]
Schedule = Annotated[str | None, typer.Option("--schedule", help="cosine or linear  [default: cosine]")]
ScheduleSteps = Annotated[
    int | None, typer.Option("--schedule-steps", help="T of the schedule  [default: 1000]")
]


@app.command()
@options_of(EdgeSettings)
def run(
    *,
    config: Config = None,
    log_level: Annotated[str, typer.Option("--log-level", help="debug, info, warning or error.")] = "info",
    **flags: Any,
) -> None:
    """Run the agent until it is told to stop; it starts and works without a broker, and connects when it can."""
    from edge_agent.process import serve_device
    from monitoring.logs import configure

    configure("edge", level=log_level)
    settings = EdgeSettings.load(config, **flags)
    serve_device(settings, _broker(settings))


@app.command()
def contribute(
    path: Annotated[Path, typer.Argument(help="Folder of pictures, or .npz with images (and labels).")],
    *,
    labels: Annotated[Path | None, typer.Option("--labels", help="CSV file of file and label.")] = None,
    config: Config = None,
    state: State = None,
    schedule: Schedule = None,
    schedule_steps: ScheduleSteps = None,
    cut_ratio: CutRatio = None,
    dtype: Annotated[
        str | None, typer.Option("--dtype", help="float16, float32 or int8 on the wire  [default: float16]")
    ] = None,
    releases: Annotated[
        int | None,
        typer.Option("--releases", help="How often an image may be released in its life  [default: 1]"),
    ] = None,
    clip_norm: Annotated[
        float | None, typer.Option("--clip-norm", help="Largest L2 norm of an image.")
    ] = None,
    as_json: Json = False,
) -> None:
    """Release images, each once: noised here, kept in the outbox until the broker has them. Needs no broker and no agent."""
    from dataclasses import asdict

    from edge_agent.errors import BudgetExceeded
    from edge_agent.release import contribution
    from edge_agent.release.images import open_images
    from edge_agent.storage.quarantine import open_spool
    from edge_agent.storage.state import contribution_lock, open_state
    from monitoring.logs import configure

    configure("edge", level="error")
    settings = EdgeSettings.load(
        config,
        state=state,
        schedule=schedule,
        schedule_steps=schedule_steps,
        cut_ratio=cut_ratio,
        release_dtype=dtype,
        releases=releases,
        clip_norm=clip_norm,
    )
    source = open_images(path, labels)
    place = open_state(settings.state)
    with (
        contribution_lock(place),
        open_spool(place, say=_say, verify=True) as spool,
        _bar("releasing", len(source), quiet=as_json) as update,
    ):
        summary = contribution.contribute(spool, source, place.secret(), settings, update)
    if as_json:
        _print_json(asdict(summary))
    else:
        _show_contribution(summary)
    if summary.reason is not None and summary.released == 0:
        raise BudgetExceeded(summary.reason)
    if summary.reason is not None:
        _say(summary.reason)


@app.command()
def train(
    data: Annotated[Path, typer.Argument(help="Folder of pictures, or .npz with images (and labels).")],
    *,
    out: Annotated[Path, typer.Option("--out", help="Where the head's checkpoint goes.")],
    config: Config = None,
    client: Annotated[
        str | None, typer.Option("--client", help="Whose head it is; from --config if left out.")
    ] = None,
    schedule: Schedule = None,
    schedule_steps: ScheduleSteps = None,
    cut_ratio: CutRatio = None,
    steps: Annotated[int, typer.Option("--steps", help="Optimiser steps.")] = 400,
    batch_size: Annotated[int, typer.Option("--batch-size", help="Images per step.")] = 64,
    base_channels: Annotated[int, typer.Option("--base-channels", help="Width of the network.")] = 24,
    learning_rate: Annotated[float, typer.Option("--learning-rate", help="Peak of the optimiser's.")] = 4e-3,
    num_classes: Annotated[int | None, typer.Option("--num-classes", help="Labels; left out: none.")] = None,
    seed: Annotated[int, typer.Option("--seed", help="Of weights, order and noise.")] = 0,
    threads: Annotated[int, typer.Option("--threads", help="CPU threads.")] = 1,
    as_json: Json = False,
) -> None:
    """Train the client's head on clean images, on this machine alone; needs the extra `train`."""
    from broker.errors import ConfigError
    from edge_agent.training.head_training import HeadTraining, TrainingProgress, train_head

    settings = EdgeSettings.load(
        config, client=client, schedule=schedule, schedule_steps=schedule_steps, cut_ratio=cut_ratio
    )
    if settings.client is None:
        raise ConfigError(
            "it is not said whose head this is: give --client, or --config with the credentials file"
        )
    training = HeadTraining(
        client=settings.client,
        schedule=settings.schedule,
        timesteps=settings.schedule_steps,
        cut=settings.cut_ratio,
        steps=steps,
        batch_size=batch_size,
        base_channels=base_channels,
        learning_rate=learning_rate,
        num_classes=num_classes,
        seed=seed,
        threads=threads,
    )
    last: list[TrainingProgress] = []
    with _bar("training", steps, quiet=as_json) as update:

        def on_progress(progress: TrainingProgress) -> None:
            last[:] = [progress]
            update(progress.step)

        train_head(data, out, training, on_progress)
    loss = last[0].loss if last else None
    if as_json:
        _print_json({"checkpoint": str(out), "steps": steps, "loss": loss})
        return
    print(f"{out}: {steps} steps, loss {'unknown' if loss is None else format(loss, '.4f')}")


@app.command()
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
    from edge_agent.generation import jobs, lifecycle
    from edge_agent.storage.quarantine import open_spool
    from edge_agent.storage.state import agent_is_running, open_state
    from monitoring.logs import configure

    configure("edge", level="error")
    if out is not None and not wait:
        raise ConfigError("--out needs --wait: without waiting there is nothing to copy yet")
    settings = EdgeSettings.load(config, state=state)
    place = open_state(settings.state)
    seeded = seed is not None
    seed = secrets.randbelow(2**63) if seed is None else seed
    with open_spool(place, say=_say) as spool:
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
            _say(
                f"no agent is running on {place.path}: the job waits until one is started with `collafuse edge run`"
            )
        if wait:
            _wait_and_show(spool, place, job_id, out, as_json=as_json)
        elif as_json:
            _print_json({"job_id": job_id, "state": "accepted", "seed": seed})
        else:
            print(job_id)


@app.command()
def ledger(
    *,
    image: Annotated[
        Path | None,
        typer.Option("--image", help="Only these images: a picture, a folder of them, or .npz."),
    ] = None,
    limit: Annotated[int, typer.Option("--limit", min=1, help="Lines at most; the dearest come first.")] = 20,
    group: Annotated[
        int, typer.Option("--group", min=1, help="On how many of the images one person may be.")
    ] = 1,
    config: Config = None,
    state: State = None,
    as_json: Json = False,
) -> None:
    """Show what each image has cost: releases, cuts, mu, and epsilon at delta, which bounds what can be learnt of it."""
    from rich.console import Console
    from rich.table import Table

    from edge_agent.release import ledger, statement
    from edge_agent.release.images import digests
    from edge_agent.storage.quarantine import open_spool
    from edge_agent.storage.state import open_state
    from monitoring.logs import configure

    configure("edge", level="error")
    settings = EdgeSettings.load(config, state=state)
    place = open_state(settings.state)
    with open_spool(place, say=_say) as spool:
        ledger.fill_in(spool, settings)
        chosen = None if image is None else digests(image)
        accounts = ledger.accounts(spool, settings, limit=limit, images=chosen)
        total = ledger.summary(spool, settings)
    if as_json:
        _print_json(statement.as_json(total, accounts, group))
        return
    if not accounts:
        print("nothing was released" if image is None else f"{image} was never released by this device")
    else:
        table = Table("image", "releases", "cuts", "mu", f"epsilon at {settings.delta:g}")
        for account in accounts:
            table.add_row(*statement.row(account))
        Console().print(table)
    for line in statement.as_lines(total, accounts[0] if accounts else None, group):
        print(line)


@app.command()
def status(*, config: Config = None, state: State = None, as_json: Json = False) -> None:
    """Show link, outbox, ledger, receipts, jobs, head and contract."""
    from rich.console import Console
    from rich.table import Table

    from edge_agent.status import collect
    from edge_agent.storage.quarantine import open_spool
    from edge_agent.storage.state import open_state
    from monitoring.logs import configure

    configure("edge", level="error")
    settings = EdgeSettings.load(config, state=state)
    place = open_state(settings.state)
    with open_spool(place, say=_say) as spool:
        facts = collect(place, spool, settings)
    if as_json:
        _print_json(facts)
        return
    table = Table("what", "how it stands", title=str(place.path))
    for name, value in facts.items():
        if name != "state":
            table.add_row(name, _in_words(value))
    Console().print(table)


def _broker(settings: "EdgeSettings") -> "BrokerSettings":
    """Where the broker is; refuses credentials of another device than the one named."""
    from broker.errors import ConfigError
    from broker.names import user_name

    broker = settings.broker()
    if settings.client and settings.device and user_name(settings.client, settings.device) != broker.user:
        raise ConfigError(
            f"the broker URL logs in as {broker.user!r}, but client and device are {settings.client!r} and"
            f" {settings.device!r}: use the credentials file of this device"
        )
    return broker


def _show_contribution(summary: "Summary") -> None:
    print(
        f"{summary.released} releases in {summary.batches} messages; released before: {summary.released_before}"
    )
    if summary.held_back:
        print(f"held back: {summary.held_back} images that the server asks nothing more of now")
    if summary.labels_withheld:
        print("labels were not sent: the server asks for none")


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
            _print_json({"job_id": job_id, "reason": error.reason, "detail": error.detail})
        raise
    folder = place.results(job_id)
    pictures = sorted(folder.glob("*.png")) if out is None else results.export(folder, out)
    if as_json:
        _print_json(
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
        print(f"{len(pictures)} pictures in {out or folder} ({origin}, head {job.work_seconds:.2f} s)")


@contextmanager
def _bar(what: str, total: int, *, quiet: bool) -> Iterator[Any]:
    """A progress bar on stderr; yields the function that is told how much is done."""
    from rich.console import Console
    from rich.progress import Progress

    console = Console(stderr=True)
    with Progress(console=console, disable=quiet or not console.is_terminal, transient=True) as progress:
        task = progress.add_task(what, total=total)
        yield lambda done: progress.update(task, completed=done)


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
            connected = bool((status.noted(spool).get("link") or {}).get("connected"))
            why = why_it_waits(spool, job, connected=connected) if running else None
            if why is not None and why not in told:
                told.append(why)
                _say(why)

        yield look


def _in_words(value: Any) -> str:
    if value is None:
        return "none"
    if isinstance(value, dict):
        return ", ".join(f"{key} {_in_words(inner)}" for key, inner in value.items()) or "none"
    if isinstance(value, list):
        return "; ".join(map(_in_words, value)) or "none"
    if isinstance(value, bool):
        return "yes" if value else "no"
    return str(value)


def _say(message: str) -> None:
    import sys

    print(message, file=sys.stderr)


def _print_json(value: dict[str, Any]) -> None:
    import json

    print(json.dumps(value))
