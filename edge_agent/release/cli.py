"""`collafuse edge contribute` and `collafuse edge ledger`: giving images away, and what that has cost."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from edge_agent.command import Config, CutRatio, Json, Schedule, ScheduleSteps, State, bar, print_json, say
from edge_agent.settings import EdgeSettings

if TYPE_CHECKING:
    from edge_agent.release.contribution import Summary


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
        str | None, typer.Option("--dtype", help="float16, float32 or int8 on the wire (default float16)")
    ] = None,
    releases: Annotated[
        int | None,
        typer.Option("--releases", help="How often an image may be released in its life (default 1)"),
    ] = None,
    clip_norm: Annotated[
        float | None, typer.Option("--clip-norm", help="Largest L2 norm of an image.")
    ] = None,
    outbox_max_bytes: Annotated[
        int | None,
        typer.Option(
            "--outbox-max-bytes",
            help="Quota of messages waiting for the broker, as for `edge run` (default 268435456)",
        ),
    ] = None,
    new_secret: Annotated[
        bool,
        typer.Option(
            "--new-secret", help="Go on with a new device secret when the old one is lost for ever."
        ),
    ] = False,
    as_json: Json = False,
) -> None:
    """Release images, each once: noised here, kept in the outbox until the broker has them. Needs no broker and no agent."""
    from dataclasses import asdict

    from edge_agent.errors import BudgetExceeded
    from edge_agent.release import contribution
    from edge_agent.release.images import open_images
    from edge_agent.release.ledger import release_count
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
        outbox_max_bytes=outbox_max_bytes,
    )
    source = open_images(path, labels)
    place = open_state(settings.state)
    with (
        contribution_lock(place),
        open_spool(place, say=say, verify=True) as spool,
        bar("releasing", len(source), quiet=as_json) as update,
    ):
        secret = place.secret(released=release_count(spool) > 0, new=new_secret)
        summary = contribution.contribute(spool, source, secret, settings, update)
    if as_json:
        print_json(asdict(summary))
    else:
        _show_contribution(summary, "folder" if path.is_dir() else "file")
    if summary.reason is not None and summary.released == 0:
        raise BudgetExceeded(summary.reason)
    if summary.reason is not None:
        say(summary.reason)


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
    acknowledge_loss: Annotated[
        bool,
        typer.Option(
            "--acknowledge-loss",
            help="You know that releases may be missing here: a device with a budget releases again.",
        ),
    ] = False,
    config: Config = None,
    state: State = None,
    as_json: Json = False,
) -> None:
    """Show what each image has cost: releases, cuts, mu, and epsilon at delta, which bounds what can be learnt of it."""
    from rich.console import Console
    from rich.table import Table

    from edge_agent.release import ledger, statement
    from edge_agent.release.images import digests
    from edge_agent.storage import loss
    from edge_agent.storage.quarantine import open_spool
    from edge_agent.storage.reconciliation import reconcile
    from edge_agent.storage.state import open_state
    from monitoring.logs import configure

    configure("edge", level="error")
    settings = EdgeSettings.load(config, state=state)
    place = open_state(settings.state)
    with open_spool(place, say=say) as spool:
        reconcile(spool)
        if acknowledge_loss and not loss.acknowledge(spool):
            say("nothing is missing that was not acknowledged before")
        chosen = None if image is None else digests(image)
        accounts = ledger.accounts(spool, settings, limit=limit, images=chosen)
        total = ledger.summary(spool, settings)
    if as_json:
        print_json(statement.as_json(total, accounts, group))
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


def _show_contribution(summary: "Summary", source: str) -> None:
    print(
        f"{summary.released} releases in {summary.batches} messages; released before: {summary.released_before}"
    )
    if summary.repeated:
        print(
            f"repeated in this {source}: {summary.repeated} (the same picture again: nothing more is released of it)"
        )
    if summary.held_back:
        print(f"held back: {summary.held_back} images that the server asks nothing more of now")
    if summary.labels_withheld:
        print("labels were not sent: the server asks for none")
