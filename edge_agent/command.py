"""What the commands of this room have in common: options, a progress bar, one object in JSON, a word to the person."""

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any

import typer

Config = Annotated[
    Path | None,
    typer.Option("--config", help="TOML file, such as the one written by `collafuse broker enroll`."),
]
State = Annotated[
    Path | None, typer.Option("--state", help="Directory of the device (default .collafuse/edge)")
]
Json = Annotated[bool, typer.Option("--json", help="Print one JSON object.")]
CutRatio = Annotated[
    float | None, typer.Option("--cut-ratio", help="The client's share of the chain, 0..1 (default 0.2)")
]
Schedule = Annotated[str | None, typer.Option("--schedule", help="cosine or linear (default cosine)")]
ScheduleSteps = Annotated[
    int | None, typer.Option("--schedule-steps", help="T of the schedule (default 1000)")
]


@contextmanager
def bar(what: str, total: int, *, quiet: bool) -> Iterator[Any]:
    """A progress bar on stderr; yields the function that is told how much is done."""
    # Only for whoever looks: an agent that runs for months has nobody to show it to.
    from rich.console import Console  # noqa: PLC0415
    from rich.progress import Progress  # noqa: PLC0415

    console = Console(stderr=True)
    with Progress(console=console, disable=quiet or not console.is_terminal, transient=True) as progress:
        task = progress.add_task(what, total=total)
        yield lambda done: progress.update(task, completed=done)


def say(message: str) -> None:
    """Tell the person at the terminal, beside what the command prints."""
    typer.echo(message, err=True)


def print_json(value: dict[str, Any]) -> None:
    """One object on one line, for programs."""
    typer.echo(json.dumps(value))
