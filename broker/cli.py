"""`collafuse broker`: declare the topology, run a private node, enrol devices."""

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Self
from urllib.parse import quote

import pika
import pika.exceptions
import typer
from rich.console import Console
from rich.progress import Progress, SpinnerColumn, TextColumn, TimeElapsedColumn

from broker import dead_cli, names, topology
from broker.errors import BrokerUnreachable, ConfigError
from broker.local_node import LocalNode, NodeInfo, find
from broker.parameters import connection_parameters
from broker.settings import BROKER_URL_VARIABLE, NODE_DIRECTORY, BrokerSettings, broker_settings

if TYPE_CHECKING:
    from broker.management import Management

app = typer.Typer(help="Declare queues, run a private RabbitMQ node, enrol devices.", no_args_is_help=True)
node_app = typer.Typer(help="A private RabbitMQ node on this machine.", no_args_is_help=True)
app.add_typer(node_app, name="node")
app.add_typer(dead_cli.app, name="dead")

Url = Annotated[
    str | None,
    typer.Option(
        "--url",
        envvar=BROKER_URL_VARIABLE,
        show_envvar=True,
        help="amqp[s]://user:password@host:port/vhost; the private node if left out.",
    ),
]
Directory = Annotated[Path, typer.Option("--dir", help="Everything the node has is below it.")]
Json = Annotated[bool, typer.Option("--json", help="Print one JSON object.")]
ManagementUrl = Annotated[
    str | None,
    typer.Option("--management-url", help="Management API; http://HOST:15672 of the broker if left out."),
]
PublicUrl = Annotated[
    str | None,
    typer.Option(
        "--public-url",
        help="amqp[s]://host:port under which the new user reaches the broker, if other than --url.",
    ),
]
Out = Annotated[Path, typer.Option("--out", help="File for the credentials, readable by you alone.")]


@app.command()
def init(url: Url = None, directory: Directory = NODE_DIRECTORY, as_json: Json = False) -> None:
    """Declare exchanges, queues and bindings; safe to repeat."""
    settings = broker_settings(url, directory)
    with _Status(f"declaring the queues on {settings}"):
        declare_on(settings)
    queues = [queue.name for queue in topology.FEDERATION.queues]
    if as_json:
        print(json.dumps({"broker": str(settings), "queues": queues}))
    else:
        print(f"{settings} has the queues {', '.join(queues)}")


@app.command()
def enroll(
    client: Annotated[str, typer.Argument(help="Who owns the device.")],
    device: Annotated[str, typer.Argument(help="The device's name within the client.")],
    *,
    out: Out,
    url: Url = None,
    management_url: ManagementUrl = None,
    public_url: PublicUrl = None,
    directory: Directory = NODE_DIRECTORY,
    renew: Annotated[bool, typer.Option("--renew", help="Give an enrolled device a new password.")] = False,
) -> None:
    """Make a device's user, rights and inbox, and write the credentials it starts with."""
    from broker import identities  # brings httpx, which the other commands do without

    names.user_name(client, device)
    _check_out(out, renew)
    settings = broker_settings(url, directory)
    with (
        _Status(f"enrolling {client} {device}"),
        _management(settings, management_url, directory) as management,
    ):
        credentials = identities.enroll(
            management, client, device, address=_address(settings, public_url), renew=renew
        )
    identities.write_credentials(credentials, out, replace=renew)
    print(f"{client} {device} is enrolled; its credentials are in {out}")


@app.command("server-user")
def server_user(
    name: Annotated[str, typer.Argument(help="Name of the worker's user.")],
    *,
    out: Out,
    url: Url = None,
    management_url: ManagementUrl = None,
    public_url: PublicUrl = None,
    directory: Directory = NODE_DIRECTORY,
) -> None:
    """Make a worker's user, or give it a new password, and write its broker_url."""
    from broker import identities  # brings httpx, which the other commands do without

    settings = broker_settings(url, directory)
    with _Status(f"making the user {name}"), _management(settings, management_url, directory) as management:
        worker = identities.server_user(management, name, address=_address(settings, public_url))
    identities.write_secret(f'broker_url = "{worker.url.get_secret_value()}"\n', out, replace=True)
    print(f"{name} may work in the vhost {worker.vhost}; its broker_url is in {out}")


@node_app.command("start")
def node_start(
    directory: Directory = NODE_DIRECTORY,
    new_ports: Annotated[
        bool, typer.Option("--new-ports", help="Choose other ports than last time.")
    ] = False,
    as_json: Json = False,
) -> None:
    """Start the private node, or find it running, and declare the queues on it."""
    with _Status("starting a private RabbitMQ") as show:
        info = LocalNode(directory).start(show.update_text, new_ports=new_ports)
        show.update_text("declaring the queues")
        declare_on(BrokerSettings.from_url(info.amqp_url))
    _print_node("running", info, as_json)


@node_app.command("stop")
def node_stop(directory: Directory = NODE_DIRECTORY, as_json: Json = False) -> None:
    """Stop the private node; its data stays."""
    with _Status("stopping the private RabbitMQ"):
        stopped = LocalNode(directory).stop()
    if as_json:
        print(json.dumps({"stopped": stopped}))
    else:
        print(f"the node in {directory} was stopped" if stopped else f"no node runs in {directory}")


@node_app.command("status")
def node_status(directory: Directory = NODE_DIRECTORY, as_json: Json = False) -> None:
    """Say whether the private node runs, and where; exit 3 when it does not."""
    status = LocalNode(directory).status()
    _print_node(status.state, status.info, as_json)
    if status.info is None:
        raise typer.Exit(3)


def declare_on(settings: BrokerSettings) -> None:
    """Declares the federation's topology on a broker.

    Raises:
        BrokerUnreachable: if there is no connection.
        TopologyMismatch: if something exists with other arguments.
    """
    try:
        with pika.BlockingConnection(connection_parameters(settings, name="collafuse broker")) as link:
            topology.declare(link.channel())
    except (pika.exceptions.AMQPError, OSError) as error:
        raise BrokerUnreachable(f"cannot use the broker at {settings}: {_cause(error)}") from error


def _cause(error: Exception) -> str:
    """Says in words what pika says in class names."""
    if isinstance(error, pika.exceptions.AuthenticationError | pika.exceptions.ProbableAuthenticationError):
        return "it does not accept the user or the password"
    if isinstance(error, pika.exceptions.ProbableAccessDeniedError):
        return "the user may not enter the vhost, or there is none of that name"
    return str(error) or f"no connection ({type(error).__name__}); is it running?"


class _Status:
    """A spinner on stderr with the seconds that have passed; nothing when stderr is no terminal."""

    def __init__(self, text: str) -> None:
        console = Console(stderr=True)
        self._progress = Progress(
            SpinnerColumn(),
            TextColumn("{task.description}"),
            TimeElapsedColumn(),
            console=console,
            transient=True,
            disable=not console.is_terminal,
        )
        self._task = self._progress.add_task(text)

    def update_text(self, text: str) -> None:
        self._progress.update(self._task, description=text)

    def __enter__(self) -> Self:
        self._progress.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._progress.stop()


def _management(settings: BrokerSettings, url: str | None, directory: Path) -> "Management":
    """Returns the API of the broker: the one that was named, the private node's, or where RabbitMQ has it by default."""
    from broker.management import Management  # brings httpx

    node = find(directory)
    if url is None and node is not None and node.ports.amqp == settings.port:
        url = node.management_url
    return Management(
        url or f"http://{settings.host}:15672", settings.user, settings.password.get_secret_value()
    )


def _address(settings: BrokerSettings, public_url: str | None) -> BrokerSettings:
    """Returns the settings with scheme, host and port of `public_url`, if one was given."""
    if public_url is None:
        return settings
    scheme, separator, place = public_url.partition("://")
    if not separator or "@" in place:
        raise ConfigError("--public-url must read amqp[s]://host:port, without user or password")
    return BrokerSettings.from_url(
        f"{scheme}://nobody:nothing@{place.rstrip('/')}/{quote(settings.vhost, safe='')}"
    )


def _check_out(out: Path, replace: bool) -> None:
    """Refuses before anything is done on the broker, for a password that cannot be written is lost."""
    if out.exists() and not replace:
        raise ConfigError(f"{out} exists already: name another file")
    if not out.parent.is_dir():
        raise ConfigError(f"cannot write {out}: there is no directory {out.parent}")


def _print_node(state: str, info: NodeInfo | None, as_json: bool) -> None:
    found = (
        {}
        if info is None
        else {
            "directory": str(info.directory),
            "amqp": f"127.0.0.1:{info.ports.amqp}",
            "vhost": info.vhost,
            "management_url": info.management_url,
            "prometheus_url": info.prometheus_url,
            "pid": info.pid,
            "credentials": str(info.directory / "node.json"),
        }
    )
    if as_json:
        print(json.dumps({"state": state} | found))
        return
    print(f"state: {state}")
    for name, value in found.items():
        print(f"{name}: {value}")
