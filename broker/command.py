"""What the commands of this room share: their options, and a sign of life while they work."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Self

import typer
from rich.console import Console
from rich.progress import Progress, SpinnerColumn, TextColumn, TimeElapsedColumn

from broker.local_node import find
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
Directory = Annotated[Path, typer.Option("--dir", help="Everything the node has is below it.")]
Json = Annotated[bool, typer.Option("--json", help="Print one JSON object.")]
ManagementUrl = Annotated[
    str | None,
    typer.Option("--management-url", help="Management API; http://HOST:15672 of the broker if left out."),
]


class Status:
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
        """Says what is being done now."""
        self._progress.update(self._task, description=text)

    def __enter__(self) -> Self:
        self._progress.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._progress.stop()


def management_url(settings: BrokerSettings, url: str | None, directory: Path) -> str:
    """Returns where the broker's API is: what was named, the private node's, or where RabbitMQ has it by default."""
    node = find(directory)
    if url is None and node is not None and node.ports.amqp == settings.port:
        return node.management_url
    return url or f"http://{settings.host}:15672"


def management(settings: BrokerSettings, url: str | None, directory: Path) -> "Management":
    """Returns the broker's API; see `management_url`."""
    from broker.management import Management  # noqa: PLC0415  # brings httpx

    return Management(
        management_url(settings, url, directory), settings.user, settings.password.get_secret_value()
    )
