"""`collafuse edge simulate`: a fleet of real agents on this machine, with links that come and go."""

import re
import secrets
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Annotated, Self

import typer

from broker.command import Directory, Json, ManagementUrl, Url
from broker.settings import NODE_DIRECTORY
from edge_agent.command import CutRatio, Schedule, ScheduleSteps, print_json, say

if TYPE_CHECKING:
    from edge_agent.fleet.run import Outcome
    from edge_agent.fleet.simulation import Look, Plan

_SHAPE = re.compile(r"(\d{1,3})x(\d{1,4})x(\d{1,4})")


def simulate(
    *,
    agents: Annotated[int, typer.Option("--agents", min=1, max=5000, help="Devices.")] = 100,
    links: Annotated[
        str, typer.Option("--links", help="always, hourly, nightly, flaky, or mixed: a quarter of each.")
    ] = "mixed",
    images: Annotated[
        int, typer.Option("--images", min=0, max=100_000, help="That a device contributes, one by one.")
    ] = 4,
    duration: Annotated[
        float, typer.Option("--duration", min=0.1, help="Seconds of the simulated day, by your clock.")
    ] = 60.0,
    speedup: Annotated[
        float | None,
        typer.Option(
            "--speedup", min=1e-3, help="Simulated seconds in one of yours; left out: a day in all."
        ),
    ] = None,
    drain: Annotated[
        float, typer.Option("--drain", min=1, help="Seconds for everything to arrive when all links stand.")
    ] = 300.0,
    processes: Annotated[
        int | None,
        typer.Option("--processes", min=1, max=256, help="That the agents share; one for 125 if left out."),
    ] = None,
    seed: Annotated[int, typer.Option("--seed", min=0, help="Of links and images.")] = 0,
    shape: Annotated[str, typer.Option("--shape", help="Of an image: channels x height x width.")] = "1x8x8",
    schedule: Schedule = None,
    schedule_steps: ScheduleSteps = None,
    cut_ratio: CutRatio = None,
    head: Annotated[
        Path | None, typer.Option("--head", help="Bundle of all devices; each process loads it once.")
    ] = None,
    state: Annotated[
        Path | None, typer.Option("--state", help="Keep the devices' state directories below this folder.")
    ] = None,
    credentials: Annotated[
        Path | None,
        typer.Option("--credentials", help="Folder of enrolled devices' files, instead of enrolling some."),
    ] = None,
    keep: Annotated[bool, typer.Option("--keep", help="Leave the devices enrolled; needs --state.")] = False,
    url: Url = None,
    management_url: ManagementUrl = None,
    directory: Directory = NODE_DIRECTORY,
    log_level: Annotated[str, typer.Option("--log-level", help="Of the agents, on stderr.")] = "error",
    as_json: Json = False,
) -> None:
    """Run many real agents in a few processes, let their links come and go for a day, and account for every message.

    The devices are enrolled for the occasion by the broker's operator (--url), contribute pictures of noise, and are revoked in
    the end. Where no worker takes samples, the command stands in for the server. Use a federation of its own: a running worker
    stores the noise like any other sample.
    """
    from broker.command import management
    from broker.errors import ConfigError
    from broker.settings import broker_settings
    from edge_agent.fleet import run
    from edge_agent.fleet.links import links_of
    from edge_agent.fleet.simulation import Plan
    from monitoring.logs import configure

    configure("fleet", level=log_level)
    if keep and state is None:
        raise ConfigError("--keep needs --state: without it there is no place for what is to be kept")
    values = {"schedule": schedule, "schedule_steps": schedule_steps, "cut_ratio": cut_ratio, "head": head}
    devices = run.Devices(links_of(links, agents, seed), images, _shape(shape), values)
    plan = Plan(duration, speedup, drain, processes, log_level)
    operator = broker_settings(url, directory)
    place = run.Place(state, credentials, keep, f"sim-{secrets.token_hex(3)}")
    with (
        management(operator, management_url, directory) as api,
        _Screen(agents, plan, quiet=as_json) as screen,
    ):
        outcome = run.simulate(devices, plan, place, api, operator, screen)
    _show(outcome, as_json=as_json)
    if not outcome.drained or outcome.all.lost:
        raise typer.Exit(1)


def _shape(text: str) -> tuple[int, int, int]:
    from broker.errors import ConfigError

    found = _SHAPE.fullmatch(text)
    if found is None:
        raise ConfigError(f"{text!r} is no shape of an image: write channels, height and width as in 1x8x8")
    channels, height, width = map(int, found.groups())
    return channels, height, width


class _Screen:
    """A progress bar on stderr, when that is a terminal; what matters to somebody is said in any case."""

    def __init__(self, agents: int, plan: "Plan", *, quiet: bool) -> None:
        from rich.console import Console
        from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn

        console = Console(stderr=True)
        self._agents, self._plan = agents, plan
        columns = (TextColumn("{task.description}"), BarColumn(), TextColumn("{task.fields[facts]}"))
        self._progress = Progress(
            *columns,
            TimeElapsedColumn(),
            console=console,
            transient=True,
            disable=quiet or not console.is_terminal,
        )
        self._task = self._progress.add_task("enrolling", total=agents, facts="")

    def __enter__(self) -> Self:
        self._progress.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._progress.stop()

    def say(self, text: str) -> None:
        say(text)

    def enrolled(self, devices: int) -> None:
        self._progress.update(self._task, completed=devices)

    def look(self, look: "Look") -> None:
        waiting = sum(tally.waiting for tally in look.tallies)
        stored = sum(tally.stored for tally in look.tallies)
        in_day = look.phase == "the day"
        self._progress.update(
            self._task,
            description=look.phase,
            total=self._plan.duration_seconds if in_day else self._agents,
            completed=look.passed_seconds if in_day else look.drained,
            facts=f"{waiting} messages wait, {stored} are stored",
        )


def _show(outcome: "Outcome", *, as_json: bool) -> None:
    if as_json:
        print_json(outcome.as_json())
        return
    from rich.console import Console
    from rich.table import Table

    table = Table("links", "devices", "sent", "stored", "lost", "twice", "drained after", box=None)
    for one in outcome.accounts:
        sent = f"{one.acknowledged:,} of {one.attempted:,}"
        counts = (f"{count:,}" for count in (one.stored, one.lost, one.duplicated))
        seconds = f"{one.median_drain_seconds} s, at most {one.longest_drain_seconds} s"
        drained = f"only {one.drained_devices} are" if one.longest_drain_seconds is None else seconds
        table.add_row(one.link, f"{one.devices:,}", sent, *counts, drained)
    Console().print(table)
    answerer = "the server's workers" if outcome.answered_by == "server" else "a stand-in"
    print(
        f"{outcome.agents} agents in {outcome.processes} processes, {outcome.bytes_per_agent / 1e6:.2f} MB each beside the"
        f" program; receipts from {answerer}; {'all drained' if outcome.drained else 'NOT all drained in time'}"
    )
