"""The command `collafuse export`: make a bundle of a trained head, sign it, and look into one."""

from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from export.bundle import read_bundle
from export.delivery import cli as delivery_cli
from export.errors import ExportError

app = typer.Typer(help="Turn a trained head into a bundle for devices.", no_args_is_help=True)
app.command()(delivery_cli.publish)
app.command()(delivery_cli.rollout)


@app.callback()
def _main() -> None:
    """Turn a trained head into a bundle for devices."""


@app.command()
def head(
    checkpoint: Annotated[Path, typer.Argument(help="Head checkpoint made by head training.")],
    out: Annotated[Path, typer.Option("--out", "-o", help="The bundle to write.")],
    *,
    name: Annotated[str | None, typer.Option(help="The head's name; the client's by default.")] = None,
    version: Annotated[str | None, typer.Option(help="For people; the counter by default.")] = None,
    counter: Annotated[int, typer.Option(min=1, help="Grows with every head of this name.")] = 1,
    json: Annotated[bool, typer.Option("--json", help="Print the manifest as JSON.")] = False,
) -> None:
    """Export a trained head, compare it with the original, and write the bundle if they agree."""
    try:
        # Only here: `inspect` and the devices need none of it.
        from export.head_export import Issue, export_head
    except ImportError as error:
        raise ExportError(
            f"exporting needs {error.name}; install it with: pip install 'collafuse-edge[export]'"
        ) from error
    issue = Issue(name=name, version=version, counter=counter)
    with Console(stderr=True).status("starting") as status:
        manifest = export_head(checkpoint, out, issue=issue, on_stage=status.update)
    if json:
        print(manifest.to_bytes().decode())
        return
    worst = max(gate.step.relative_rms for gate in manifest.gates)
    print(
        f"{out}: head {manifest.name} {manifest.version} (counter {manifest.counter}), "
        f"t={manifest.t_first}..{manifest.t_cut}, {manifest.network.precision}, {out.stat().st_size} bytes, "
        f"differs from torch by at most {worst:.1e}"
    )


@app.command()
def inspect(
    bundle: Annotated[Path, typer.Argument(help="The bundle to check and describe.")],
    json: Annotated[bool, typer.Option("--json", help="Print the manifest as JSON.")] = False,
) -> None:
    """Check every byte of a bundle and say what it holds."""
    manifest = read_bundle(bundle).manifest
    if json:
        print(manifest.to_bytes().decode())
        return
    from export.description import described

    Console().print(described(manifest))
