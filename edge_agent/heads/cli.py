"""`collafuse edge head`: which heads this device has, one more from a file, and the way back."""

from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from edge_agent.command import Config, Json, State

if TYPE_CHECKING:
    from edge_agent.heads.store import HeadRow

app = typer.Typer(help="The heads of this device: look, install, go back.", no_args_is_help=True)


@app.command()
def status(*, config: Config = None, state: State = None, as_json: Json = False) -> None:
    """Show the heads that were delivered or installed, the last changed first."""
    import json
    from dataclasses import asdict

    from rich.console import Console
    from rich.table import Table

    from edge_agent.heads import store
    from edge_agent.settings import EdgeSettings
    from edge_agent.storage.spool import Spool
    from edge_agent.storage.state import open_state

    place = open_state(EdgeSettings.load(config, state=state).state)
    with Spool(place.spool) as spool:
        rows = store.all_of(spool)
    if as_json:
        print(json.dumps({"heads": [asdict(row) for row in rows]}))
        return
    if not rows:
        print("no head was delivered or installed: the device runs the one in its settings, if there is one")
        return
    table = Table("head", "state", "why", "bundle")
    waits = "it is tried when the trial of the other has ended" if _one_is_on_trial(rows) else ""
    for row in rows:
        why = row.detail or row.reason or (waits if row.state == "staged" else "")
        table.add_row(row.title, row.state, why, row.bundle[:12])
    Console().print(table)


@app.command()
def install(
    bundle: Annotated[Path, typer.Argument(help="The bundle made by `collafuse export head`.")],
    *,
    allow_older: Annotated[
        bool, typer.Option("--allow-older", help="Take it although its counter is not greater.")
    ] = False,
    allow_expired: Annotated[
        bool,
        typer.Option(
            "--allow-expired",
            help="Take it although it has expired; forgets the time that letters have told.",
        ),
    ] = False,
    config: Config = None,
    state: State = None,
) -> None:
    """Stage a bundle from a file; the agent tries it and takes it up, as it does one that was delivered."""
    from functools import partial

    from broker.names import split_user
    from edge_agent.heads.head_slot import HeadSlot
    from edge_agent.heads.installation import install as stage
    from edge_agent.heads.judge import Judge
    from edge_agent.settings import EdgeSettings
    from edge_agent.storage.spool import Spool
    from edge_agent.storage.state import agent_is_running, open_state

    settings = EdgeSettings.load(config, state=state)
    place = open_state(settings.state)
    client = settings.client
    if client is None and settings.broker_url is not None:
        client = split_user(settings.broker().user)[0]
    judge = Judge(client, settings.head_keys)
    with Spool(place.spool) as spool:
        HeadSlot(settings.head, admit=partial(judge.admit_own, spool)).look()
        row = stage(spool, place.heads, judge, bundle, allow_older=allow_older, allow_expired=allow_expired)
    then = "the agent tries it now" if agent_is_running(place) else "it is tried when the agent starts"
    print(f"{row.title} is staged; {then}: see `collafuse edge head status`")


@app.command()
def rollback(*, config: Config = None, state: State = None) -> None:
    """Give up the head in use for the one before it."""
    from edge_agent.heads import installation
    from edge_agent.settings import EdgeSettings
    from edge_agent.storage.spool import Spool
    from edge_agent.storage.state import open_state

    place = open_state(EdgeSettings.load(config, state=state).state)
    with Spool(place.spool) as spool:
        row = installation.roll_back(spool)
    print(f"{row.title} is given up; the agent goes back to the head before it")


def _one_is_on_trial(rows: "Iterable[HeadRow]") -> bool:
    return any(row.state == "trial" for row in rows)
