"""What the commands of this room share: their options, a sign of life while they work, and the ways to the broker."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Self

import pika
import pika.exceptions
import typer

from broker import topology
from broker.address import is_loopback
from broker.causes import in_words
from broker.errors import BrokerUnreachable
from broker.parameters import ways
from broker.settings import BROKER_URL_VARIABLE, BrokerSettings

if TYPE_CHECKING:
    from broker.management import Management

Url = Annotated[
    str | None,
    typer.Option(
        "--url",
        envvar=BROKER_URL_VARIABLE,
        show_envvar=True,
        help="amqp[s]://user:password@host:port/vhost; the private node if left out.",
    ),
]
Directory = Annotated[Path, typer.Option("--dir", help="Everything the private node has is below it.")]
Json = Annotated[bool, typer.Option("--json", help="Print one JSON object.")]
ManagementUrl = Annotated[
    str | None,
    typer.Option(
        "--management-url",
        help="Management API; port 15671 (https) or, on this machine, 15672 of the broker if left out.",
    ),
]


def declare_on(settings: BrokerSettings) -> None:
    """Declares the federation's topology on a broker, through the first of its nodes that answers.

    Raises:
        BrokerUnreachable: if there is no connection.
        TopologyMismatch: if something exists with other arguments.
    """
    try:
        with pika.BlockingConnection(ways(settings, name="collafuse broker")) as link:
            topology.declare(link.channel())
    except (pika.exceptions.AMQPError, OSError) as error:
        raise BrokerUnreachable(f"cannot use the broker at {settings}: {in_words(error)}") from error


class Status:
    """A spinner on stderr with the seconds that have passed; nothing when stderr is no terminal."""

    def __init__(self, text: str) -> None:
        # Only for whoever looks: a process that runs for months has nobody to show it to.
        from rich.console import Console  # noqa: PLC0415
        from rich.progress import Progress, SpinnerColumn, TextColumn, TimeElapsedColumn  # noqa: PLC0415

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
        """Say what is being done now."""
        self._progress.update(self._task, description=text)

    def __enter__(self) -> Self:
        self._progress.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._progress.stop()


def management_url(settings: BrokerSettings, url: str | None, directory: Path) -> str:
    """Returns where the broker's API is: what was named, the private node's, or where RabbitMQ has it by default."""
    if url is not None:
        return url
    from broker.node.local_node import find  # noqa: PLC0415

    node = find(directory) if is_loopback(settings.host) else None
    if node is not None and settings.port == node.ports.amqp:
        return node.management_url
    host = f"[{settings.host}]" if ":" in settings.host else settings.host
    return f"https://{host}:15671" if settings.tls else f"http://{host}:15672"


def management(settings: BrokerSettings, url: str | None, directory: Path) -> "Management":
    """Returns the broker's API; see `management_url`."""
    from broker.management import Management  # noqa: PLC0415  # brings httpx

    return Management.of(settings, management_url(settings, url, directory))
