"""`collafuse deploy`: what a deployment needs before its first start."""

from pathlib import Path
from typing import Annotated

import typer

app = typer.Typer(help="What a deployment needs before its first start.", no_args_is_help=True)


@app.callback()
def deploy() -> None:
    """What a deployment needs before its first start."""


@app.command()
def init(
    directory: Annotated[
        Path, typer.Option("--directory", help="Where the secrets are; compose.yaml expects them here.")
    ] = Path("secrets"),
    host: Annotated[
        list[str] | None,
        typer.Option(
            "--host",
            help="Name or address under which devices elsewhere reach the broker; may be given again.",
        ),
    ] = None,
    renew: Annotated[
        bool,
        typer.Option("--renew", help="Make the broker's certificate anew, for its present names and --host."),
    ] = False,
    keda: Annotated[
        bool, typer.Option("--keda", help="A user of the broker for KEDA too, on Kubernetes.")
    ] = False,
) -> None:
    """Make the secrets of compose.yaml: passwords, an authority, the broker's certificate; what is there is kept."""
    from collafuse.deploy.secret_files import GRAFANA_NAME, make  # brings cryptography

    files = make(directory, host or (), renew=renew, keda=keda)
    if files.made:
        print(f"made in {directory}: {', '.join(files.made)}")
    else:
        print(f"every secret is in {directory} already, and was left as it is")
    print(f"the broker's certificate is for {', '.join(files.hosts)}; it ends on {files.expires:%Y-%m-%d}")
    print(f"Grafana's user is operator, its password in {directory / GRAFANA_NAME}")
