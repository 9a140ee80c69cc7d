"""`collafuse edge`: the device. Here its agent is run and asked how it stands; the rooms below have commands of their own.

Everything heavy is imported inside the commands, so that help appears at once.
"""

import os
from typing import TYPE_CHECKING, Annotated, Any

import typer

from broker.options import options_of
from edge_agent.command import Config, Json, State, print_json, say
from edge_agent.fleet.cli import simulate
from edge_agent.generation.cli import generate
from edge_agent.heads import cli as heads_cli
from edge_agent.release.cli import contribute, ledger
from edge_agent.settings import EdgeSettings
from edge_agent.training.cli import train

if TYPE_CHECKING:
    from broker.settings import BrokerSettings

app = typer.Typer(help="The device: release images once, finish pictures locally.", no_args_is_help=True)


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
    with open_spool(place, say=say) as spool:
        facts = collect(place, spool, settings)
    if as_json:
        print_json(facts)
        return
    table = Table("what", "how it stands", title=str(place.path))
    for name, value in facts.items():
        if name != "state":
            table.add_row(name, _in_words(value))
    Console().print(table)


for command in (contribute, ledger, train, generate, simulate):
    app.command()(command)
app.add_typer(heads_cli.app, name="head")


def _broker(settings: "EdgeSettings") -> "BrokerSettings":
    """Where the broker is; refuses credentials of another device than the one named."""
    from broker.errors import ConfigError
    from broker.names import user_name
    from broker.settings import BROKER_URL_VARIABLE

    broker = settings.broker()
    if settings.client and settings.device and user_name(settings.client, settings.device) != broker.user:
        origin = (
            f" of {BROKER_URL_VARIABLE}, which comes before the file,"
            if os.environ.get(BROKER_URL_VARIABLE)
            else ""
        )
        raise ConfigError(
            f"the broker URL{origin} logs in as {broker.user!r}, but client and device are {settings.client!r} and"
            f" {settings.device!r}: use the credentials file of this device"
        )
    return broker


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
