"""`collafuse top`: queues, workers and fleet in a terminal, as they are now."""

import json
import signal
import threading
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from broker import command
from broker.command import Directory, ManagementUrl, Url
from broker.settings import BROKER_URL_VARIABLE, NODE_DIRECTORY, broker_settings
from monitoring.top.errors import NothingToWatch

if TYPE_CHECKING:
    from rich.console import Console

    from monitoring.top.broker_source import BrokerSource
    from monitoring.top.watch import Watch

MANAGEMENT_TIMEOUT_SECONDS = 5.0
LEAST_INTERVAL_SECONDS = 0.5

app = typer.Typer(add_completion=False)


@app.command()
def top(
    *,
    url: Url = None,
    management_url: ManagementUrl = None,
    metrics: Annotated[
        list[str] | None,
        typer.Option(
            "--metrics",
            metavar="HOST:PORT",
            help="Metrics of the exporter or of a worker, too; may be given several times.",
        ),
    ] = None,
    interval: Annotated[
        float, typer.Option("--interval", min=LEAST_INTERVAL_SECONDS, help="Seconds between two looks.")
    ] = 2.0,
    once: Annotated[
        bool, typer.Option("--once", help="Print one table and exit, as without a terminal.")
    ] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object and exit.")] = False,
    directory: Directory = NODE_DIRECTORY,
) -> None:
    """Watch queues, workers and devices until ctrl-C; it reads only, and takes no message from any queue.

    The broker's management API tells of the queues, of who reads them and of the devices. What is given with --metrics tells
    more: the exporter the age of messages and what devices report, a worker what it does. Without a broker --metrics will do.
    """
    from rich.console import Console

    from monitoring.top import view

    with _watch(url, management_url, metrics or [], directory) as watch:
        console = Console()
        if as_json:
            print(json.dumps(view.as_object(watch.look(strictly=True))))
        elif once or not console.is_terminal:
            console.print(view.rendered(watch.look(strictly=True)))
        else:
            _live(watch, interval, console)


def _live(watch: "Watch", interval_seconds: float, console: "Console") -> None:
    """Show what there is, on a screen of its own, until SIGINT or SIGTERM; the terminal is then as it was."""
    from rich.live import Live

    from monitoring.top import view

    stop = threading.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda *_: stop.set())
    with Live(console=console, screen=True, auto_refresh=False) as live:
        while not stop.is_set():
            live.update(view.rendered(watch.look()), refresh=True)
            stop.wait(interval_seconds)


@contextmanager
def _watch(
    url: str | None, management_url: str | None, metrics: list[str], directory: Path
) -> "Iterator[Watch]":
    from monitoring.top.endpoints_source import EndpointsSource
    from monitoring.top.watch import Watch

    with ExitStack() as stack:
        broker = _broker(url, management_url, directory, stack, needed=not metrics)
        endpoints = stack.enter_context(EndpointsSource(metrics)) if metrics else None
        yield Watch(broker, endpoints)


def _broker(
    url: str | None, management_url: str | None, directory: Path, stack: ExitStack, *, needed: bool
) -> "BrokerSource | None":
    """The broker that is named, or the private node; None where there is neither and it is not needed."""
    from broker.management import Management
    from broker.node.ending import how_to_find_a_broker
    from broker.node.local_node import find
    from monitoring.top.broker_source import BrokerSource

    if url is None and find(directory) is None:
        if not needed:
            return None
        to_name_one = f"name a broker with --url or {BROKER_URL_VARIABLE}, metrics with --metrics HOST:PORT"
        raise NothingToWatch(f"nothing to watch: {how_to_find_a_broker(directory, to_name_one)}")
    settings = broker_settings(url, directory)
    where = command.management_url(settings, management_url, directory)
    management = Management.of(settings, where, timeout_seconds=MANAGEMENT_TIMEOUT_SECONDS)
    return BrokerSource(stack.enter_context(management), settings.vhost)
